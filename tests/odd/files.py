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
    """Half a second of each tone, one after the other, `(samples,)` float32."""
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
    """`data` with other bytes from `at` on."""
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


def flac_with_foreign_header() -> Maker:
    """What `flac --keep-foreign-metadata` makes of a WAV: its header in a metadata block."""

    def data() -> bytes:
        raw, kept = sound("flac", 300, 600), b"riff" + sound("wav", 300)[:44]
        block = b"\x02" + len(kept).to_bytes(3, "big") + kept
        return raw[:42] + block + raw[42:]

    return holding("kept.flac", data)


def au_of_bytes(size: int) -> Maker:
    """An AU of a second whose header promises so many bytes."""
    return holding("x.au", patched(sound("au", 300, 600), 8, size.to_bytes(4, "big")))


def caf_of_bytes(size: int) -> Maker:
    """A CAF of a second whose header promises so many bytes; all ones are 'unknown'."""
    raw = sound("caf", 300, 600)
    return holding("x.caf", patched(raw, raw.index(b"data") + 4, size.to_bytes(8, "big")))


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


def joined(suffix: str, *others: str) -> Maker:
    """`cat a b > c`: files of 300, 600 and of 900, 1200, 1500 Hz one after the other."""
    parts = [sound(suffix, 300, 600), *(sound(other, 900, 1200, 1500) for other in others)]
    return holding(f"joined.{suffix}", b"".join(parts))


def with_id3(suffix: str) -> Maker:
    """An ID3 tag before the file, as some shops and taggers write it before anything."""
    return holding(f"tagged.{suffix}", id3() + sound(suffix, 300, 600))


def id3(size: int = 2048) -> bytes:
    """An ID3v2 tag of `size` bytes of padding."""
    length = bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127])
    return b"ID3\x03\0\0" + length + b"\0" * size


def unfinished_wav(riff: int, size: int, tail: bytes = b"") -> Maker:
    """A WAV whose writer never came back to fill in its lengths."""

    def data() -> bytes:
        raw = patched(sound("wav", 300, 600), 4, riff.to_bytes(4, "little"))
        return patched(raw, 40, size.to_bytes(4, "little")) + tail

    return holding("unfinished.wav", data)


def unfinished(suffix: str) -> Maker:
    """The same in other containers: every length that the writer fills in last is zero."""

    def data() -> bytes:
        raw = sound(suffix, 300, 600)
        if suffix == "aiff":
            at, head = raw.index(b"SSND") + 4, raw.index(b"COMM") + 10
            return patched(patched(patched(raw, 4, bytes(4)), at, bytes(4)), head, bytes(4))
        if suffix == "au":
            return patched(raw, 8, bytes(4))
        if suffix == "w64":
            at = raw.index(b"data\xf3\xac\xd3\x11") + 16
            return patched(patched(raw, 16, bytes(8)), at, bytes(8))
        at = raw.index(b"ds64") + 8  # rf64
        return patched(raw, at, bytes(24))

    return holding(f"unfinished.{suffix}", data)


def empty_wav_with_a_chunk() -> Maker:
    """A WAV that is meant to hold no samples: a LIST chunk follows."""
    chunk = b"LIST" + (8).to_bytes(4, "little") + b"INFOISFT"

    def data() -> bytes:
        raw = sound("wav", 300)[:44] + chunk
        raw = patched(raw, 4, (len(raw) - 8).to_bytes(4, "little"))
        return patched(raw, 40, bytes(4))

    return holding("empty.wav", data)


def float_wav(scale: float, subtype: str = "FLOAT") -> Maker:
    """A WAV of floats whose full scale is `scale`."""
    stream = io.BytesIO()
    soundfile.write(stream, tones(300, 600) * scale, RATE, format="WAV", subtype=subtype)
    return holding("floats.wav", stream.getvalue())


def shorten_sph() -> Maker:
    """The header of a .sph that is compressed with shorten."""
    head = (
        b"NIST_1A\n   1024\nsample_count -i 16000\nsample_coding -s26 pcm,embedded-shorten-v2.00\n"
    )
    return holding("x.sph", (head + b"end_head\n").ljust(1024) + b"ajkg\x02" + b"\x55" * 4000)


def named(name: str, on_disk: str) -> Maker:
    """A path spelled otherwise than the file on the disk is."""

    def make(folder: Path) -> Path:
        holding(on_disk, sound("wav", 300, 600))(folder)
        return folder / name

    return make


def folder_of(*names: str) -> Maker:
    """A folder of empty files."""

    def make(folder: Path) -> Path:
        for name in names:
            holding(name, b"")(folder)
        return folder

    return make


def folder_with_links() -> Maker:
    """A folder with a linked folder of clips, a link to itself, and a link that leads nowhere."""

    def make(folder: Path) -> Path:
        clip = sound("wav", 300)
        for name in ("top/a.wav", "elsewhere/b.flac", "top/deep/c.CAF", "top/._a.wav", "top/n.txt"):
            holding(name, clip)(folder)
        for at, target in (("linked", "elsewhere"), ("deep/up", "top"), ("gone", "nowhere")):
            (folder / "top" / at).symlink_to(folder / target)
        (folder / "elsewhere/back").symlink_to(folder / "top")
        return folder / "top"

    return make


def data_folder(**tables: str | bytes) -> Maker:
    """A Kaldi folder of two clips, `a` and `b`, with some tables replaced or added.

    `AUDIO` in a table is the folder of the clips (a second each).
    """

    def make(folder: Path) -> Path:
        for name in ("a", "b"):
            holding(f"audio/{name}.wav", sound("wav", 300, 600))(folder)
        usual = {"wav.scp": "a AUDIO/a.wav\nb AUDIO/b.wav\n", "text": "a one\nb two\n"}
        for name, rows in {**usual, **tables}.items():
            raw = rows.encode() if isinstance(rows, str) else rows
            place = str(folder / "audio").encode()
            holding(f"set/{name}", raw.replace(b"AUDIO", place))(folder)
        return folder / "set"

    return make
