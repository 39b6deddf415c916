"""Features of frozen layers, computed once: float16 on disk, mapped into memory.

A cache is `<folder>/<first 16 digits of sha256(key)>/`: `plan.json` (which utterances each
shard holds), for each copy and shard `c000-s00000.f16` (frames, one after the other) with
`c000-s00000.npz` (where each utterance's frames are), and `meta.json`, written last. Shards
appear as a whole or not at all, so a killed build resumes.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm
from typing_extensions import TypedDict

from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest
from speechcwcl.files import atomic_path, atomic_write, lock, read_json, write_json

if TYPE_CHECKING:
    from speechcwcl.data.manifest import Manifest

_VERSION = 1
_UNKNOWN_SECONDS = 10.0
_AHEAD = 2  # batches under way at a time
_log = logging.getLogger(__name__)

Extract = Callable[[list[Utterance], int], Sequence[np.ndarray]]
"""`extract(utterances, copy)` returns one `(frames, ...)` float array an utterance. It is
called from two threads, so that one batch is decoded while another is encoded."""


class _Plan(TypedDict):
    key: str
    manifest: str
    starts: list[int]  # first position of each shard, then the number of utterances


class _Meta(TypedDict):
    version: int
    key: str
    copies: int
    frame_shape: list[int]


class _Index(NamedTuple):
    """`table` `(n, 2)` int64: first frame within the shard and frames of each utterance."""

    table: np.ndarray
    frame_shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of the shard's float16 file."""
        width = 2 * int(np.prod(self.frame_shape, dtype=np.int64))
        return int(self.table[:, 1].sum()) * width


