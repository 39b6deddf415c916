#!/usr/bin/env python3
"""Keyword spotting in long streams: precision, recall, false alarms an hour, delay, cost.

    python tools/benchmarks/listen.py --model MODEL --real DIR --write

Streams are made of clips in random order with pauses (0.2 to 1.5 s) and pink noise (25 dB below):
isolated words, sentences between them. About ten words at a time are the labels, all other words
and sentences are what must not be taken for them; each word is a label once.
  choose     synthetic speech, words and voices of the validation set: constants and threshold were
             chosen here, and nowhere else
  synthetic  synthetic speech, the test words and test voices: no word or voice in common with
             `choose`
  real       Speech Commands v0.01 words between LibriSpeech utterances (--real, see
             tools/real_speech.py); words that `choose` has too are left out
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from bench_page import machine, write_section
from listen_scenes import Counts, Said, groups, mini_clips, real_clips, scene, score

from speechcwcl.apps.listen.listener import Listener, Options
from speechcwcl.apps.listen.scoring import Scorer
from speechcwcl.models.aligner import Aligner

CORPUS = Path(__file__).resolve().parents[2] / "egs" / "mini" / "corpus"
BLOCK = 16000


class Remembering:
    """An aligner whose speech embeddings are computed once: every pass asks for the same."""

    def __init__(self, aligner: Aligner):
        self._aligner = aligner
        self._known: list[np.ndarray] = []
        self._at = 0

    def again(self) -> Remembering:
        self._at = 0
        return self

    def encode_speech(self, audio: list[np.ndarray]) -> np.ndarray:
        if self._at == len(self._known):
            self._known.append(self._aligner.encode_speech(audio))
        self._at += 1
        return self._known[self._at - 1]


def run(speech: Remembering, scorer: Scorer, wav: np.ndarray, options: Options) -> tuple:
    """The events of a stream; windows that were embedded; processor seconds."""
    listener = Listener(speech.again(), scorer, options)
    began = time.process_time()
    events = [e for at in range(0, len(wav), BLOCK) for e in listener.push(wav[at : at + BLOCK])]
    events += listener.finish()
    return events, listener.embedded, time.process_time() - began


def measure(
    aligner: Aligner, name: str, wav: np.ndarray, said: list[Said], thresholds: list[float]
) -> list[str]:
    """Rows of the table, one a threshold."""
    seconds = len(wav) / 16000
    speech = Remembering(aligner)
    sets = [(labels, Scorer(aligner, labels)) for labels in groups(said, 10)]
    _, embedded, cost = run(speech, sets[0][1], wav, Options())  # computes all embeddings
    lines = []
    for threshold in thresholds:
        counts = Counts()
        for labels, scorer in sets:
            events, _, _ = run(speech, scorer, wav, Options(threshold=threshold))
            counts += score(events, said, labels)
        hours = seconds / 3600 * len(sets)
        delays = np.array(counts.delays or [np.nan])
        cells = (
            name, f"{seconds / 60:.1f}", len(said), counts.words, f"{threshold:.2f}",
            f"{100 * counts.precision:.1f} %", f"{100 * counts.recall:.1f} %", f"{counts.f1:.3f}",
            f"{counts.false / hours:.0f}", f"{np.median(delays):.2f}",
            f"{np.percentile(delays, 95):.2f}",
            f"{100 * embedded / (seconds / Options().hop):.0f} %", f"{cost / seconds:.3f}",
        )  # fmt: skip
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def scenes(args: argparse.Namespace) -> dict[str, tuple[np.ndarray, list[Said]]]:
    """The streams that are asked for."""
    words, sentences = args.words, args.words // 3
    parts = {"choose": "valid", "synthetic": "test"}
    found = {}
    for name in args.sets:
        if name in parts:
            clips = mini_clips(CORPUS, parts[name], words, sentences, args.seed)
        elif args.real:
            chosen = {c.word for c in mini_clips(CORPUS, "valid", 10**6, 0, 0)}
            clips = real_clips(args.real, words, words // 8, args.seed)
            clips = [clip for clip in clips if clip.word not in chosen]
        else:
            print("real: left out, no --real", file=sys.stderr)
            continue
        found[name] = scene(clips, args.seed)
    return found


def main(words: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--real", type=Path, help="folder with real recordings")
    parser.add_argument("--sets", nargs="+", default=["choose", "synthetic", "real"])
    parser.add_argument("--words", type=int, default=240, help="isolated words a stream, at most")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.4, 0.5, 0.6, 0.7])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the table into the README")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    aligner = Aligner.from_pretrained(args.model)
    options = Options()
    lines = [
        f"{machine()}, one thread. Window {options.window:g} s, hop {options.hop:g} s, gate "
        f"{options.gate:g} dB; the default threshold is {options.threshold:g}.",
        "",
        f"    python tools/benchmarks/listen.py --model MODEL --real DIR --words {args.words} "
        f"--seed {args.seed} --sets {' '.join(args.sets)} "
        f"--thresholds {' '.join(map(str, args.thresholds))} --write",
        "",
        "| stream | minutes | clips | words to hear | threshold | precision | recall | F1 | "
        "false alarms an hour | delay s (median) | delay s (p95) | windows embedded | "
        "CPU s a second |",
        "|---|" + "---:|" * 12,
    ]
    for name, (wav, said) in scenes(args).items():
        lines += measure(aligner, name, wav, said, args.thresholds)
        if args.write:  # one by one: on a busy machine each takes its minutes
            write_section("listen", "## Listening for keywords", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
