"""What the corpora share: looking files up quickly, and sounds for their fakes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from speechcwcl.data.audio import SAMPLE_RATE, write_audio
from speechcwcl.data.audio.members import find_member
from speechcwcl.data.problems import Problems
from speechcwcl.errors import UserError, closest


class Listing:
    """Tells whether files exist, reading each folder once: one call a folder, not one a file."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def names(self, folder: str | Path) -> frozenset[str]:
        """The names in a folder; empty when there is no such folder."""
        key = os.fspath(folder)
        if key not in self._names:
            try:
                self._names[key] = frozenset(os.listdir(key))
            except OSError:
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
        near = closest(name, names) if len(names) <= 2000 else ""
        return f"{path} is not there{near}"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield ``(line number, line)`` of a UTF-8 file, without line ends; blank lines are left out.

    Raises:
        UserError: it cannot be read, or a line is not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8; is the file damaged?") from error
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error


def read_table(
    path: Path, needed: tuple[str, ...], problems: Problems
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield ``(line number, row)`` of a tab-separated file with a header line.

    Quotes are ordinary characters, as these corpora write them. A row with too few or too many
    columns is a problem and is not yielded.

    Raises:
        UserError: the file is empty or lacks a needed column.
    """
    lines = read_lines(path)
    header = next(lines, (1, ""))[1].split("\t")
    for name in needed:
        if name not in header:
            near = closest(name, header)
            raise UserError(f"{path}:1: no column {name!r}{near}; it has {', '.join(header)}")
    for number, line in lines:
        values = line.split("\t")
        if len(values) != len(header):
            problems.add(f"{path}:{number}: {len(values)} columns instead of {len(header)}")
        else:
            yield number, dict(zip(header, values, strict=True))


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


def write_spoken(path: Path, text: str, seed: int = 0, seconds: float = 0.0) -> None:
    """Write a made sound that its text determines (a chord with a little noise).

    Args:
        path: the suffix chooses the format.
        text: equal texts sound alike, others do not.
        seed: makes repetitions differ.
        seconds: length; 0 lets the text decide (0.4 s and 0.12 s a word).
    """
    seconds = seconds or 0.4 + 0.12 * len(text.split())
    draw = np.random.default_rng([seed, *text.encode()])
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitches = np.random.default_rng(list(text.encode()) or [0]).uniform(150, 3000, size=3)
    wave = sum(np.sin(2 * np.pi * pitch * time) for pitch in pitches) / 6
    write_audio(path, wave + 0.01 * draw.standard_normal(len(time)))
