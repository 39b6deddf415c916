"""Recordings as they lie about: files, folders, lists; read a few at a time, the bad ones named."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from speechcwcl.data.audio import SAMPLE_RATE, audio_info, load_audio
from speechcwcl.errors import UserError

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf",
    ".w64", ".rf64", ".sph",
)  # fmt: skip
# A chunk is full at so many recordings or so many seconds, which bounds the memory.
_MOST = 32
_SECONDS = 120.0


def find_recordings(
    items: Sequence[str | os.PathLike],
    lines: Iterable[str] | None = None,
    on_omitted: Callable[[str], None] | None = None,
) -> Iterator[str]:
    """Paths of audio files, in order; folders as `audio_files` reads them.

    Args:
        items: files; folders; `-` for `lines`.
        lines: one path a line, such as standard input; read as they are needed.
        on_omitted: called with the line that says which files of a folder are left out.

    Raises:
        UserError: a folder without audio. A file that is not there is found out on reading.
    """
    for item in items:
        text = os.fspath(item)
        if text == "-":
            yield from (line.rstrip("\r\n") for line in lines or () if line.strip())
        elif Path(text).is_dir():
            yield from audio_files(text, on_omitted)
        else:
            yield text


def is_audio_name(name: str) -> bool:
    """Whether a file's name has an ending of audio and is not hidden (`._x.wav` of macOS)."""
    return not name.startswith(".") and name.lower().endswith(AUDIO_SUFFIXES)


def audio_files(
    folder: str | os.PathLike, on_omitted: Callable[[str], None] | None = None
) -> Iterator[str]:
    """Paths of the audio files in and below a folder, by name; hidden ones are left out.

    Links to folders are followed, but never back into a folder that one is in.

    Args:
        on_omitted: called with one line that counts the files that have other endings.

    Raises:
        UserError: a folder that cannot be read, or no audio at all.
    """
    others: Counter[str] = Counter()
    found = False
    for path in _walk(os.fspath(folder), ()):
        if is_audio_name(os.path.basename(path)):
            found = True
            yield path
        else:
            others[os.path.splitext(path)[1].lower() or "no ending"] += 1
    if not found:
        raise UserError(
            f"{folder}: no audio in this folder (endings looked for: {' '.join(AUDIO_SUFFIXES)})"
        )
    if others and on_omitted:
        kinds = ", ".join(f"{ending} {count}" for ending, count in others.most_common(5))
        on_omitted(
            f"{folder}: {others.total()} file(s) left out, by their endings no audio: {kinds}"
        )


def _walk(folder: str, above: tuple[str, ...]) -> Iterator[str]:
    """The files in a folder, then those below it; hidden ones are passed over."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot read the folder: {error.strerror}") from error
    paths = [os.path.join(folder, name) for name in names]
    inside = {path for path in paths if os.path.isdir(path)}
    yield from (path for path in paths if path not in inside and os.path.exists(path))
    for path in paths:
        if path in inside:
            yield from _walk(path, (*above, real))


@dataclass
class Reader:
    """Reads recordings chunk by chunk, so that thousands take no more memory than a few."""

    longest: float  # seconds; a longer recording counts as bad
    on_bad: Callable[[str], None]  # takes the line that says what is wrong with a recording
    read: int = field(default=0, init=False)  # how many so far
    bad: int = field(default=0, init=False)

    def chunks(self, paths: Iterable[str]) -> Iterator[tuple[list[str], list[np.ndarray]]]:
        """Paths and their (samples,) float32 at 16 kHz; the first chunks are small, so that the
        first answers come at once."""
        names: list[str] = []
        wavs: list[np.ndarray] = []
        seconds, most = 0.0, 1
        for path in paths:
            wav = self._load(path)
            if wav is None:
                continue
            names.append(path)
            wavs.append(wav)
            seconds += len(wav) / SAMPLE_RATE
            if len(names) >= most or seconds >= _SECONDS:
                yield names, wavs
                names, wavs, seconds, most = [], [], 0.0, min(_MOST, 2 * most)
        if names:
            yield names, wavs

    def _load(self, path: str) -> np.ndarray | None:
        try:
            duration = audio_info(path).duration
            if duration > self.longest:
                raise UserError(
                    f"{path}: {duration:.0f} s long, the limit is {self.longest:g} s; "
                    "`speechcwcl listen` spots keywords in long recordings"
                )
            wav = load_audio(path)
        except UserError as error:
            self.bad += 1
            self.on_bad(str(error))
            return None
        self.read += 1
        return wav
