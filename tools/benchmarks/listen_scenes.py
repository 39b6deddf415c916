"""Long streams with known words in them, made of clips: words, other speech, pauses, noise."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechcwcl.apps.listen.listener import Event
from speechcwcl.corpora.mini import Mini
from speechcwcl.data.audio import SAMPLE_RATE, load_audio
from speechcwcl.data.tables import Problems

TOLERANCE = 0.3
"""Seconds by which an event may miss the word and still be right."""


@dataclass(frozen=True)
class Clip:
    """A piece of speech; `word` is None for a sentence."""

    word: str | None
    text: str
    wav: np.ndarray


@dataclass(frozen=True)
class Said:
    """What was said when, in seconds (of the loud part of a clip)."""

    word: str | None
    text: str
    start: float
    end: float


def mini_clips(source: Path, split: str, words: int, sentences: int, seed: int) -> list[Clip]:
    """A random choice of synthetic speech: isolated words and sentences of one split."""
    draw = np.random.default_rng(seed)
    clips = []
    for name, count in ((f"{split}_words", words), (f"{split}_sentences", sentences)):
        utterances = list(Mini().utterances(source, name, Problems()))
        for index in sorted(draw.permutation(len(utterances))[:count]):
            item = utterances[index]
            word = item.text if name.endswith("words") else None
            clips.append(Clip(word, item.text, load_audio(item.audio, item.start, item.end)))
    return clips


def real_clips(data: Path, words: int, sentences: int, seed: int) -> list[Clip]:
    """A random choice of Speech Commands clips and of LibriSpeech utterances in `data`."""
    draw = np.random.default_rng(seed)
    paths = sorted((data / "gsc_v1_mini").glob("*/*.wav"))
    clips = [
        Clip(paths[i].parent.name, paths[i].parent.name, load_audio(paths[i]))
        for i in sorted(draw.permutation(len(paths))[:words])
    ]
    with (data / "librispeech_tc5_subset" / "manifest.tsv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    for index in sorted(draw.permutation(len(rows))[:sentences]):
        clips.append(Clip(None, rows[index]["text"], load_audio(data / rows[index]["path"])))
    return clips


def scene(clips: Iterable[Clip], seed: int, snr: float = 25.0) -> tuple[np.ndarray, list[Said]]:
    """Put clips one after the other, in random order, at random levels, with pauses and noise.

    Args:
        clips: what is said.
        seed: of the order, levels, pauses and noise.
        snr: dB from the mean power of the speech down to the pink noise that goes on throughout.
    """
    from scipy.signal import lfilter

    draw = np.random.default_rng(seed)
    clips = list(clips)
    parts, said, clock = [], [], 0
    for index in draw.permutation(len(clips)):
        clip = clips[index]
        pause = int(draw.uniform(0.2, 1.5) * SAMPLE_RATE)
        wav = clip.wav / (np.abs(clip.wav).max() + 1e-9) * draw.uniform(0.15, 0.7)
        parts += [np.zeros(pause), wav]
        clock += pause
        power = np.convolve(wav**2, np.ones(400) / 400, "same")
        loud = np.flatnonzero(power > 0.01 * power.max())
        start, end = ((clock + i) / SAMPLE_RATE for i in (loud[0], loud[-1]))
        said.append(Said(clip.word, clip.text, start, end))
        clock += len(wav)
    stream = np.concatenate([*parts, np.zeros(SAMPLE_RATE)])
    # White noise through the usual three-pole filter is pink to half a decibel.
    pink = lfilter(
        [0.049922035, -0.095993537, 0.050612699, -0.004408786],
        [1, -2.494956002, 2.017265875, -0.522189400],
        draw.standard_normal(len(stream)),
    )
    level = np.sqrt(np.mean(stream[stream != 0] ** 2))
    pink *= level / np.std(pink) * 10 ** (-snr / 20)
    return (stream + pink).astype(np.float32), said


def groups(said: Sequence[Said], size: int, seed: int = 0) -> Iterator[list[str]]:
    """The words of a scene in groups of about `size`: one group's labels at a time."""
    words = sorted({item.word for item in said if item.word})
    words = [words[i] for i in np.random.default_rng(seed).permutation(len(words))]
    count = max(1, round(len(words) / size))
    for first in range(count):
        yield sorted(words[first::count])


@dataclass
class Counts:
    """Right events, false alarms, words that were there to be heard, delays of the right ones."""

    right: int = 0
    false: int = 0
    words: int = 0
    delays: tuple[float, ...] = ()

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.right + other.right,
            self.false + other.false,
            self.words + other.words,
            self.delays + other.delays,
        )

    @property
    def recall(self) -> float:
        """Share of the words that were heard."""
        return self.right / max(1, self.words)

    @property
    def precision(self) -> float:
        """Share of the events that are right."""
        return self.right / max(1, self.right + self.false)

    @property
    def f1(self) -> float:
        """Harmonic mean of the two."""
        return 2 * self.right / max(1, self.right + self.false + self.words)


def score(events: Sequence[Event], said: Sequence[Said], labels: Sequence[str]) -> Counts:
    """Compare events with what was said.

    A label that a sentence contains counts neither way; a second event for one word is false.
    """
    truth = [item for item in said if item.word in labels]
    counts, taken = Counts(words=len(truth)), set()
    for event in events:
        near = [s for s in said if s.start - TOLERANCE <= event.end
                and event.start <= s.end + TOLERANCE]  # fmt: skip
        match = next((s for s in near if s.word == event.label and s not in taken), None)
        if match:
            taken.add(match)
            counts += Counts(right=1, delays=(event.decided - match.end,))
        elif not any(s.word is None and event.label in s.text.split() for s in near):
            counts += Counts(false=1)
    return counts
