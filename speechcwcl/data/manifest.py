"""The manifest: one JSON object an utterance a line; all that training and evaluation read.

Where each line begins is kept beside it (`manifest.jsonl.index.npz`) and made again when it does
not fit.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from speechcwcl.data.audio import END_TOLERANCE
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest
from speechcwcl.files import atomic_write, sha256_file, sha256_json
from speechcwcl.jsons import parse_json

_LONGEST = 1e9  # seconds
_KEYS = ("id", "audio", "start", "end", "duration", "text", "speaker", "labels")


class Manifest:
    """Lazily read utterances: only 12 bytes of each are in memory.

    Safe to pickle, to fork, and to read from several threads (DataLoader workers).

    Args:
        path: a `manifest.jsonl`; keys id, audio, start, end, duration, text, speaker, labels,
            of which only id and audio must be there.

    Attributes:
        path: where it is.
        durations: `(N,)` float32, seconds; NaN where unknown.
        hash: sha256 of the file.

    Raises:
        UserError: it is missing, empty, or has a broken line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        index = _read_index(self.path)
        self.durations: np.ndarray = index.durations
        self.hash: str = index.hash
        self._offsets = index.offsets
        self._size = self.path.stat().st_size
        self._file: int | None = None
        self._ids: list[str] | None = None

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, i: int) -> Utterance:
        """The utterance at position `i` (negative counts from the end)."""
        count = len(self)
        at = int(i) + (count if i < 0 else 0)
        if not 0 <= at < count:
            raise IndexError(f"{self.path}: no utterance {i} of {count}")
        start = int(self._offsets[at])
        end = int(self._offsets[at + 1]) if at + 1 < count else self._size
        raw = os.pread(self._descriptor(), end - start, start)
        return _parse(raw, self.path, at + 1)

    def __iter__(self) -> Iterator[Utterance]:
        with self.path.open("rb") as stream:
            for number, raw in enumerate((line for line in stream if line.strip()), 1):
                yield _parse(raw, self.path, number)

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

    @functools.cached_property
    def state(self) -> str:
        """Another one when the file is, or when an audio file of it changed: looks at each once."""
        states: dict[str, str] = {}
        for utterance in self:
            before, member, _ = utterance.audio.partition(".tar::")
            path = f"{before}.tar" if member else before
            if path not in states:
                with contextlib.suppress(OSError, ValueError):  # what is missing is told on reading
                    found = os.stat(path)
                    states[path] = f"{found.st_size}:{found.st_mtime_ns}"
        return sha256_json([self.hash, sorted(states.items())])

    def _descriptor(self) -> int:
        if self._file is None:
            try:
                self._file = os.open(self.path, os.O_RDONLY)
            except OSError as error:
                raise UserError(f"{self.path}: cannot read: {error.strerror}") from error
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __del__(self) -> None:
        descriptor = getattr(self, "_file", None)
        if descriptor is not None:
            os.close(descriptor)

    def __repr__(self) -> str:
        return f"Manifest({str(self.path)!r}, {len(self)} utterances)"


@dataclass
class Summary:
    """What `compile_manifest` did.

    Attributes:
        manifest: path of the manifest.
        hash: its sha256.
        utterances: how many are in it.
        seconds: their length in all.
        too_short: dropped as shorter than the minimum.
        too_long: dropped as longer than the maximum.
        bad: left out because their audio is unsound (with `skip_bad`).
        cut: segments that went on behind their recording, by half a second at most, and now end
            with it.
        dropped_list: names the dropped ones (id, reason, seconds); empty if there are none.
        bad_list: names the bad ones (id, fault); empty if there are none.
        fields: label field -> number of utterances that have it.
    """

    manifest: str
    hash: str = ""
    utterances: int = 0
    seconds: float = 0.0
    too_short: int = 0
    too_long: int = 0
    bad: int = 0
    cut: int = 0
    dropped_list: str = ""
    bad_list: str = ""
    fields: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [f"{self.utterances} utterances, {self.seconds / 3600:.2f} h"]
        if self.too_short or self.too_long:
            parts.append(
                f"{self.too_short} too short and {self.too_long} too long ({self.dropped_list})"
            )
        if self.bad:
            parts.append(f"{self.bad} with bad audio left out ({self.bad_list})")
        if self.cut:
            parts.append(
                f"{self.cut} segments cut to the end of their recording (by {END_TOLERANCE:g} s at "
                "most)"
            )
        return f"{self.manifest}: " + "; ".join(parts)


