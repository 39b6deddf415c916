"""Audio inside a tar shard: ``shard-000012.tar::utt.flac@1536+32044``: 32,044 bytes from 1,536 on.

The address says where the bytes are, so that a clip costs one read, in any order, with nothing
extracted and no index in memory. :mod:`speechcwcl.data.shards` writes such addresses.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

_ADDRESS = re.compile(r"(.+?\.tar)::(.+)@(\d+)\+(\d+)", re.DOTALL)


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        tar: path of the tar.
        name: of the file, as the tar has it.
        offset: first byte of its content in the tar.
        size: bytes.
    """

    tar: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}::{self.name}@{self.offset}+{self.size}"

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            FileNotFoundError: there is no such tar.
            EOFError: the tar ends before its member does.
        """
        with Path(self.tar).open("rb", buffering=0) as stream:
            there = max(0, os.fstat(stream.fileno()).st_size - self.offset)
            data = os.pread(stream.fileno(), min(self.size, there), self.offset)
        if len(data) != self.size:
            raise EOFError(f"{self.size} bytes of {self.name} announced, {len(data)} there")
        return data


def find_member(audio: str) -> Member | None:
    """The member that an audio path means; None for the path of an ordinary file."""
    found = _ADDRESS.fullmatch(audio) if "::" in audio else None
    return Member(found[1], found[2], int(found[3]), int(found[4])) if found else None


def read_audio_file(audio: str) -> bytes:
    """The bytes of an audio file or member, as they are stored."""
    member = find_member(audio)
    return member.read() if member else Path(audio).read_bytes()
