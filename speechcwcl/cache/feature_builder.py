"""Filling a feature cache: shard by shard, each there as a whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple, Protocol
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm

from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.files import atomic_write, cannot_write, read_json, write_json

VERSION = 1
_UNKNOWN_SECONDS = 10.0
_AHEAD = 2  # batches under way at a time
_log = logging.getLogger(__name__)

Extract = Callable[[list[Utterance], int], Sequence[np.ndarray]]
"""``extract(utterances, copy)`` returns one ``(frames, ...)`` float array an utterance. It is
called from two threads, so that one batch is decoded while another is encoded."""


class ManifestLike(Protocol):
    """What of a manifest is needed here."""

    durations: np.ndarray
    hash: str

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Utterance: ...


def fill_cache(
    target: Path,
    manifest: ManifestLike,
    extract: Extract,
    key: str,
    *,
    batch_seconds: float,
    copies: int,
    shard_seconds: float,
    progress: bool,
) -> None:
    """Compute what is missing in one key's folder; see :meth:`FeatureCache.build`."""
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(cannot_write(target, error)) from error
    with _alone(target):
        plan = _make_plan(target, manifest, key, shard_seconds)
        for stale in target.glob(".*.tmp"):  # left by a killed run; nobody else is here
            stale.unlink()
        builder = _Builder(target, manifest, extract, plan, batch_seconds)
        builder.run(copies, progress)
        _finish(target, key, manifest, copies, builder)


class ShardIndex(NamedTuple):
    """``table`` ``(n, 2)`` int64: first frame within the shard and frames of each utterance."""

    table: np.ndarray
    frame_shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of the shard's float16 file."""
        width = 2 * int(np.prod(self.frame_shape, dtype=np.int64))
        return int(self.table[:, 1].sum()) * width


