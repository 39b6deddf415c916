"""Walking over MP3 frames: how long a file is, and where another one begins in it."""

from __future__ import annotations

from mmap import mmap
from typing import NamedTuple

Buffer = bytes | mmap

_KBITS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44100, 48000, 32000)
# Encoders pad, and headers may miss a few frames.
TAIL = 4 * 1152


class Part(NamedTuple):
    """A stretch of an MP3 that one encoder wrote.

    Attributes:
        start, end: bytes.
        samples: per channel, counted.
        announced: whether a Xing, Info or VBRI header says how many there are; without one decoders
            take the first frame's bit rate for all.
    """

    start: int
    end: int
    samples: int
    announced: bool


class _Frame(NamedTuple):
    size: int
    samples: int
    kind: tuple[int, int]


def behind_tags(data: Buffer, at: int = 0) -> int:
    """The first byte behind ID3 tags that begin at ``at``."""
    while data[at : at + 3] == b"ID3" and len(head := data[at : at + 10]) == 10:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        at += 10 + size + (10 if head[5] & 0x10 else 0)
    return at


def mp3_parts(data: Buffer, at: int = 0) -> list[Part]:
    """The parts of an MP3 file; none if there is no frame at byte ``at``.

    A new part begins with a length header, behind tags, where rate or version change, and where
    there are more frames than a length header announced.
    """
    parts: list[Part] = []
    begin, samples, most, kind = at, 0, -1, None

    def close(end: int) -> None:
        if samples:
            parts.append(Part(begin, end, samples, most >= 0))

    while frame := _frame(data, at):
        announced = _announced(data[at : at + 200])
        over = 0 <= most < samples - TAIL
        if announced is not None or over or kind not in (None, frame.kind):
            close(at)
            begin, samples = at, 0
            most = -1 if announced is None else announced * frame.samples
        samples += frame.samples if announced is None else 0
        kind = frame.kind
        at += frame.size
        if not _frame(data, at):
            found = _next_frame(data, at)
            if found is None:
                break
            if data[at : at + 3] == b"ID3":
                close(at)
                begin, samples, most, kind = found, 0, -1, None
            at = found
    close(len(data))
    return parts


def untold_samples(data: Buffer) -> int:
    """Samples per channel, counted, where no length header says how many; else 0."""
    parts = mp3_parts(data, behind_tags(data))
    return 0 if any(part.announced for part in parts) else sum(part.samples for part in parts)


def _next_frame(data: Buffer, at: int) -> int | None:
    """Where two frames follow each other again behind tags or rubbish."""
    at = behind_tags(data, at)
    while at >= 0:
        frame = _frame(data, at)
        if frame and _frame(data, at + frame.size):
            return at
        at = data.find(b"\xff", at + 1)
    return None


def _announced(head: bytes) -> int | None:
    """The number of frames in the length header that this frame holds; 0 where it does not say."""
    for tag, at in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        place = head.find(tag, 4, 50)
        if place >= 0:
            if tag != b"VBRI" and not int.from_bytes(head[place + 7 : place + 8], "big") & 1:
                return 0
            return int.from_bytes(head[place + at : place + at + 4], "big")
    return None


def _frame(data: Buffer, at: int) -> _Frame | None:
    """The Layer III frame that begins at a byte, if one does."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version = head[1] >> 3 & 3  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    rate, kbits = head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or rate == 3 or kbits in (0, 15):
        return None
    padding = head[2] >> 1 & 1
    if version == 3:
        size = 144_000 * _KBITS[1][kbits] // _RATES[rate] + padding
        return _Frame(size, 1152, (version, rate))
    hertz = _RATES[rate] // (2 if version == 2 else 4)
    return _Frame(72_000 * _KBITS[2][kbits] // hertz + padding, 576, (version, rate))
