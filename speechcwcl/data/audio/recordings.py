"""Recordings as they lie about: files, folders, lists; read a few at a time, the bad ones named."""

from __future__ import annotations

import os
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
    items: Sequence[str | os.PathLike], lines: Iterable[str] | None = None
) -> Iterator[str]:
    """Paths of audio files, in order; folders by name, hidden files left out.

    Args:
        items: files; folders, searched through and through for audio endings; ``-`` for
            ``lines``.
        lines: one path a line, such as standard input; read as they are needed.

    Raises:
        UserError: a folder without audio. A file that is not there is found out on reading.
    """
    for item in items:
        text = os.fspath(item)
        if text == "-":
            yield from (line.rstrip("\r\n") for line in lines or () if line.strip())
        elif Path(text).is_dir():
            yield from _in_folder(text)
        else:
            yield text


def _in_folder(folder: str) -> Iterator[str]:
    found = False
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(AUDIO_SUFFIXES):
                found = True
                yield os.path.join(parent, name)
    if not found:
        raise UserError(
            f"{folder}: no audio in this folder (endings looked for: {' '.join(AUDIO_SUFFIXES)})"
        )


@dataclass
class Reader:
    """Reads recordings chunk by chunk, so that thousands take no more memory than a few.

    Args:
        longest: seconds; a longer recording counts as bad.
        on_bad: called with the line that says what is wrong with a recording.

    Attributes:
        read, bad: how many so far.
    """

    longest: float
    on_bad: Callable[[str], None]
    read: int = field(default=0, init=False)
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
