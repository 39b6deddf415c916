#!/usr/bin/env python3
"""Make long recordings with known keywords in them, for the spotting protocols of `evaluate`.

DIR holds LibriSpeech, LJSpeech, Speech Commands and wake phrases, as for
tools/make_release_sets.py. Sentences are read one after the other with short pauses; between them
stand ten command words and six wake phrases. Written under OUT, each a data folder with segments:
  spot_valid    chooses: half of the speakers and files, as egs/release has them
  spot_test     never chooses: the other halves
  ordinary      sentences of six readers that are in neither: tools/box_background.py
  enrol         clips to enrol from, one folder a label, none of them in spot_test; of the halves
                that choose

The readers that train the model in the box are ordinary speech here too, in one of the three sets.

Example:
  tools/make_spotting_sets.py --data DIR --out data
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from cut_speech import sentences
from make_release_sets import half, wake_phrases
from mini_corpus.voices import rng_for
from real_speech import words
from tqdm import tqdm

from speechcwcl.corpora.base import write_datadir
from speechcwcl.data.audio import SAMPLE_RATE, load_audio, write_audio
from speechcwcl.data.effects import coloured_noise
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
PHRASES = ("amelia", "athena", "computer", "hey savant", "hey vermont", "i want")
BACKGROUND = ("332", "1737", "1898", "3242", "3664", "5789")  # of the half that chooses
MOST = 40  # clips of one label and half
EXAMPLES = 16
MINUTES = 10.0  # of a recording
NOISE = 10 ** (-60 / 20)  # pink, throughout: a pause is never digital silence


def spoken(data: Path) -> Iterator[Utterance]:
    """The clips of keywords."""
    for utterance in words(data):
        utterance.labels["half"] = half(utterance.speaker)
        if utterance.text in COMMANDS or utterance.labels["half"] == "valid":
            yield utterance
    for utterance in wake_phrases(data):
        if utterance.text in PHRASES:
            utterance.labels["half"] = half(utterance.id)
            yield utterance


def keywords(data: Path) -> tuple[dict[str, list[Utterance]], dict[str, list[Utterance]]]:
    """Clips to be heard, by half; and clips to enrol from, by label.

    Of the half that chooses, some are kept to enrol from, at most half of those there are. There
    are too few of each command word: all those of the ten are enrolled from, and it is on the
    corpus' other twenty words that a choice is made.
    """
    groups: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    for utterance in spoken(data):
        groups[utterance.text or "", utterance.labels["half"]].append(utterance)
    heard: dict[str, list[Utterance]] = {"valid": [], "test": []}
    enrolled = {}
    for (text, part), clips in sorted(groups.items()):
        clips.sort(key=lambda u: rng_for(0, "spotting", u.id).random())
        if part == "valid":
            count = min(EXAMPLES, len(clips) // (1 if text in COMMANDS else 2))
            enrolled[text], clips = clips[:count], clips[count:]
        heard[part] += clips[:MOST]
    return heard, enrolled


def ordinary(data: Path) -> dict[str, list[Utterance]]:
    """Read sentences by half: speakers, and LJSpeech (one reader) by recording; and those of
    `BACKGROUND`."""
    found: dict[str, list[Utterance]] = {"valid": [], "test": [], "background": []}
    for utterance in sentences(data):
        part = utterance.labels["part"]
        if part == "train":
            part = half(utterance.id if utterance.speaker == "LJ" else utterance.speaker)
        found["background" if utterance.speaker in BACKGROUND else part].append(utterance)
    return found


def recordings(said: Iterable[Utterance], out: Path, prefix: str, bar: tqdm) -> Iterator[Utterance]:
    """Write clips one after the other, and give where each of them is."""
    rng = np.random.default_rng(0)
    pink = coloured_noise(1 << 20, 1.0, rng)
    parts: list[np.ndarray] = []
    placed: list[tuple[Utterance, float, float]] = []
    clock, number = 0, 0

    def close() -> Iterator[Utterance]:
        path = out / f"{prefix}-{number:02d}.flac"
        wav = np.concatenate(parts)
        noise = np.resize(pink, len(wav))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, np.clip(wav + NOISE * noise / pink.std(), -1, 1).astype(np.float32))
        for clip, start, end in placed:
            label = clip.labels.get("label", "")
            yield Utterance(
                f"{prefix}-{number:02d}-{round(start * 100):06d}", str(path.resolve()), clip.text,
                clip.speaker, start=round(start, 3), end=round(end, 3),
                labels={"label": label or "_other_"},
            )  # fmt: skip

    for clip in said:
        wav = load_audio(clip.audio)
        pause = np.zeros(int(rng.uniform(0.3, 1.0) * SAMPLE_RATE), dtype=np.float32)
        parts += [pause, wav]
        clock += len(pause)
        placed.append((clip, clock / SAMPLE_RATE, (clock + len(wav)) / SAMPLE_RATE))
        clock += len(wav)
        bar.update()
        if clock > MINUTES * 60 * SAMPLE_RATE:
            yield from close()
            parts, placed, clock, number = [], [], 0, number + 1
    if placed:
        yield from close()


def mixed(sentences: list[Utterance], keywords: list[Utterance]) -> list[Utterance]:
    """Keywords spread evenly among the sentences, both in a fixed random order."""

    def order(utterance: Utterance) -> float:
        return rng_for(0, "stream", utterance.id).random()

    sentences, keywords = sorted(sentences, key=order), sorted(keywords, key=order)
    places = np.linspace(0, len(sentences), len(keywords), endpoint=False).astype(int)
    made: list[Utterance] = []
    for index, sentence in enumerate(sentences):
        made += [keywords[k] for k in np.flatnonzero(places == index)]
        made.append(sentence)
    return made


def main(argv: list[str] | None = None) -> int:
    """Run; exit code 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the recordings")
    parser.add_argument("--out", type=Path, required=True, help="data folders go here")
    args = parser.parse_args(argv)
    try:
        heard, enrolled = keywords(args.data)
        read = ordinary(args.data)
        for part in ("valid", "test"):
            said = mixed(read[part], heard[part])
            with tqdm(total=len(said), desc=f"spot_{part}", unit="clip", disable=None) as bar:
                audio = args.out / "spotting"
                rows = list(recordings(said, audio, f"spot_{part}", bar))
            write_datadir(args.out / f"spot_{part}", rows, corpus={"name": f"spot_{part}"})
        corpus = {"name": "ordinary"}
        write_datadir(args.out / "ordinary", read["background"], corpus=corpus)
        for text, clips in enrolled.items():
            for number, clip in enumerate(clips):
                folder = args.out / "enrol" / text.replace(" ", "_")
                folder.mkdir(parents=True, exist_ok=True)
                write_audio(folder / f"{number:02d}.wav", load_audio(clip.audio))
        return 0
    except UserError as error:
        print(f"make_spotting_sets: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
