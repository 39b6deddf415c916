"""The manifest: one JSON object an utterance a line; all that training and evaluation read."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.data.audio import END_TOLERANCE
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest
from speechcwcl.files import atomic_write, sha256_json
from speechcwcl.jsons import parse_json

_LONGEST = 1e9  # seconds
_KEYS = ("id", "audio", "start", "end", "duration", "text", "speaker", "labels")


class Manifest:
    """The utterances of a file, whose bytes are in memory; each is parsed when it is wanted.

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
        try:
            self._raw = self.path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{path}: no such manifest ({error.strerror}); run stage 2 (format) first"
            ) from error
        self.hash: str = hashlib.sha256(self._raw).hexdigest()
        durations, at = array("f"), 0
        self._starts = array("q")
        for number, line in enumerate(io.BytesIO(self._raw), 1):
            if line.strip():
                duration = _parse(line, self.path, number).duration
                durations.append(float("nan") if duration is None else duration)
                self._starts.append(at)
            at += len(line)
        if not durations:
            raise UserError(f"{path}: zero utterances")
        self.durations: np.ndarray = np.asarray(durations, dtype=np.float32)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, i: int) -> Utterance:
        """The utterance at position `i` (negative counts from the end)."""
        count = len(self)
        at = int(i) + (count if i < 0 else 0)
        if not 0 <= at < count:
            raise IndexError(f"{self.path}: no utterance {i} of {count}")
        end = self._starts[at + 1] if at + 1 < count else None
        return _parse(self._raw[self._starts[at] : end], self.path, at + 1)

    def __iter__(self) -> Iterator[Utterance]:
        return map(self.__getitem__, range(len(self)))

    @functools.cached_property
    def ids(self) -> list[str]:
        """The ids in order."""
        return [utterance.id for utterance in self]

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

    def __reduce__(self) -> tuple[Any, ...]:
        return Manifest, (self.path,)

    def __repr__(self) -> str:
        return f"Manifest({str(self.path)!r}, {len(self)} utterances)"


@dataclass
class Summary:
    """What `compile_manifest` did."""

    manifest: str  # path of the manifest
    hash: str = ""  # its sha256
    utterances: int = 0  # how many are in it
    seconds: float = 0.0  # their length in all
    too_short: int = 0  # dropped as shorter than the minimum
    too_long: int = 0  # dropped as longer than the maximum
    bad: int = 0  # left out because their audio is unsound (with `skip_bad`)
    # segments that went on behind their recording, by half a second at most, and now end with it
    cut: int = 0
    dropped_list: str = ""  # names the dropped ones (id, reason, seconds); empty if there are none
    bad_list: str = ""  # names the bad ones (id, fault); empty if there are none
    # label field -> number of utterances that have it
    fields: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{self.utterances} utterances, {self.seconds / 3600:.2f} h"]
        if self.too_short or self.too_long:
            parts.append(
                f"{self.too_short} too short and {self.too_long} too long ({self.dropped_list})"
            )
        if self.bad:
            parts.append(f"{self.bad} with bad audio left out ({self.bad_list})")
        if self.cut:
            most = f"(by {END_TOLERANCE:g} s at most)"
            parts.append(f"{self.cut} segments cut to the end of their recording {most}")
        return f"{self.manifest}: " + "; ".join(parts)


def save_manifest(path: str | Path, utterances: Iterable[Utterance], summary: Summary) -> Summary:
    """Write a manifest as it is produced: whole, or not at all; fill in the summary."""
    digest, fields = hashlib.sha256(), Counter[str]()
    with atomic_write(path, "wb") as stream:
        for utterance in utterances:
            line = manifest_line(utterance)
            stream.write(line)
            digest.update(line)
            summary.utterances += 1
            summary.seconds += round(utterance.duration or 0.0, 6)
            fields.update(list(utterance.labels))
    summary.hash, summary.fields = digest.hexdigest(), dict(sorted(fields.items()))
    return summary


def manifest_line(utterance: Utterance) -> bytes:
    """One line of a manifest."""
    value = {key: getattr(utterance, key) for key in _KEYS}
    value["duration"] = round(utterance.duration or 0.0, 6)
    return (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8")


def _parse(raw: bytes, manifest: Path, number: int) -> Utterance:
    """One line of a manifest."""
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
