"""Counting MP3 frames where the file does not say how long it is."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import IO

_KBITS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44100, 48000, 32000)


def counted_samples(path: str | Path | IO[bytes]) -> int | None:
    """Samples per channel by counting frames; None where a Xing, Info or VBRI header tells.

    Without such a header decoders take the first frame's bit rate for all, which is far off for
    a variable rate: half of the audio would be lost without a word.
    """
    named = isinstance(path, str | Path)
    with Path(path).open("rb") if named else contextlib.nullcontext(path) as stream:
        head = stream.read(10)
        skip = 0
        if head[:3] == b"ID3" and len(head) == 10:
            skip = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
        stream.seek(skip)
        raw = stream.read(4096)
        at = max(0, raw.find(b"\xff"))
        if any(tag in raw[at : at + 256] for tag in (b"Xing", b"Info", b"VBRI")):
            return None
        raw += stream.read()
    samples = 0
    while frame := _frame(raw[at : at + 4]):
        samples += frame[1]
        at += frame[0]
    return samples


def _frame(head: bytes) -> tuple[int, int] | None:
    """(bytes, samples) of a Layer III frame; None if this is not the head of one."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version = head[1] >> 3 & 3  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    rate, kbits = head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or rate == 3 or kbits in (0, 15):
        return None
    padding = head[2] >> 1 & 1
    if version == 3:
        return 144_000 * _KBITS[1][kbits] // _RATES[rate] + padding, 1152
    hertz = _RATES[rate] // (2 if version == 2 else 4)
    return 72_000 * _KBITS[2][kbits] // hertz + padding, 576
