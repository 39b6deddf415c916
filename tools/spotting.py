#!/usr/bin/env python3
"""Keywords in long recordings: recall by false alarms an hour, with 0, 1, 4 and 16 examples.

Labels are taken by their text, and by their sound as hibari says them, without flite and with it.

DATA is what tools/make_spotting_sets.py wrote. The model runs as `listen` runs it: ONNX, 8-bit
weights, one thread. Embedded windows are kept in DATA/windows, so that a second run is quick.
Prints the table; --write puts it into tools/benchmarks/README.md.

Examples:
    tools/spotting.py --data data --set spot_test --write
    tools/spotting.py --data data --set spot_valid --fit    # the constants of keywords.py
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from bench_page import machine, write_section

import speechcwcl
from speechcwcl.data.audio import SAMPLE_RATE, load_audio
from speechcwcl.data.kaldi import read_datadir
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.evaluation.spotting import (
    TARGETS,
    WAYS,
    Recording,
    evaluate_spotting,
    judge,
    only,
    open_recordings,
)
from speechcwcl.zeroshot import voices
from speechcwcl.zeroshot.enrolment import read_examples
from speechcwcl.zeroshot.keywords import Keywords
from speechcwcl.zeroshot.protocol import Protocol, load_protocol

RECIPE = Path(__file__).resolve().parents[1] / "egs/release/cwcl1/protocols"
SHOTS = (0, 1, 4, 16)
SHOWN = {"ordinary": TARGETS, "alone": (0.5, 5.0), "together": (0.5, 5.0)}
TEXT = "text"
SOUND = {"sound, hibari": (), "sound, hibari and flite": voices.FLITE}


def some(examples: dict[str, list[str]], protocol: Protocol, count: int) -> dict[str, list[str]]:
    """The first clips of each label of the protocol."""
    kept = {label: clips[:count] for label, clips in examples.items() if label in protocol.labels}
    return kept if count else {}


def protocols(utterances: list[Utterance]) -> list[Protocol]:
    """Wake phrases; and command words, or on the validation set the corpus' other words."""
    wake, commands = (load_protocol(RECIPE / f"spot_{n}.yaml") for n in ("wake", "commands"))
    said = {u.labels["label"] for u in utterances} - {"_other_"}
    if not set(commands.labels) <= said:
        words = sorted(said - set(wake.labels) - set(commands.labels))
        labels = {word: (word,) for word in words}
        commands = Protocol("other_words", labels, task="spotting")
    there = [(p, {k: v for k, v in p.labels.items() if k in said}) for p in (wake, commands)]
    return [replace(protocol, labels=labels) for protocol, labels in there]


def row(name: str, by: str, clips: str, scores: dict[str, Any]) -> str:
    """A line of the table."""
    cells = [name, by, clips, str(scores["n"])]
    for way in WAYS:
        for one in scores[way]["recall"]:
            if one["per_hour"] not in SHOWN[way]:
                continue
            low, high = one["interval"]
            cells.append(f"{100 * one['recall']:.1f} ({100 * low:.0f} to {100 * high:.0f})")
    first = scores["set"][0]
    for way in ("ordinary", "together"):
        cells.append(f"{100 * first[f'{way}_recall']:.1f} at {first[f'{way}_per_hour']:.2f}")
    cells.append("{median:.2f} ({p95:.2f})".format(**scores["latency"]))
    return "| " + " | ".join(cells) + " |"


def page(args: argparse.Namespace, lines: list[str], hours: float) -> str:
    """The table with its command."""
    rates = [f"{way}, {t:g}/h" for way in WAYS for t in SHOWN[way]]
    header = [
        "labels",
        "by",
        "examples of each",
        "keywords",
        *rates,
        "set for 0.5/h, ordinary",
        "set for 0.5/h, together",
        "latency, s",
    ]
    return "\n".join([
        f"{machine()}; {args.model} as ONNX with 8-bit weights, {hours:.2f} hours of `{args.set}`.",
        "",
        f"    python tools/spotting.py --data data --set {args.set} --write", "",
        "| " + " | ".join(header) + " |", "|" + "---|" * len(header), *lines,
    ])  # fmt: skip


