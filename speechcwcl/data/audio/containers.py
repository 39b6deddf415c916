"""Files that are not what decoders take them for: joined, with tags in front, never finished.

Decoders stop where the first header says that the audio ends, and refuse what a recorder that lost
its power left behind. `whole_files` cuts such a file into whole ones. MP3 files, which have
no header of their own, are walked frame by frame: how long they are, and where another one begins.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import pairwise
from mmap import mmap
from typing import NamedTuple

from speechcwcl.errors import UserError

Buffer = bytes | mmap

_KBITS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44100, 48000, 32000)
# Encoders pad, and headers may miss a few frames.
TAIL = 4 * 1152


class Part(NamedTuple):
    """A stretch of an MP3 that one encoder wrote."""

    start: int  # bytes, as `end`
    end: int
    samples: int  # per channel, counted
    # whether a Xing, Info or VBRI header says how many there are; without one decoders take the
    # first frame's bit rate for all
    announced: bool


class _Frame(NamedTuple):
    size: int
    samples: int
    kind: tuple[int, int]


def behind_tags(data: Buffer, at: int = 0) -> int:
    """The first byte behind ID3 tags that begin at `at`."""
    while data[at : at + 3] == b"ID3" and len(head := data[at : at + 10]) == 10:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        at += 10 + size + (10 if head[5] & 0x10 else 0)
    return at


def mp3_parts(data: Buffer, at: int = 0) -> list[Part]:
    """The parts of an MP3 file; none if there is no frame at byte `at`.

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


# From here on a length is a placeholder of a writer that could not go back (sox, ffmpeg pipes).
PLACEHOLDER_BYTES = 0x7FFF0000
_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_CAF_UNKNOWN = (1 << 64) - 1
# How a whole file of each kind begins; long enough not to be met within audio.
_BEGINNINGS = {
    kind: re.compile(pattern, re.DOTALL)
    for kind, pattern in {
        b"RIFF": rb"R(?:IFF|F64)....WAVE",
        b"RF64": rb"R(?:IFF|F64)....WAVE",
        b"fLaC": rb"fLaC[\x00\x80]\x00\x00\x22",
        b"OggS": rb"OggS\x00\x02\x00{8}",
        b"FORM": rb"FORM....AIF[FC]",
        b"riff": re.escape(_W64),
        b".snd": rb"\.snd\x00\x00\x00[\x18-\xff].{4}\x00\x00\x00[\x01-\x1b]\x00",
        b"caff": rb"caff\x00\x01\x00\x00desc",
        b"NIST": rb"NIST_1A\n {1,6}\d+\n",
    }.items()
}


def is_container(head: bytes) -> bool:
    """Whether a file's first bytes name one of the containers here."""
    return head[:4] in _BEGINNINGS


def whole_files(data: Buffer) -> list[bytes] | None:
    """The whole files in `data`, one after the other; None where it is one as its header says.

    Bytes behind a file that begin no other (tags, padding) are left to the decoder.

    Raises:
        UserError: a file of another kind lies behind the first one.
    """
    start = behind_tags(data)
    kind = bytes(data[start : start + 4])
    if kind not in _BEGINNINGS:
        parts = mp3_parts(data, start)
        if parts:
            _refuse_other_kinds(data, start, kind)
        return [data[part.start : part.end] for part in parts] if len(parts) > 1 else None
    _refuse_other_kinds(data, start, kind)
    starts = [start, *_further(data, start, kind)]
    changes = [list(_mended(data, a, b)) for a, b in pairwise([*starts, len(data)])]
    if starts == [0] and not changes[0]:
        return None
    found = []
    for (a, b), patches in zip(pairwise([*starts, len(data)]), changes, strict=True):
        whole = bytearray(data[a:b])
        for at, value in patches:
            whole[at - a : at - a + len(value)] = value
        found.append(bytes(whole))
    return found


def _further(data: Buffer, start: int, kind: bytes) -> Iterator[int]:
    """Where further files begin behind the one at `start`."""
    last = -1  # the end of a page that begins a stream: the next one is of the same file
    for found in _BEGINNINGS[kind].finditer(data, _search_from(data, start, kind)):
        here = found.start()
        if kind == b"OggS":
            before, last = last, _page_end(data, here)
            if here in (before, _page_end(data, start)):
                continue
        yield here


def _search_from(data: Buffer, start: int, kind: bytes) -> int:
    """From where on another file may begin behind the one at `start`."""
    at = start + 4
    if kind == b"RIFF":  # where it ends with the file, as a rule, nothing needs to be searched
        end = _told_end(data, start)
        return end - 1 if len(data) - end in (0, 1) else start + 12
    if kind == b"fLaC":  # may keep the header of the WAV that it was made of
        while len(head := data[at : at + 4]) == 4:
            at += 4 + int.from_bytes(head[1:], "big")
            if head[0] & 0x80:
                break
    return at