class FeatureCache:
    """Features of every utterance of a manifest, by position; made by `build`.

    Safe to pickle and to fork (DataLoader workers).

    Attributes:
        folder: where this key's files are.
        key: what the features depend on.
        copies: variants of each utterance; 0 is the clean one, the others are augmented.
        frame_shape: shape of one frame, such as `(layers, dim)`.
    """

    def __init__(self, folder: Path, meta: _Meta, starts: list[int]) -> None:
        self.folder, self.key, self.copies = folder, meta["key"], meta["copies"]
        self.frame_shape = tuple(meta["frame_shape"])
        self._starts = np.asarray(starts, dtype=np.int64)
        # (copies, N, 2): first frame within the shard, number of frames
        self._table = np.stack([self._load_copy(c) for c in range(self.copies)])
        self._maps: dict[tuple[int, int], np.ndarray] = {}

    @classmethod
    def build(
        cls,
        folder: str | Path,
        manifest: Manifest,
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
            extract: gets utterances of similar length and the copy's number.
            key: everything that the features depend on (encoder hash, cut, manifest hash,
                augmentation); another key is another cache.
            copies: at least this many variants; more may be added later.
            shard_seconds: audio in a shard; at most so much is computed again after a kill.

        Raises:
            UserError: the key was used with another manifest, the disk is full, or features
                are not finite in float16.
        """
        target = _place(folder, key)

        def waiting() -> None:
            _log.warning("%s: another process fills this cache; waiting for it", target)

        with lock(target / "lock", waiting):
            builder = _Builder(target, manifest, extract, key, shard_seconds, batch_seconds)
            builder.run(copies, progress)
        return cls.open(folder, key)

    @classmethod
    def open(cls, folder: str | Path, key: str) -> FeatureCache:
        """Open a finished cache.

        Raises:
            UserError: there is none for this key, it is unfinished, or files of it are damaged.
        """
        target = _place(folder, key)
        if not (target / "meta.json").exists():
            if (target / "plan.json").exists():
                raise UserError(f"{target}: features are not finished; run the same command again")
            metas = Path(folder).glob("*/meta.json")
            near = closest(key, [str(read_json(path, dict).get("key")) for path in metas])
            raise UserError(f"{folder}: no features for key {key!r}{near}")
        meta = read_json(target / "meta.json", _Meta)
        if meta["version"] != _VERSION or meta["key"] != key or meta["copies"] < 1:
            raise UserError(f"{target}: features of another version or key; delete this folder")
        return cls(target, meta, _read_plan(target)["starts"])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def get(self, i: int, copy: int = 0) -> np.ndarray:
        """Features of the utterance at position `i`.

        Returns:
            `(frames, *frame_shape)` float16, a read-only view of the mapped file.
        """
        count = len(self)
        at = int(i) + (count if i < 0 else 0)
        if not 0 <= at < count:
            raise IndexError(f"{self.folder}: no utterance {i} of {count}")
        shard = int(np.searchsorted(self._starts, at, side="right")) - 1
        if not 0 <= copy < self.copies:
            raise IndexError(f"{self.folder}: no copy {copy} of {self.copies}")
        first, frames = self._table[copy, at].tolist()
        return self._map(copy, shard)[first : first + frames]

    def _map(self, copy: int, shard: int) -> np.ndarray:
        if (copy, shard) not in self._maps:
            path = Path(f"{self.folder / _shard_name(copy, shard)}.f16")
            if path.stat().st_size == 0:  # nothing to map: every utterance was too short
                flat = np.empty(0, dtype=np.float16)
            else:
                flat = np.asarray(np.memmap(path, dtype=np.float16, mode="r"))
            self._maps[copy, shard] = flat.reshape(-1, *self.frame_shape)
        return self._maps[copy, shard]

    def _load_copy(self, copy: int) -> np.ndarray:
        tables = []
        for shard, count in enumerate(np.diff(self._starts).tolist()):
            name = self.folder / _shard_name(copy, shard)
            index = _read_index(name)
            if index is None or len(index.table) != count or index.frame_shape != self.frame_shape:
                raise UserError(f"{name}: missing or damaged; run the command that made it again")
            tables.append(index.table)
        return np.concatenate([np.zeros((0, 2), np.int64), *tables])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.folder)!r}, {len(self)} utterances x {self.copies} copies)"


@dataclass
class _Builder:
    """Fills the shards that are missing in one key's folder."""

    target: Path
    manifest: Manifest
    extract: Extract
    key: str
    shard_seconds: float
    batch_seconds: float
    frame_shape: tuple[int, ...] | None = None
    _room_checked: bool = False

    def __post_init__(self) -> None:
        durations = np.asarray(self.manifest.durations, float)
        self.seconds = np.nan_to_num(durations, nan=_UNKNOWN_SECONDS)
        self.starts = self._make_plan()

    def _make_plan(self) -> list[int]:
        """First position of each shard, then their number; an earlier run's plan is kept."""
        if (self.target / "plan.json").exists():
            plan = _read_plan(self.target)
            if plan["manifest"] != self.manifest.hash:
                raise UserError(
                    f"{self.target}: made for another manifest under the same key; delete this "
                    "folder (or put the manifest's hash into the key)"
                )
            return plan["starts"]
        shards = np.floor((np.cumsum(self.seconds) - self.seconds) / self.shard_seconds)
        firsts = np.flatnonzero(np.diff(shards.astype(np.int64), prepend=-1))
        starts = [*firsts.tolist(), len(self.manifest)]
        plan = {"key": self.key, "manifest": self.manifest.hash, "starts": starts}
        write_json(self.target / "plan.json", plan)
        return starts

    def run(self, copies: int, progress: bool) -> None:
        """Compute every shard that is not there, then write what makes the cache valid."""
        todo = []
        for copy, shard in itertools.product(range(copies), range(len(self.starts) - 1)):
            index = _read_index(self.target / _shard_name(copy, shard))
            if index is None:  # or damaged
                todo.append((copy, shard))
            elif self.frame_shape is None:
                self.frame_shape = index.frame_shape
        left = sum(float(self._shard_seconds(shard).sum()) for _, shard in todo)
        total = copies * float(self.seconds.sum())
        with tqdm(
            total=round(total), initial=round(total - left), unit="s", desc="features",
            disable=not progress or not todo,
        ) as bar:  # fmt: skip
            for copy, shard in todo:
                self._fill(copy, shard, left, bar)
                left -= float(self._shard_seconds(shard).sum())
        self._finish(copies)

    def _finish(self, copies: int) -> None:
        path, shape = self.target / "meta.json", list(self.frame_shape or ())
        if path.exists():
            known = read_json(path, _Meta)
            if known["frame_shape"] != shape:
                was = tuple(known["frame_shape"])
                raise UserError(
                    f"{self.target}: frames are {tuple(shape)} now, were {was}; delete it"
                )
            copies = max(copies, known["copies"])
        meta = {"version": _VERSION, "key": self.key, "copies": copies, "frame_shape": shape}
        write_json(path, {**meta, "manifest": self.manifest.hash, "utterances": len(self.manifest)})

    def _shard_seconds(self, shard: int) -> np.ndarray:
        return self.seconds[self.starts[shard] : self.starts[shard + 1]]

    def _fill(self, copy: int, shard: int, left: float, bar: tqdm) -> None:
        """Compute one shard; `left` is how many seconds are still to be computed in all."""
        first, last = self.starts[shard], self.starts[shard + 1]
        table, at = np.zeros((last - first, 2), dtype=np.int64), 0
        name = self.target / _shard_name(copy, shard)
        with atomic_path(f"{name}.f16") as temporary:
            with temporary.open("wb") as stream:
                for batch, arrays in self._extracted(first, last, copy):
                    for i, array in zip(batch, arrays, strict=True):
                        stream.write(array.tobytes())
                        table[i - first] = at, len(array)
                        at += len(array)
                    seconds = float(self.seconds[batch].sum())
                    self._check_room(sum(a.nbytes for a in arrays) / max(seconds, 1e-3) * left)
                    bar.update(round(seconds))
            with atomic_write(f"{name}.npz", "wb") as stream:
                np.savez(stream, table=table, frame_shape=np.asarray(self.frame_shape, np.int64))

    def _extracted(
        self, first: int, last: int, copy: int
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """Batches of positions with their features; while one is in the encoder, the next is
        decoded in another thread."""
        waiting: deque[tuple[np.ndarray, Future[list[np.ndarray]]]] = deque()
        with ThreadPoolExecutor(max_workers=_AHEAD) as pool:
            for batch in self._batches(first, last):
                positions = [int(i) for i in batch]
                waiting.append((batch, pool.submit(self._extract, positions, copy)))
                if len(waiting) == (_AHEAD if self._room_checked else 1):
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()

    def _batches(self, first: int, last: int) -> Iterator[np.ndarray]:
        """Positions in batches of similar length, the longest first."""
        order = first + np.argsort(-self.seconds[first:last], kind="stable")
        at = 0
        while at < len(order):
            size = max(1, int(self.batch_seconds / max(self.seconds[order[at]], 1e-3)))
            yield order[at : at + size]
            at += size

    def _extract(self, positions: list[int], copy: int) -> list[np.ndarray]:
        utterances = [self.manifest[i] for i in positions]
        try:
            arrays = list(self.extract(utterances, copy))
        except OSError as error:  # not ours: must not read as a full disk
            raise UserError(f"{utterances[0].id} and following: {error}") from error
        if len(arrays) != len(utterances):
            raise ValueError(f"extract gave {len(arrays)} arrays for {len(utterances)} utterances")
        return [self._half(u, a) for u, a in zip(utterances, arrays, strict=True)]

    def _half(self, utterance: Utterance, array: np.ndarray) -> np.ndarray:
        array = np.asarray(array)
        if self.frame_shape is None:
            self.frame_shape = array.shape[1:]
        if array.ndim < 2 or array.shape[1:] != self.frame_shape:
            raise ValueError(f"extract gave shape {array.shape}, (frames, *{self.frame_shape}) due")
        with np.errstate(over="ignore"):
            half = np.ascontiguousarray(array, dtype=np.float16)
        if not np.isfinite(half).all():
            raise UserError(
                f"{utterance.audio}: features of {utterance.id!r} are not finite in float16"
            )
        return half

    def _check_room(self, needed: float) -> None:
        if self._room_checked:
            return
        self._room_checked = True
        free = shutil.disk_usage(self.target).free
        if needed > free:
            raise UserError(
                f"{self.target}: the features need about {needed / 1e9:.2f} GB, "
                f"{free / 1e9:.2f} GB are free; free some space or choose another folder"
            )


def _place(folder: str | Path, key: str) -> Path:
    return Path(folder) / hashlib.sha256(key.encode("utf-8")).hexdigest()[:16]


def _shard_name(copy: int, shard: int) -> str:
    return f"c{copy:03d}-s{shard:05d}"


def _read_plan(target: Path) -> _Plan:
    path = target / "plan.json"
    plan = read_json(path, _Plan)
    starts = plan["starts"]
    if starts[:1] != [0] or any(b < a for a, b in zip(starts, starts[1:], strict=False)):
        raise UserError(f"{path}: starts: no rising numbers from 0; delete the folder {target}")
    return plan


def _read_index(name: Path) -> _Index | None:
    """Read `<name>.npz` and compare it with `<name>.f16`; None unless both are whole."""
    try:
        with np.load(f"{name}.npz", allow_pickle=False) as stored:
            index = _Index(stored["table"], tuple(stored["frame_shape"].tolist()))
        table, size = index.table, Path(f"{name}.f16").stat().st_size
        sound = table.dtype == np.int64 and table.ndim == 2 and table.shape[1] == 2
        sound = sound and bool((table >= 0).all()) and index.bytes == size
        sound = sound and int(table.sum(axis=1).max(initial=0)) <= int(table[:, 1].sum())
        return index if sound else None
    except (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, BadZipFile):
        return None