def false(
    model: Any, recordings: list[Recording], found: list[tuple[Keywords, Protocol]]
) -> tuple[float, float]:
    """FALSE of keywords.py: the share of other single words by z, one label's part of it."""
    clips, words = [], []
    for recording in recordings:
        wav = load_audio(recording.said[0].audio)
        for said in recording.said:
            if said.labels["label"] != "_other_":
                clips.append(wav[int(said.start * SAMPLE_RATE) : int(said.end * SAMPLE_RATE)])
                words.append(said.labels["label"])
    speech, shares = model.encode_speech(clips), np.array([0.2, 0.1, 0.05, 0.02])
    levels = []
    for keywords, _ in found:
        other = speech[~np.isin(words, keywords.labels)]
        best = keywords.z(other).max(axis=1)
        levels.append([np.quantile(best, 1 - share) for share in shares])
    per_label = [np.log10(shares / len(keywords.labels)) for keywords, _ in found]
    slope, start = np.polyfit(np.mean(levels, axis=0), np.mean(per_label, axis=0), 1)
    return start, -slope


def fit(recordings: list[Recording], found: list[tuple[Keywords, Protocol]]) -> str:
    """RATE and SURE of keywords.py: false alarms by z of one label, and the logistic of events.

    The rate is that of each label by itself in ordinary speech; events are of all labels at once.
    """
    from scipy.optimize import minimize

    right, false, events, hours = [], [], [], 0.0
    for keywords, protocol in found:
        judged = judge(recordings, keywords, protocol)
        right.append(judged.right[judged.right > -np.inf])
        events.append(judged.false)
        for number in range(len(keywords.labels)):
            one = judge(recordings, only(keywords, number), protocol).ordinary
            false.append(one.false)
            hours += one.hours
    yes, wrong = np.concatenate(right), np.concatenate(events)
    no = np.sort(np.concatenate(false))[::-1]
    rates = np.array([20.0, 10, 5, 2, 1, 0.5, 0.25])
    levels = np.array([no[min(len(no) - 1, int(rate * hours))] for rate in rates])
    slope, start = np.polyfit(levels, np.log10(rates), 1)

    def loss(x: np.ndarray) -> float:
        a, b = x[1] * (yes - x[0]), x[1] * (wrong - x[0])
        return float(np.logaddexp(0, -a).mean() + np.logaddexp(0, b).mean())

    sure = minimize(loss, [3.0, 1.0], method="Nelder-Mead").x
    return (
        f"RATE = ({start:.2f}, {-slope:.2f}); SURE = ({sure[0]:.2f}, {sure[1]:.2f}); "
        f"{hours:.1f} hours of one label; z at {rates.tolist()} an hour: {levels.round(2).tolist()}"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="of make_spotting_sets.py")
    parser.add_argument("--set", default="spot_test")
    parser.add_argument("--model", default="en-tiny")
    parser.add_argument("--recordings", type=int, help="only the first so many")
    parser.add_argument("--fit", action="store_true", help="print constants, not the table")
    parser.add_argument("--write", action="store_true", help="write the table into the benchmarks")
    args = parser.parse_args()
    try:
        model = speechcwcl.load(args.model, onnx=True, int8=True, threads=1)
        utterances = read_datadir(args.data / args.set)
        if args.recordings:
            kept = sorted({u.audio for u in utterances})[: args.recordings]
            utterances = [u for u in utterances if u.audio in kept]
        examples, cache = read_examples(args.data / "enrol"), args.data / "windows"
        lines, found, hours = [], [], 0.0
        for protocol, by, shots in itertools.product(protocols(utterances), (TEXT, *SOUND), SHOTS):
            given = some(examples, protocol, shots)
            clips = [len(given.get(label, [])) for label in protocol.labels]
            if shots and max(clips) <= SHOTS[SHOTS.index(shots) - 1]:
                continue  # there are no more clips than in the line before
            spoken = by != TEXT
            voices.FLITE = SOUND.get(by, ())
            if args.fit:
                keywords = model.enrol(protocol.labels, given, protocol.templates, spoken=spoken)
                found.append((keywords, protocol))
                continue
            out = args.data / "scores" / args.set / f"{protocol.name}-{by}-{shots}"
            scores = evaluate_spotting(model, utterances, protocol, out, cache, given, spoken)
            name = str(min(clips)) if len(set(clips)) == 1 else f"{min(clips)} to {max(clips)}"
            lines.append(row(protocol.name, by, name, scores))
            print(lines[-1], file=sys.stderr, flush=True)
            hours = scores["hours"]
        if args.fit:
            recordings = open_recordings(model, utterances, cache)
            start, slope = false(model, recordings, found)
            print(f"FALSE = ({start:.2f}, {slope:.2f}); {fit(recordings, found)}")
            return 0
        text = page(args, lines, hours)
        print(text)
        if args.write:
            write_section("spotting", "## Keywords in long recordings", text)
        return 0
    except UserError as error:
        print(f"spotting: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
