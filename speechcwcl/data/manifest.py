"""The manifest: one JSON object an utterance a line; all that training and evaluation read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.data.compiling import Summary, check_audio, compile_manifest
from speechcwcl.data.manifest_index import parse_line, read_index
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest

__all__ = ["Manifest", "Summary", "check_audio", "compile_manifest"]

_KEYS = ("id", "audio", "start", "end", "duration", "text", "speaker", "labels")


class Manifest:
    """Lazily read utterances: only 12 bytes of each are in memory.

    Safe to pickle, to fork, and to read from several threads (DataLoader workers).

    Args:
        path: a ``manifest.jsonl``; keys id, audio, start, end, duration, text, speaker, labels,
            of which only id and audio must be there.

    Attributes:
        path: where it is.
        durations: ``(N,)`` float32, seconds; NaN where unknown.
        hash: sha256 of the file.

    Raises:
        UserError: it is missing, empty, or has a broken line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        index = read_index(self.path)
        self.durations: np.ndarray = index.durations
        self.hash: str = index.hash
        self._offsets = index.offsets
        self._size = self.path.stat().st_size
        self._file: int | None = None
        self._ids: list[str] | None = None

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, i: int) -> Utterance:
        """The utterance at position ``i`` (negative counts from the end)."""
        count = len(self)
        at = int(i) + (count if i < 0 else 0)
        if not 0 <= at < count:
            raise IndexError(f"{self.path}: no utterance {i} of {count}")
        start = int(self._offsets[at])
        end = int(self._offsets[at + 1]) if at + 1 < count else self._size
        raw = os.pread(self._descriptor(), end - start, start)
        return self._utterance(raw, at + 1)

    def __iter__(self) -> Iterator[Utterance]:
        with self.path.open("rb") as stream:
            for number, raw in enumerate((line for line in stream if line.strip()), 1):
                yield self._utterance(raw, number)

    @property
    def ids(self) -> list[str]:
        """The ids in order; read once, on first use."""
        if self._ids is None:
            self._ids = [utterance.id for utterance in self]
        return self._ids

    @property
    def seconds(self) -> float:
        """Length of all utterances together, in seconds."""
        return float(np.nansum(self.durations, dtype=np.float64))

    def _descriptor(self) -> int:
        if self._file is None:
            try:
                self._file = os.open(self.path, os.O_RDONLY)
            except OSError as error:
                raise UserError(f"{self.path}: cannot read: {error.strerror}") from error
        return self._file

    def _utterance(self, raw: bytes, number: int) -> Utterance:
        value: dict[str, Any] = parse_line(raw, self.path, number)
        try:
            utterance = Utterance(**value)
        except TypeError:
            unknown = next(key for key in value if key not in _KEYS)
            raise UserError(
                f"{self.path}:{number}: unknown key {unknown!r}{closest(unknown, _KEYS)}"
            ) from None
        utterance.labels = utterance.labels or {}
        utterance.speaker = utterance.speaker or utterance.id
        return utterance

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __del__(self) -> None:
        descriptor = getattr(self, "_file", None)
        if descriptor is not None:
            os.close(descriptor)

    def __repr__(self) -> str:
        return f"Manifest({str(self.path)!r}, {len(self)} utterances)"
