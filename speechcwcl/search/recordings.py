"""The recordings of a folder, and the pieces that long ones are cut into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechcwcl.data.audio import audio_info, load_audio
from speechcwcl.errors import UserError

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf")
_SHORTEST = 0.05  # seconds; less than that at the end of a recording is no piece of its own


@dataclass(frozen=True)
class Recording:
    """One file.

    Attributes:
        name: path below the folder, with forward slashes.
        size: in bytes.
        mtime: last change, nanoseconds.
    """

    name: str
    size: int
    mtime: int


@dataclass(frozen=True)
class Cutting:
    """How recordings are cut.

    Attributes:
        window: seconds; a recording that is longer is cut into windows. 0: never cut.
        hop: seconds from one window to the next.
    """

    window: float = 15.0
    hop: float = 7.5

    def __post_init__(self) -> None:
        if not (self.window == 0 or 0.1 <= self.window <= 3600):
            raise UserError(f"window: {self.window:g} is neither 0 nor 0.1 to 3600 seconds")
        if self.window and not (0.05 <= self.hop <= self.window):
            raise UserError(f"hop: {self.hop:g} is not between 0.05 and the window's seconds")

    def windows(self, duration: float) -> list[tuple[float, float]]:
        """Start and end in seconds; the last window ends with the recording."""
        if self.window == 0 or duration <= self.window + _SHORTEST:
            return [(0.0, duration)]
        count = int(np.ceil((duration - self.window) / self.hop - 1e-9))
        starts = [i * self.hop for i in range(count)] + [duration - self.window]
        return [(start, start + self.window) for start in starts]


def scan(folder: Path) -> dict[str, Recording]:
    """All recordings below a folder, by name; hidden files and folders are passed over.

    Raises:
        UserError: no such folder, a folder below it that cannot be read, or no recording at all.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of recordings")
    found: dict[str, Recording] = {}
    for where, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or not name.lower().endswith(SUFFIXES):
                continue
            path = Path(where) / name
            try:
                status = path.stat()
            except FileNotFoundError:  # a dangling link, or gone in this moment
                continue
            key = path.relative_to(folder).as_posix()
            found[key] = Recording(key, status.st_size, status.st_mtime_ns)
    if not found:
        raise UserError(f"{folder}: no recordings in it ({' '.join(SUFFIXES)})")
    return found


def _refuse(error: OSError) -> None:
    # Taken for empty, the folder's recordings would be dropped from the index.
    raise UserError(f"{error.filename}: cannot read the folder: {error.strerror}") from error


def pieces(path: Path, cutting: Cutting) -> Iterator[tuple[float, float, np.ndarray]]:
    """Decode a recording piece by piece.

    Yields:
        Start and end in seconds, and ``(samples,)`` float32 at 16 kHz.

    Raises:
        UserError: not audio, truncated, ...
    """
    duration = audio_info(path).duration
    windows = cutting.windows(duration)
    if len(windows) == 1:
        yield 0.0, duration, load_audio(path)
        return
    for start, end in windows:
        yield start, end, load_audio(path, start, min(end, duration))
