"""Makes an Ogg file the same at each making: its stream number is random, and here it is not."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
        table.append(value & 0xFFFFFFFF)
    return table


_CRC_TABLE = _crc_table()


def _crc(page: bytes) -> int:
    """Ogg's own checksum (polynomial 0x04C11DB7, not reflected, starting at 0)."""
    table, value = _CRC_TABLE, 0
    for byte in page:
        value = ((value << 8) & 0xFFFFFFFF) ^ table[(value >> 24) ^ byte]
    return value


def fix_serial(path: Path, name: str) -> None:
    """Replaces the stream number in every page by one that depends on `name` alone."""
    data = bytearray(path.read_bytes())
    serial = struct.pack("<I", zlib.crc32(name.encode()))
    start = 0
    while start < len(data):
        if data[start : start + 4] != b"OggS":
            raise ValueError(f"{path}: not an Ogg page at byte {start}")
        count = data[start + 26]
        end = start + 27 + count + sum(data[start + 27 : start + 27 + count])
        data[start + 14 : start + 18] = serial
        data[start + 22 : start + 26] = bytes(4)
        data[start + 22 : start + 26] = struct.pack("<I", _crc(bytes(data[start:end])))
        start = end
    path.write_bytes(bytes(data))