class ManifestWriter:
    """Writes lines and keeps what the index needs (12 bytes an utterance)."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.offsets, self.durations = array("q"), array("f")
        self.digest = hashlib.sha256()
        self.seconds = 0.0
        self.fields: Counter[str] = Counter()
        self._at = 0

    def add(self, utterance: Utterance) -> None:
        """Write one line."""
        duration = round(utterance.duration or 0.0, 6)
        value = {
            "id": utterance.id,
            "audio": utterance.audio,
            "start": utterance.start,
            "end": utterance.end,
            "duration": duration,
            "text": utterance.text,
            "speaker": utterance.speaker,
            "labels": utterance.labels,
        }
        line = (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8")
        self.stream.write(line)
        self.digest.update(line)
        self.offsets.append(self._at)
        self.durations.append(duration)
        self._at += len(line)
        self.seconds += duration
        self.fields.update(utterance.labels.keys())

    def finish(self, summary: Summary, path: Path) -> None:
        """Write the index beside the finished manifest and fill in the summary."""
        summary.hash = self.digest.hexdigest()
        summary.utterances, summary.seconds = len(self.offsets), self.seconds
        summary.fields = dict(sorted(self.fields.items()))
        _write_index(path, self.offsets, self.durations, summary.hash)


class _Index(NamedTuple):
    """Byte offsets `(N,)` int64, durations `(N,)` float32 in seconds, sha256 of the file."""

    offsets: np.ndarray
    durations: np.ndarray
    hash: str


def _index_path(manifest: str | Path) -> Path:
    """`train.jsonl` -> `train.jsonl.index.npz`."""
    manifest = Path(manifest)
    return manifest.with_name(manifest.name + ".index.npz")


def _write_index(manifest: Path, offsets: array[int], durations: array[float], sha256: str) -> None:
    """Write the index beside its manifest, atomically."""
    with atomic_write(_index_path(manifest), "wb") as stream:
        np.savez(
            stream,
            offsets=np.asarray(offsets, dtype=np.int64),
            durations=np.asarray(durations, dtype=np.float32),
            stamp=np.asarray(_stamp(manifest), dtype=np.int64),
            hash=np.asarray(sha256),
        )


def _read_index(manifest: Path) -> _Index:
    """The index of a manifest: the one beside it if it fits, else made by reading all lines.

    Raises:
        UserError: the manifest is missing, empty, or a line of it is not a manifest line.
    """
    try:
        stamp = _stamp(manifest)
    except OSError as error:
        raise UserError(
            f"{manifest}: no such manifest ({error.strerror}); run stage 2 (format) first"
        ) from error
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, BadZipFile):
        with np.load(_index_path(manifest), allow_pickle=False) as stored:
            index = _Index(stored["offsets"], stored["durations"], str(stored["hash"]))
            kept = tuple(stored["stamp"].tolist())
        # A copy has another time but the same bytes.
        if kept == stamp or (kept[0] == stamp[0] and sha256_file(manifest) == index.hash):
            return index
    return _scan(manifest)


def _stamp(manifest: Path) -> tuple[int, int]:
    found = manifest.stat()
    return found.st_size, found.st_mtime_ns


def _scan(manifest: Path) -> _Index:
    offsets, durations, at = array("q"), array("f"), 0
    with manifest.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if raw.strip():
                duration = _parse(raw, manifest, number).duration
                offsets.append(at)
                durations.append(float("nan") if duration is None else float(duration))
            at += len(raw)
    if not offsets:
        raise UserError(f"{manifest}: zero utterances")
    return _Index(
        np.asarray(offsets, dtype=np.int64),
        np.asarray(durations, dtype=np.float32),
        sha256_file(manifest),
    )


def _parse(raw: bytes, manifest: Path, number: int) -> Utterance:
    """One line of a manifest.

    Raises:
        UserError: it is anything else; `number` is the line's number (from 1).
    """
    where = f"{manifest}:{number}"
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8; save the file as UTF-8") from error
    value = parse_json(text, where, line=False)
    for key in ("id", "audio"):
        if not isinstance(value, dict) or not isinstance(value.get(key), str) or not value[key]:
            raise UserError(f"{where}: a JSON object with a text for {key!r} expected")
    for key, given in value.items():
        if key not in _KEYS:
            raise UserError(f"{where}: unknown key {key!r}{closest(key, _KEYS)}")
        if given is not None and not _fits(key, given):
            raise UserError(f"{where}: {key}: {_WANTED.get(key, 'a text')} expected")
    if "\0" in value["audio"]:
        raise UserError(f"{where}: audio: a NUL byte in a path")
    value["labels"] = value.get("labels") or {}
    value["speaker"] = value.get("speaker") or value["id"]
    return Utterance(**value)


_WANTED = {
    **dict.fromkeys(("start", "end", "duration"), "seconds, 0 or more,"),
    "labels": "an object of texts",
}


def _fits(key: str, value: Any) -> bool:
    if key == "labels":
        return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    if key in ("start", "end", "duration"):
        return type(value) in (int, float) and 0 <= value < _LONGEST
    return isinstance(value, str)