def _told_end(data: Buffer, start: int) -> int:
    """Where a RIFF file says that it ends."""
    return start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")


def _ends_in_mp3(data: Buffer) -> bool:
    """Whether the last frames before the end are those of an MP3."""
    end = len(data) - (128 if bytes(data[-128:-125]) == b"TAG" else 0)
    first = max(0, end - 6000)
    for sync in re.finditer(rb"\xff[\xe2-\xff]", data[first:end]):
        at, count = first + sync.start(), 0
        while at < end and (frame := _frame(data, at)):
            at, count = at + frame.size, count + 1
        if count >= 3 and at == end:
            return True
    return False


def _refuse_other_kinds(data: Buffer, start: int, kind: bytes) -> None:
    """Decoders would stop in silence where a file of another kind begins."""
    at = _search_from(data, start, kind)
    own = _BEGINNINGS.get(kind)
    others = [pattern for pattern in _BEGINNINGS.values() if pattern != own]
    whole = kind == b"RIFF" and len(data) - _told_end(data, start) in (0, 1)
    if any(pattern.search(data, at) for pattern in others) or (
        kind in _BEGINNINGS and not whole and _ends_in_mp3(data)
    ):
        raise UserError("several recordings of different kinds in one file; take them apart")


def _page_end(data: Buffer, at: int) -> int:
    """The first byte behind an Ogg page."""
    segments = int.from_bytes(data[at + 26 : at + 27], "big")
    return at + 27 + segments + sum(data[at + 27 : at + 27 + segments])


def _mended(data: Buffer, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """What must be written where, so that a file that was never finished has its lengths."""
    kind = bytes(data[start : start + 4])
    if kind in (b"RIFF", b"RF64"):
        at, size = _chunk(data, start + 12, end, b"data", "<")
        long = _chunk(data, start + 12, end, b"ds64", "<")[0] if kind == b"RF64" else 0
        if long:
            size = int.from_bytes(data[long + 8 : long + 16], "little")
        if at and size == 0 and not _only_chunks(data, at, end):
            yield at - 4, struct.pack("<I", min(end - at, 0xFFFFFFFF))
            yield start + 4, struct.pack("<I", min(end - start - 8, 0xFFFFFFFF))
            if long:
                yield long, struct.pack("<QQ", end - start - 8, end - at)
    elif kind == b"FORM":
        at, size = _chunk(data, start + 12, end, b"SSND", ">")
        head, _ = _chunk(data, start + 12, end, b"COMM", ">")
        unknown = size <= 8 or not any(data[head + 2 : head + 6])
        if at and 0 < head <= end - 8 and end - at > 8 and unknown:
            channels, _, bits = struct.unpack(">HIH", data[head : head + 8])
            frames = (end - at - 8) // max(1, channels * -(-bits // 8))
            yield at - 4, struct.pack(">I", min(end - at, 0xFFFFFFFF))
            yield start + 4, struct.pack(">I", min(end - start - 8, 0xFFFFFFFF))
            yield head + 2, struct.pack(">I", min(frames, 0xFFFFFFFF))
    elif kind == b"caff":
        at, size = _chunk(data, start + 8, end, b"data", ">", width=8)
        if at and size in (0, _CAF_UNKNOWN) and end - at > 4:
            yield at - 8, struct.pack(">Q", end - at)
    elif kind == b".snd":
        if not 0 < int.from_bytes(data[start + 8 : start + 12], "big") < PLACEHOLDER_BYTES:
            yield start + 8, b"\xff" * 4
    elif kind == b"riff":
        at = data.find(_W64_DATA, start, start + 65536)
        if 0 <= at < end - 24 and int.from_bytes(data[at + 16 : at + 24], "little") <= 24:
            yield at + 16, struct.pack("<Q", end - at)
            yield start + 16, struct.pack("<Q", end - start)


def _chunk(
    data: Buffer, at: int, end: int, name: bytes, order: str, width: int = 4
) -> tuple[int, int]:
    """First byte and announced size (of `width` bytes) of a chunk's content; zeros without one."""
    head = 4 + width
    while at + head <= end:
        size = int.from_bytes(data[at + 4 : at + head], "little" if order == "<" else "big")
        if data[at : at + 4] == name:
            return at + head, size
        at += head + size + (size % 2 if width == 4 else 0)  # CAF does not pad
    return 0, 0


def _only_chunks(data: Buffer, at: int, end: int) -> bool:
    """Whether chunks follow to the end, so that the empty one before them is meant to be empty."""
    while at + 8 <= end and data[at : at + 4].isalnum():
        size = struct.unpack("<I", data[at + 4 : at + 8])[0]
        at += 8 + size + size % 2
    return at >= end
