"""The recordings of a folder: found, cut into pieces, embedded a part at a time."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from speechcwcl.data.audio import audio_info, load_audio
from speechcwcl.data.audio.recordings import audio_files
from speechcwcl.errors import UserError
from speechcwcl.files import atomic_write

_SHORTEST = 0.05  # seconds; less than that at the end of a recording is no piece of its own
# Audio (s) and recordings after which a part is handed on: an interrupted update loses little more.
PART_SECONDS = 240.0
PART_FILES = 512


class Embedder(Protocol):
    """What an update needs of a model; `Aligner` has it."""

    dim: int

    def encode_speech(self, audio: Sequence[np.ndarray]) -> np.ndarray: ...


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


class Recording(NamedTuple):
    """A file of the folder and its pieces.

    Attributes:
        name: path below the folder, with forward slashes.
        size: in bytes.
        mtime: last change, nanoseconds.
        pieces: start and end of each in seconds; none when it cannot be read.
        problem: why it cannot be read.
    """

    name: str
    size: int
    mtime: int
    pieces: Sequence[Sequence[float]] = ()
    problem: str | None = None


def scan(folder: Path) -> dict[str, Recording]:
    """All recordings below a folder, by name; hidden files and folders are passed over.

    Raises:
        UserError: no such folder, a folder below it that cannot be read, or no recording at all.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of recordings")
    found: dict[str, Recording] = {}
    for name in audio_files(folder):
        path = Path(name)
        try:
            status = path.stat()
        except FileNotFoundError:  # gone in this moment
            continue
        key = path.relative_to(folder).as_posix()
        found[key] = Recording(key, status.st_size, status.st_mtime_ns)
    return found


def pieces(path: Path, cutting: Cutting) -> Iterator[tuple[float, float, np.ndarray]]:
    """Decode a recording piece by piece.

    Yields:
        Start and end in seconds, and `(samples,)` float32 at 16 kHz.

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


def embed_recordings(
    embedder: Embedder, root: Path, todo: Sequence[Recording], cutting: Cutting
) -> Iterator[tuple[list[Recording], np.ndarray]]:
    """Embed recordings, a part at a time.

    Yields:
        The recordings with their pieces or their problem, and (pieces, dim) float32 in that order.
    """
    part = _Part(embedder)
    for recording in todo:
        part.add(recording, root, cutting)
        if part.seconds >= PART_SECONDS or len(part.done) >= PART_FILES:
            yield part.take()
            part = _Part(embedder)
    if part.done:
        yield part.take()


class _Part:
    """Recordings of a part; their audio is dropped as soon as it is embedded."""

    def __init__(self, embedder: Embedder):
        self._embedder = embedder
        self.done: list[Recording] = []
        self.seconds = 0.0
        self._owners: list[int] = []  # of each piece: its recording's place in `done`
        self._rows: list[np.ndarray] = [np.zeros((0, embedder.dim), dtype=np.float32)]
        self._waves: list[np.ndarray] = []
        self._waiting = 0.0

    def add(self, recording: Recording, root: Path, cutting: Cutting) -> None:
        times: list[tuple[float, float]] = []
        try:
            for start, end, wave in pieces(root / recording.name, cutting):
                times.append((start, end))
                self._owners.append(len(self.done))
                self._waves.append(wave)
                self._waiting += end - start
                if self._waiting >= PART_SECONDS:
                    self._embed()
            self.done.append(recording._replace(pieces=times))
            self.seconds += times[-1][1]
        except UserError as error:
            self.done.append(recording._replace(problem=str(error)))

    def _embed(self) -> None:
        if self._waves:
            self._rows.append(self._embedder.encode_speech(self._waves))
        self._waves, self._waiting = [], 0.0

    def take(self) -> tuple[list[Recording], np.ndarray]:
        self._embed()
        # A recording that broke off leaves none of its pieces.
        whole = [self.done[owner].problem is None for owner in self._owners]
        return self.done, np.concatenate(self._rows)[whole]


def write_embedded(path: Path, recordings: Sequence[Recording], rows: np.ndarray) -> None:
    """Keep recordings and their embeddings (pieces, dim) in an `.npz` file."""
    # ASCII, so that a name that is not UTF-8 (a lone surrogate in Python) can be kept too.
    text = "\n".join(json.dumps(recording) for recording in recordings).encode("ascii")
    with atomic_write(path, "wb") as stream:
        np.savez(stream, recordings=np.frombuffer(text, dtype=np.uint8), embeddings=rows)


def read_embedded(path: Path, dim: int) -> tuple[list[Recording], np.ndarray]:
    """Read what `write_embedded` wrote.

    Raises:
        UserError: it is something else, broken, or of another width than `dim`.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            lines = arrays["recordings"].tobytes().splitlines()
            recordings, rows = (
                [Recording(*json.loads(line)) for line in lines],
                arrays["embeddings"],
            )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a file of an index ({error})") from error
    if rows.shape[1:] != (dim,):
        raise UserError(f"{path}: embeddings of another width than {dim}; build the index again")
    return recordings, rows


def by_name(
    recordings: Sequence[Recording], rows: np.ndarray
) -> dict[str, tuple[Recording, np.ndarray]]:
    """Each recording beside its rows of the embeddings."""
    ends = np.cumsum([len(recording.pieces) for recording in recordings])[:-1]
    parts = np.split(rows, ends) if recordings else []
    return {r.name: (r, part) for r, part in zip(recordings, parts, strict=True)}
