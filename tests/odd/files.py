"""Odd files, each written where a test wants it: containers, headers, tables, folders.

A maker is a function of a folder that writes something into it and gives its path. Sounds are tones
of half a second each, so that a test can say what must be heard, and in which order.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile


@dataclass(frozen=True)
class Refused:
    """The reader must stop with a UserError of one line in which this is found (a pattern)."""

    line: str


Maker = Callable[[Path], Path]
RATE = 16000
KINDS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def tones(*hertz: int, rate: int = RATE) -> np.ndarray:
    """Half a second of each tone, one after the other, ``(samples,)`` float32."""
    time = np.arange(rate // 2) / rate
    return np.concatenate([0.5 * np.sin(2 * np.pi * f * time) for f in hertz]).astype(np.float32)


def sound(suffix: str, *hertz: int, rate: int = RATE, subtype: str = "") -> bytes:
    """The bytes of an audio file of these tones."""
    stream = io.BytesIO()
    kind, usual = KINDS.get(suffix, (suffix.upper(), "PCM_16"))
    wav = tones(*hertz, rate=rate)
    soundfile.write(stream, wav, rate, format=kind, subtype=subtype or usual)
    return stream.getvalue()


def holding(name: str, data: bytes | Callable[[], bytes]) -> Maker:
    """A file of that name and content."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data() if callable(data) else data)
        return path

    return make


def patched(data: bytes, at: int, new: bytes) -> bytes:
    """``data`` with other bytes from ``at`` on."""
    return data[:at] + new + data[at + len(new) :]


def at_rate(suffix: str, rate: int) -> Maker:
    """A second of audio at a rate (two tones)."""
    return holding(f"{rate}.{suffix}", lambda: sound(suffix, 300, 600, rate=rate))


def wav_that_says_rate(rate: int) -> Maker:
    """A WAV of one second whose header names another rate."""
    return holding(
        "rate.wav", lambda: patched(sound("wav", 300, 600), 24, rate.to_bytes(4, "little"))
    )


def flac_of_frames(frames: int) -> Maker:
    """A FLAC of a second whose header promises so many frames; 0 is 'unknown', as in a stream."""

    def data() -> bytes:
        raw = sound("flac", 300, 600)
        # STREAMINFO: 20 bits rate, 3 channels, 5 bits a sample, 36 bits frames, from byte 18 on
        field = int.from_bytes(raw[18:26], "big") >> 36 << 36 | frames
        return patched(raw, 18, field.to_bytes(8, "big"))

    return holding("frames.flac", data)


def wav_that_says_channels(channels: int) -> Maker:
    """A WAV of one second whose header promises more channels."""

    def data() -> bytes:
        raw = patched(sound("wav", 300, 600), 22, channels.to_bytes(2, "little"))
        return patched(raw, 32, (2 * channels % 65536).to_bytes(2, "little"))

    return holding("channels.wav", data)


def shard_address(size: int) -> Maker:
    """The address of a clip in a tar that is far larger than the tar."""

    def make(folder: Path) -> Path:
        (folder / "a.tar").write_bytes(b"\0" * 10240)
        return folder / f"a.tar::x.wav@512+{size}"

    return make
