"""Features of frozen layers, computed once: float16 on disk, mapped into memory.

A cache is ``<folder>/<first 16 digits of sha256(key)>/``: ``plan.json`` (which utterances each
shard holds), for each copy and shard ``c000-s00000.f16`` (frames, one after the other) with
``c000-s00000.npz`` (where each utterance's frames are), and ``meta.json``, written last. Shards
appear as a whole or not at all, so a build that was killed goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.cache.feature_builder import (
    VERSION,
    Extract,
    ManifestLike,
    fill_cache,
    place,
    read_shard_index,
    shard_name,
)
from speechcwcl.errors import UserError, closest
from speechcwcl.files import read_json

__all__ = ["Extract", "FeatureCache", "ManifestLike"]


class FeatureCache:
    """Features of every utterance of a manifest, by position; made by :meth:`build`.

    Safe to pickle and to fork (DataLoader workers).

    Attributes:
        folder: where this key's files are.
        key: what the features depend on.
        copies: variants of each utterance; 0 is the clean one, the others are augmented.
        frame_shape: shape of one frame, such as ``(layers, dim)``.
        frames: frames of all utterances of copy 0 together.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], plan: list[int]) -> None:
        self.folder, self.key = folder, str(meta["key"])
        self.copies = int(meta["copies"])
        self.frame_shape: tuple[int, ...] = tuple(meta["frame_shape"])
        self._starts = np.asarray(plan, dtype=np.int64)  # first position of each shard, then N
        # (copies, N, 2): first frame within the shard, number of frames
        self._table = np.stack([self._load_copy(c) for c in range(self.copies)])
        self._maps: dict[tuple[int, int], np.ndarray] = {}

    @classmethod
    def build(
        cls,
        folder: str | Path,
        manifest: ManifestLike,
        extract: Extract,
        key: str,
        *,
        batch_seconds: float = 120.0,
        copies: int = 1,
        shard_seconds: float = 1800.0,
        progress: bool = True,
    ) -> FeatureCache:
        """Compute what is missing, then open.

        Args:
            folder: holds caches of any number of keys.
            manifest: the utterances.
            extract: gets utterances of similar length and the copy's number.
            key: everything that the features depend on (encoder hash, cut, manifest hash,
                augmentation); another key is another cache.
            batch_seconds: longest padded batch, in seconds of audio.
            copies: at least this many variants; more may be added later.
            shard_seconds: audio in a shard; at most so much is computed again after a kill.
            progress: show a progress bar.

        Raises:
            UserError: the key was used with another manifest, the disk is full, or features
                are not finite in float16.
        """
        fill_cache(
            place(folder, key),
            manifest,
            extract,
            key,
            batch_seconds=batch_seconds,
            copies=copies,
            shard_seconds=shard_seconds,
            progress=progress,
        )
        return cls.open(folder, key)

    @classmethod
    def open(cls, folder: str | Path, key: str) -> FeatureCache:
        """Open a finished cache.

        Raises:
            UserError: there is none for this key, it is unfinished, or files of it are damaged.
        """
        target = place(folder, key)
        if not (target / "meta.json").exists():
            if (target / "plan.json").exists():
                raise UserError(f"{target}: features are not finished; run the same command again")
            others = [str(read_json(p).get("key")) for p in Path(folder).glob("*/meta.json")]
            raise UserError(f"{folder}: no features for key {key!r}{closest(key, others)}")
        meta, plan = read_json(target / "meta.json"), read_json(target / "plan.json")
        if meta.get("version") != VERSION or meta.get("key") != key:
            raise UserError(f"{target}: features of another version or key; delete this folder")
        return cls(target, meta, plan["starts"])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def lengths(self) -> np.ndarray:
        """``(N,)`` int64, frames of each utterance's clean copy."""
        return self.lengths_of(0)

    @property
    def frames(self) -> int:
        """Frames of copy 0 in all."""
        return int(self.lengths.sum())

    def lengths_of(self, copy: int) -> np.ndarray:
        """``(N,)`` int64, frames of each utterance in that copy."""
        return self._table[self._check_copy(copy), :, 1]

    def get(self, i: int, copy: int = 0) -> np.ndarray:
        """Features of the utterance at position ``i``.

        Returns:
            ``(frames, *frame_shape)`` float16, a read-only view of the mapped file.
        """
        count = len(self)
        at = int(i) + (count if i < 0 else 0)
        if not 0 <= at < count:
            raise IndexError(f"{self.folder}: no utterance {i} of {count}")
        shard = int(np.searchsorted(self._starts, at, side="right")) - 1
        first, frames = self._table[self._check_copy(copy), at].tolist()
        return self._map(copy, shard)[first : first + frames]

    def _check_copy(self, copy: int) -> int:
        if not 0 <= copy < self.copies:
            raise IndexError(f"{self.folder}: no copy {copy} of {self.copies}")
        return copy

    def _map(self, copy: int, shard: int) -> np.ndarray:
        if (copy, shard) not in self._maps:
            path = self.folder / f"{shard_name(copy, shard)}.f16"
            shape = (-1, *self.frame_shape)
            if path.stat().st_size == 0:  # nothing to map: every utterance was too short
                flat = np.empty(0, dtype=np.float16)
            else:
                flat = np.asarray(np.memmap(path, dtype=np.float16, mode="r"))
            self._maps[copy, shard] = flat.reshape(shape)
        return self._maps[copy, shard]

    def _load_copy(self, copy: int) -> np.ndarray:
        tables = []
        for shard, count in enumerate(np.diff(self._starts).tolist()):
            name = self.folder / shard_name(copy, shard)
            index = read_shard_index(name)
            data = Path(f"{name}.f16")
            fits = len(index.table) == count and index.frame_shape == self.frame_shape
            if not fits or not data.exists() or data.stat().st_size != index.bytes:
                raise UserError(f"{data}: missing or damaged; run the command that made it again")
            tables.append(index.table)
        return np.concatenate(tables)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.folder)!r}, {len(self)} utterances x {self.copies} copies)"
