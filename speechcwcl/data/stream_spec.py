"""`stream.json`: where a training set is that is read as it goes, and how.

A description of data never runs a command. Readers of WebDataset run `pipe:` as a command, and
find it behind braces, `::` and other protocols. So words are expanded here and looked at
afterwards: files of this machine, http(s) and hf are opened, nothing else.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname, urlopen

from braceexpand import braceexpand
from pydantic import BaseModel, ConfigDict, field_validator
from typing_extensions import TypedDict

from speechcwcl.errors import UserError, require
from speechcwcl.files import read_json, sha256_json, write_json
from speechcwcl.yamls import Document, validate

VERSION = 1
NAME = "stream.json"


class StreamSpec(BaseModel):
    """What a `stream.json` says. One of `dataset`, `folder` and `shards` is given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dataset: str = ""  # id of a dataset on the hub
    # parquet, arrow or audio folder on the disk; in the `stream.json` relative to it
    folder: str = ""
    # WebDataset tars: a folder, or paths (relative alike) and URLs, braces allowed
    shards: list[str] = []
    config: str | None = None  # of the dataset on the hub, as `revision`
    revision: str | None = None
    split: str = "train"  # of the dataset or folder
    audio: str = "audio"  # names of the columns, as the next two; without `id`, clips are numbered
    text: str = "text"
    id: str = ""
    # clips that are held in memory and mixed, on each rank; its workers share them
    shuffle: int = 2000
    min_duration: float = 0.1  # seconds; other clips are passed over
    max_duration: float = 30.0
    # pass over clips that cannot be read, with a line each, instead of stopping
    skip_bad: bool = False

    @field_validator("shards", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def hash(self) -> str:
        """Changes with anything that changes what is read, or its order."""
        return sha256_json(self.model_dump())


def is_stream(path: str | Path) -> bool:
    """Whether a training set is a `stream.json` rather than a manifest."""
    return Path(path).suffix == ".json"


def read_stream(path: str | Path) -> StreamSpec:
    """Read a `stream.json`.

    Raises:
        UserError: not there, not JSON, another version, an unknown key, a value of a wrong kind.
    """
    path = Path(path)
    values = read_json(path, dict)
    require("version" in values, f"{path}: has no version: not a {NAME} of `prepare` or `shards`")
    version = values.pop("version")
    require(
        version == VERSION,
        f"{path}: version {version!r}; this speechcwcl reads version {VERSION}",
    )
    spec = validate(StreamSpec, Document(path, values))
    check_spec(spec, str(path))
    spec.folder = spec.folder and str(path.parent / spec.folder)
    spec.shards = [word if "://" in word else str(path.parent / word) for word in spec.shards]
    return spec


def check_spec(spec: StreamSpec, where: str) -> None:
    """Refuse a description that contradicts itself; `where` begins the message."""
    given = [name for name in ("dataset", "folder", "shards") if getattr(spec, name)]
    require(
        len(given) == 1,
        f"{where}: give one of dataset, folder and shards, not {' and '.join(given) or 'none'}",
    )
    require(spec.shuffle >= 2, f"{where}: shuffle: {spec.shuffle} clips cannot be mixed; 2 or more")
    require(
        0 <= spec.min_duration < spec.max_duration,
        f"{where}: min_duration {spec.min_duration:g} is not below max_duration "
        f"{spec.max_duration:g}",
    )
    for shard in spec.shards:
        try:
            expand(shard)
        except UserError as error:
            raise UserError(f"{where}: shards: {error}") from error


def write_stream(path: str | Path, spec: StreamSpec) -> None:
    """Write a `stream.json`: what is given, and the defaults that people look for."""
    shown = {"shuffle", "min_duration", "max_duration"}
    shown |= set() if spec.shards else {"split", "audio", "text"}
    given = spec.model_dump(exclude_defaults=True)
    values = {k: v for k, v in spec.model_dump().items() if k in shown or k in given}
    write_json(path, {"version": VERSION, **values})


_SCHEMES = ("file", "http", "https", "hf")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
_LONGEST = 4000  # letters of a word
_MOST_SHARDS = 1_000_000


class Shard(TypedDict):
    """A line of `shards.json`."""

    name: str
    bytes: int
    utterances: int
    sha256: str


class ShardIndex(TypedDict):
    """`shards.json`."""

    version: int
    key: str
    shards: list[Shard]


def expand(word: str) -> list[str]:
    """The paths and URLs that a word means: split at `::`, braces expanded.

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
    """A path or URL that may be opened; `word` is what it was expanded from."""
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
    """Open what `expand` gave, for reading from front to back."""
    if shard.startswith(("http://", "https://")):
        return urlopen(shard, timeout=60)
    if shard.startswith("hf://"):
        from huggingface_hub import HfFileSystem

        try:
            return HfFileSystem().open(shard, "rb")
        except Exception as error:  # its HTTP client has a class of its own for a lost network
            raise OSError(str(error)) from error
    return Path(shard).open("rb")