def read_shard_index(name: Path) -> ShardIndex:
    """Read ``<name>.npz``.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        with np.load(f"{name}.npz", allow_pickle=False) as stored:
            return ShardIndex(stored["table"], tuple(stored["frame_shape"].tolist()))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(f"{name}.npz: missing or damaged; run the same command again") from error


class _Builder:
    """Fills the shards that are missing."""

    def __init__(
        self,
        target: Path,
        manifest: ManifestLike,
        extract: Extract,
        plan: list[int],
        batch_seconds: float,
    ) -> None:
        self.target, self.manifest, self.extract, self.plan = target, manifest, extract, plan
        self.seconds = np.nan_to_num(np.asarray(manifest.durations, float), nan=_UNKNOWN_SECONDS)
        self.batch_seconds = batch_seconds
        self.frame_shape: tuple[int, ...] | None = None
        self._room_checked = False

    def run(self, copies: int, progress: bool) -> None:
        """Compute every shard that is not there."""
        todo = [
            (copy, shard)
            for copy in range(copies)
            for shard in range(len(self.plan) - 1)
            if not self._there(copy, shard)
        ]
        if not todo:
            return
        left = sum(float(self._shard_seconds(shard).sum()) for _, shard in todo)
        total = copies * float(self.seconds.sum())
        with tqdm(
            total=round(total), initial=round(total - left), unit="s", desc="features",
            disable=not progress,
        ) as bar:  # fmt: skip
            for copy, shard in todo:
                left -= self._fill(copy, shard, left, bar)

    def _shard_seconds(self, shard: int) -> np.ndarray:
        return self.seconds[self.plan[shard] : self.plan[shard + 1]]

    def _there(self, copy: int, shard: int) -> bool:
        """Whether a shard is complete; a damaged one is computed again."""
        name = self.target / shard_name(copy, shard)
        try:
            index = read_shard_index(name)
            whole = os.stat(f"{name}.f16").st_size == index.bytes
        except (OSError, UserError):
            return False
        if whole and self.frame_shape is None:
            self.frame_shape = index.frame_shape
        return whole

    def _fill(self, copy: int, shard: int, left: float, bar: tqdm) -> float:
        """Compute one shard; return its seconds."""
        first, last = self.plan[shard], self.plan[shard + 1]
        table = np.zeros((last - first, 2), dtype=np.int64)
        name = self.target / shard_name(copy, shard)
        temporary, at = None, 0
        try:
            temporary = _temporary(name)
            for batch, arrays in self._extracted(first, last, copy):
                for i, array in zip(batch, arrays, strict=True):
                    temporary.write(memoryview(array).cast("B") if array.size else b"")
                    table[i - first] = at, len(array)
                    at += len(array)
                seconds = float(self.seconds[batch].sum())
                self._check_room(sum(a.nbytes for a in arrays) / max(seconds, 1e-3) * left)
                bar.update(round(seconds))
            temporary.flush()
            os.fsync(temporary.fileno())
            temporary.close()
            with atomic_write(f"{name}.npz", "wb") as stream:
                np.savez(stream, table=table, frame_shape=np.asarray(self.frame_shape, np.int64))
            os.replace(temporary.name, f"{name}.f16")
        except OSError as error:
            raise UserError(cannot_write(f"{name}.f16", error)) from error
        finally:
            if temporary is not None:
                with suppress(OSError):
                    temporary.close()
                with suppress(FileNotFoundError):
                    os.unlink(temporary.name)
        return float(self._shard_seconds(shard).sum())

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
        """Positions in batches of like length, the longest first (too little memory shows soon)."""
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


def place(folder: str | Path, key: str) -> Path:
    """Folder of one key."""
    return Path(folder) / hashlib.sha256(key.encode("utf-8")).hexdigest()[:16]


def shard_name(copy: int, shard: int) -> str:
    """File name of a shard, without suffix."""
    return f"c{copy:03d}-s{shard:05d}"


def _temporary(name: Path) -> IO[bytes]:
    return tempfile.NamedTemporaryFile(  # noqa: SIM115  (closed and renamed by the caller)
        prefix=f".{name.name}.", suffix=".tmp", dir=name.parent, delete=False
    )


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold the folder's lock; it goes with the process, however that ends."""
    try:
        stream = (target / "lock").open("w")
    except OSError as error:
        raise UserError(cannot_write(target, error)) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("%s: another process fills this cache; waiting for it", target)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _make_plan(target: Path, manifest: ManifestLike, key: str, shard_seconds: float) -> list[int]:
    """First position of each shard, then their number; an earlier run's plan is kept."""
    path = target / "plan.json"
    if path.exists():
        plan = read_json(path)
        if plan.get("manifest") != manifest.hash:
            raise UserError(
                f"{target}: made for another manifest under the same key; delete this folder "
                "(or put the manifest's hash into the key)"
            )
        return list(plan["starts"])
    seconds = np.nan_to_num(np.asarray(manifest.durations, float), nan=_UNKNOWN_SECONDS)
    shards = np.floor((np.cumsum(seconds) - seconds) / shard_seconds).astype(np.int64)
    firsts = np.flatnonzero(np.diff(shards, prepend=-1))
    starts = [*firsts.tolist(), len(manifest)]
    write_json(path, {"key": key, "manifest": manifest.hash, "starts": starts})
    return starts


def _finish(target: Path, key: str, manifest: ManifestLike, copies: int, builder: _Builder) -> None:
    """Write ``meta.json``, which makes the cache valid."""
    path = target / "meta.json"
    known = read_json(path) if path.exists() else {}
    shape = builder.frame_shape or ()
    if known and tuple(known["frame_shape"]) != shape:
        raise UserError(f"{target}: frames are {shape} now, were {known['frame_shape']}; delete it")
    write_json(
        path,
        {
            "version": VERSION,
            "key": key,
            "manifest": manifest.hash,
            "utterances": len(manifest),
            "copies": max(copies, int(known.get("copies", 0))),
            "frame_shape": list(shape),
        },
    )
