"""Which shards a word means, and opening them: a description of data never runs a command.

Readers of WebDataset run ``pipe:`` as a command, and find it behind braces, ``::`` and other
protocols. So words are expanded here and looked at afterwards: files of this machine, http(s) and
hf are opened, nothing else.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from urllib.request import url2pathname, urlopen

from braceexpand import braceexpand
from typing_extensions import TypedDict

from speechcwcl.errors import UserError

_SCHEMES = ("file", "http", "https", "hf")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
_LONGEST = 4000  # letters of a word
_MOST_SHARDS = 1_000_000


class Shard(TypedDict):
    """A line of ``shards.json``."""

    name: str
    bytes: int
    utterances: int
    sha256: str


class ShardIndex(TypedDict):
    """``shards.json``."""

    version: int
    key: str
    shards: list[Shard]


def expand(word: str) -> list[str]:
    """The paths and URLs that a word means: split at ``::``, braces expanded.

    Raises:
        UserError: a command, another protocol, braces that do not close, a million shards or more.
    """
    if len(word) > _LONGEST:
        raise UserError(f"{word[:40]!r}...: {len(word):,} letters; {_LONGEST:,} are allowed")
    # counted first: braceexpand holds the whole of each range in memory
    many = sum(abs(int(last) - int(first)) for first, last in _RANGE.findall(word)) >= _MOST_SHARDS
    found: list[str] = []
    try:
        parts = itertools.chain.from_iterable(map(braceexpand, word.split("::")))
        found = [] if many else list(itertools.islice(parts, _MOST_SHARDS))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{word!r}: its braces cannot be expanded: {error}") from error
    if many or len(found) == _MOST_SHARDS:
        raise UserError(f"{word!r}: means {_MOST_SHARDS:,} shards or more")
    return [_allowed(part.strip(), word) for part in found]


def _allowed(shard: str, word: str) -> str:
    """A path or URL that may be opened; ``word`` is what it was expanded from."""
    scheme = _SCHEME.match(shard)
    kind = scheme[1].lower() if scheme else "file"
    if kind not in _SCHEMES or "::" in shard or not shard.isprintable():
        raise UserError(
            f"{word!r}: {shard!r} is no file and no URL of http(s) or hf; a description of data "
            "runs no command and knows no other protocol (a file of such a name: write ./ first)"
        )
    if not scheme:
        return shard
    return url2pathname(urlsplit(shard).path) if kind == "file" else kind + shard[len(kind) :]


def open_shard_file(shard: str) -> IO[bytes]:
    """Open what :func:`expand` gave, for reading from front to back.

    Raises:
        OSError: it cannot be had.
    """
    if shard.startswith(("http://", "https://")):
        return urlopen(shard, timeout=60)
    if shard.startswith("hf://"):
        from huggingface_hub import HfFileSystem

        return HfFileSystem().open(shard, "rb")
    return Path(shard).open("rb")
