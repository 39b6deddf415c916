"""What the corpora share: looking files up quickly, and sounds for their fakes."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from speechcwcl.data.audio import SAMPLE_RATE, write_audio
from speechcwcl.data.audio.opening import find_member
from speechcwcl.errors import UserError, closest
from speechcwcl.files import atomic_write


class Listing:
    """Tells whether files exist, reading each folder once: one call a folder, not one a file."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def names(self, folder: str | Path) -> frozenset[str]:
        """The names in a folder but hidden ones; empty when there is no such folder."""
        key = os.fspath(folder)
        if key not in self._names:
            try:
                names = os.listdir(key)
                self._names[key] = frozenset(n for n in names if not n.startswith("."))
            except (OSError, ValueError):  # the latter for a name that no file can have
                self._names[key] = frozenset()
        return self._names[key]

    def has(self, path: str | Path) -> bool:
        """Whether there is something at ``path``; of a clip in a shard, whether the shard is."""
        member = find_member(os.fspath(path))
        folder, name = os.path.split(member.tar if member else os.fspath(path))
        return name in self.names(folder)

    def missing(self, path: str | Path) -> str:
        """One phrase for a file that is not there, with the closest name beside it."""
        folder, name = os.path.split(os.fspath(path))
        names = self.names(folder)
        if not names:
            return f"{path} is not there: its folder is missing or empty"
        if len(names) > 2000:  # a search for every missing file would take for ever
            return f"{path} is not there"
        for other in () if name.isascii() else names:
            if _composed(other) == _composed(name):
                return f"{path} is not there, but {ascii(other)} is: the same letters, composed"
        return f"{path} is not there{closest(name, names)}"


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def find_folder(source: Path, marks: tuple[str, ...], places: tuple[str, ...], what: str) -> Path:
    """The first of ``source`` and its sub-folders ``places`` that holds one of ``marks``, resolved.

    Raises:
        UserError: none does; the message says what was looked for and what is there.
    """
    for place in ("", *places):
        folder = source / place
        if any((folder / mark).exists() for mark in marks):
            return folder.resolve()
    found = ", ".join(sorted(p.name for p in source.iterdir())[:6]) or "nothing"
    raise UserError(
        f"{source}: not {what}: expected {' or '.join(marks)} in it, found {found}; "
        "give the folder that the archive was extracted to"
    )


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a list of a fake corpus."""
    with atomic_write(path) as stream:
        stream.writelines(f"{line}\n" for line in lines)


def write_spoken(path: Path, text: str, seed: int = 0, seconds: float = 0.0) -> None:
    """Write a synthetic sound that its text determines.

    Args:
        path: the suffix chooses the format.
        text: equal texts sound alike, others do not.
        seed: makes repetitions differ.
        seconds: length; 0 lets the text decide (0.4 s and 0.12 s a word).
    """
    seconds = seconds or 0.4 + 0.12 * len(text.split())
    write_audio(path, chord(text, seconds, np.random.default_rng([seed, *text.encode()])))


def chord(text: str, seconds: float, draw: np.random.Generator) -> np.ndarray:
    """A chord that the text determines, with a little noise: learnable, and no two alike."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitches = np.random.default_rng(list(text.encode()) or [0]).uniform(150, 3000, size=3)
    wave = sum(np.sin(2 * np.pi * pitch * time) for pitch in pitches) / 6
    return wave + 0.01 * draw.standard_normal(len(time))
