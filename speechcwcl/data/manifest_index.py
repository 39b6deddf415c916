"""Where each line of a manifest begins: kept beside it, made again when it does not fit."""

from __future__ import annotations

import contextlib
import json
from array import array
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from speechcwcl.errors import UserError
from speechcwcl.files import atomic_write, sha256_file


class Index(NamedTuple):
    """Byte offsets ``(N,)`` int64, durations ``(N,)`` float32 in seconds, sha256 of the file."""

    offsets: np.ndarray
    durations: np.ndarray
    hash: str


def index_path(manifest: str | Path) -> Path:
    """``train.jsonl`` -> ``train.jsonl.index.npz``."""
    manifest = Path(manifest)
    return manifest.with_name(manifest.name + ".index.npz")


def write_index(manifest: Path, offsets: array[int], durations: array[float], sha256: str) -> None:
    """Write the index beside its manifest, atomically."""
    with atomic_write(index_path(manifest), "wb") as stream:
        np.savez(
            stream,
            offsets=np.asarray(offsets, dtype=np.int64),
            durations=np.asarray(durations, dtype=np.float32),
            stamp=np.asarray(_stamp(manifest), dtype=np.int64),
            hash=np.asarray(sha256),
        )


def read_index(manifest: Path) -> Index:
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
        with np.load(index_path(manifest), allow_pickle=False) as stored:
            index = Index(stored["offsets"], stored["durations"], str(stored["hash"]))
            kept = tuple(stored["stamp"].tolist())
        # A copy has another time but the same bytes.
        if kept == stamp or (kept[0] == stamp[0] and sha256_file(manifest) == index.hash):
            return index
    return _scan(manifest)


def _stamp(manifest: Path) -> tuple[int, int]:
    found = manifest.stat()
    return found.st_size, found.st_mtime_ns


def _scan(manifest: Path) -> Index:
    offsets, durations, at = array("q"), array("f"), 0
    with manifest.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if raw.strip():
                duration = parse_line(raw, manifest, number).get("duration")
                offsets.append(at)
                durations.append(float("nan") if duration is None else float(duration))
            at += len(raw)
    if not offsets:
        raise UserError(f"{manifest}: zero utterances")
    return Index(
        np.asarray(offsets, dtype=np.int64),
        np.asarray(durations, dtype=np.float32),
        sha256_file(manifest),
    )


def parse_line(raw: bytes, manifest: Path, number: int) -> dict:
    """One line as a dict that has an id and an audio path.

    Raises:
        UserError: it is anything else; ``number`` is the line's number (from 1).
    """
    try:
        value = json.loads(raw)
    except UnicodeDecodeError as error:
        raise UserError(f"{manifest}:{number}: not UTF-8; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{manifest}:{number}: not valid JSON: {error.msg}") from error
    for key in ("id", "audio"):
        if not isinstance(value, dict) or not isinstance(value.get(key), str) or not value[key]:
            raise UserError(f"{manifest}:{number}: a JSON object with a text for {key!r} expected")
    return value
