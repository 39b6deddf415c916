"""The recordings of a folder: found, cut into pieces, embedded a part at a time, kept in a file."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speechcwcl.data.audio import audio_info, load_audio
from speechcwcl.data.audio.recordings import audio_files
from speechcwcl.errors import UserError, require
from speechcwcl.files import atomic_write

_SHORTEST = 0.05  # seconds; less than that at the end of a recording is no piece of its own
# Audio (s) and recordings after which a part is written: an interrupted update loses little more.
PART_SECONDS = 240.0
PART_FILES = 512


@dataclass(frozen=True)
class Cutting:
    """How recordings are cut."""

    window: float = 15.0  # seconds; a recording that is longer is cut into windows. 0: never cut.
    hop: float = 7.5  # seconds from one window to the next

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

    def pieces(self, path: Path) -> Iterator[tuple[float, float, np.ndarray]]:
        """Decode a recording: start and end in seconds, `(samples,)` float32 at 16 kHz, each."""
        duration = audio_info(path).duration
        windows = self.windows(duration)
        if len(windows) == 1:
            yield 0.0, duration, load_audio(path)
            return
        for start, end in windows:
            yield start, end, load_audio(path, start, min(end, duration))


class Recording(NamedTuple):
    """A file of the folder and its pieces."""

    name: str  # path below the folder, with forward slashes
    size: int  # in bytes
    mtime: int  # last change, nanoseconds
    # start and end of each in seconds; none when it cannot be read
    pieces: Sequence[Sequence[float]] = ()
    problem: str | None = None  # why it cannot be read


Embedded = dict[str, tuple[Recording, np.ndarray]]  # by name, with (pieces, dim)


def scan(folder: Path) -> dict[str, Recording]:
    """All recordings below a folder, by name; hidden files and folders are passed over.

    Raises:
        UserError: no such folder, a folder below it that cannot be read, or no recording at all.
    """
    require(folder.is_dir(), f"{folder}: no such folder of recordings")
    found: dict[str, Recording] = {}
    for path in map(Path, audio_files(folder)):
        with contextlib.suppress(FileNotFoundError):  # gone in this moment
            status, name = path.stat(), path.relative_to(folder).as_posix()
            found[name] = Recording(name, status.st_size, status.st_mtime_ns)
    return found


def embed_recordings(
    embedder: Any, root: Path, todo: Sequence[Recording], cutting: Cutting
) -> Iterator[Embedded]:
    """Embed recordings, a part at a time; their audio is dropped as soon as it is embedded."""
    done: list[Recording] = []
    owners: list[int] = []  # of each piece: its recording's place in `done`
    rows, waves, seconds, full = [], [], 0.0, False
    for recording in todo:
        times: list[tuple[float, float]] = []
        problem = None
        try:
            for start, end, wave in cutting.pieces(root / recording.name):
                times.append((start, end))
                owners.append(len(done))
                waves.append(wave)
                seconds += end - start
                if seconds >= PART_SECONDS:
                    rows.append(embedder.encode_speech(waves))
                    waves, seconds, full = [], 0.0, True
        except UserError as error:
            times, problem = [], str(error)
        done.append(recording._replace(pieces=times, problem=problem))
        if full or len(done) >= PART_FILES or recording is todo[-1]:
            if waves:
                rows.append(embedder.encode_speech(waves))
            # A recording that broke off leaves none of its pieces.
            whole = [done[owner].problem is None for owner in owners]
            every = np.concatenate([np.zeros((0, embedder.dim), dtype=np.float32), *rows])
            yield by_name(done, every[np.asarray(whole, dtype=bool)])
            done, owners, rows, waves, seconds, full = [], [], [], [], 0.0, False


def by_name(recordings: Sequence[Recording], rows: np.ndarray) -> Embedded:
    """Each recording beside its rows of the embeddings."""
    ends = np.cumsum([len(recording.pieces) for recording in recordings])[:-1]
    parts = np.split(rows, ends) if recordings else []
    return {r.name: (r, part) for r, part in zip(recordings, parts, strict=True)}


def write_embedded(path: Path, embedded: Embedded) -> None:
    """Keep recordings and their embeddings in an `.npz` file."""
    # ASCII, so that a name that is not UTF-8 (a lone surrogate in Python) can be kept too.
    text = "\n".join(json.dumps(recording) for recording, _ in embedded.values()).encode("ascii")
    rows = np.concatenate([rows for _, rows in embedded.values()])
    with atomic_write(path, "wb") as stream:
        np.savez(stream, recordings=np.frombuffer(text, dtype=np.uint8), embeddings=rows)


def read_embedded(path: Path, dim: int) -> tuple[list[Recording], np.ndarray]:
    """Read what `write_embedded` wrote: the recordings, (pieces, dim) of all.

    Raises:
        UserError: it is something else, broken, or of another width than `dim`.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            lines = arrays["recordings"].tobytes().splitlines()
            recordings = [Recording(*json.loads(line)) for line in lines]
            rows = arrays["embeddings"]
        sound = rows.shape == (sum(len(r.pieces) for r in recordings), dim)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        sound = False
    require(
        sound,
        f"{path}: truncated or changed; run `speechcwcl search update {path.parent}`, which makes "
        "it again",
    )
    return recordings, rows
