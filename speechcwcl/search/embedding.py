"""Embedding many recordings piece by piece, handed on in commits of whole recordings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from speechcwcl.errors import UserError
from speechcwcl.search.recordings import Cutting, Recording, pieces
from speechcwcl.search.table import Entry

# Audio (s) that is embedded at a time, and after which a commit is due: an interrupted update
# loses little more. The second is for folders of very short recordings.
COMMIT_SECONDS = 240.0
_COMMIT_FILES = 512


class Embedder(Protocol):
    """What an update needs of a model; :class:`~speechcwcl.models.aligner.Aligner` has it."""

    dim: int

    def encode_speech(self, audio: Sequence[np.ndarray]) -> np.ndarray: ...


class _Waiting:
    """Pieces that are decoded and not embedded yet, and rows of recordings not handed on yet."""

    def __init__(self, embedder: Embedder):
        self._embedder = embedder
        self._waves: list[tuple[str, np.ndarray]] = []
        self._rows: dict[str, list[np.ndarray]] = {}
        self._seconds = 0.0

    def add(self, name: str, wave: np.ndarray, seconds: float) -> None:
        self._waves.append((name, wave))
        self._seconds += seconds
        if self._seconds >= COMMIT_SECONDS:
            self.embed()

    def embed(self) -> None:
        if self._waves:
            vectors = self._embedder.encode_speech([wave for _, wave in self._waves])
            for (name, _), row in zip(self._waves, vectors, strict=True):
                self._rows.setdefault(name, []).append(row)
        self._waves, self._seconds = [], 0.0

    def drop(self, name: str) -> None:
        self._waves = [(owner, wave) for owner, wave in self._waves if owner != name]
        self._rows.pop(name, None)

    def take(self, name: str) -> np.ndarray:
        return np.stack(self._rows.pop(name))


def embed_recordings(
    embedder: Embedder, root: Path, todo: Sequence[Recording], cutting: Cutting
) -> Iterator[list[Entry]]:
    """Yield entries for :meth:`~speechcwcl.search.table.Table.put`, a commit's worth at a time.

    Args:
        embedder: the model.
        root: folder of the recordings.
        todo: which.
        cutting: how long ones are cut.
    """
    waiting = _Waiting(embedder)
    broken: list[Entry] = []
    ready: list[tuple[Recording, list[tuple[float, float]]]] = []
    pending = 0.0

    def finish() -> list[Entry]:
        waiting.embed()
        return broken + [(r, times, waiting.take(r.name)) for r, times in ready]

    for recording in todo:
        times: list[tuple[float, float]] = []
        try:
            for start, end, wave in pieces(root / recording.name, cutting):
                times.append((start, end))
                waiting.add(recording.name, wave, end - start)
            ready.append((recording, times))
            pending += times[-1][1]
        except UserError as error:
            waiting.drop(recording.name)
            broken.append((recording, [], str(error)))
        if pending >= COMMIT_SECONDS or len(ready) + len(broken) >= _COMMIT_FILES:
            yield finish()
            broken, ready, pending = [], [], 0.0
    if ready or broken:
        yield finish()
