"""``stream.json``: where a training set is that is read as it goes, and how."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechcwcl.data.shard_names import expand
from speechcwcl.errors import UserError, closest, require
from speechcwcl.files import read_json, sha256_json, write_json

VERSION = 1
NAME = "stream.json"


@dataclass
class StreamSpec:
    """What a ``stream.json`` says. One of ``dataset``, ``folder`` and ``shards`` is given.

    Attributes:
        dataset: id of a dataset on the hub.
        folder: parquet, arrow or audio folder on the disk; in the ``stream.json`` relative to it.
        shards: WebDataset tars: a folder, or paths (relative alike) and URLs, braces allowed.
        config, revision: of the dataset on the hub.
        split: of the dataset or folder.
        audio, text, id: names of the columns; without ``id``, clips are numbered.
        shuffle: clips that are held in memory and mixed, on each rank; its workers share them.
        min_duration, max_duration: seconds; other clips are passed over.
        skip_bad: pass over clips that cannot be read, with a line each, instead of stopping.
    """

    dataset: str = ""
    folder: str = ""
    shards: list[str] = field(default_factory=list)
    config: str | None = None
    revision: str | None = None
    split: str = "train"
    audio: str = "audio"
    text: str = "text"
    id: str = ""
    shuffle: int = 2000
    min_duration: float = 0.1
    max_duration: float = 30.0
    skip_bad: bool = False

    @property
    def hash(self) -> str:
        """Changes with anything that changes what is read, or its order."""
        return sha256_json(dataclasses.asdict(self))


def is_stream(path: str | Path) -> bool:
    """Whether a training set is a ``stream.json`` rather than a manifest."""
    return Path(path).suffix == ".json"


def read_stream(path: str | Path) -> StreamSpec:
    """Read a ``stream.json``.

    Raises:
        UserError: not there, not JSON, another version, an unknown key, a value of a wrong kind.
    """
    path = Path(path)
    values = read_json(path)
    require(isinstance(values, dict), f"{path}: expected an object with keys and values")
    require("version" in values, f"{path}: has no version: not a {NAME} of `prepare` or `shards`")
    version = values.pop("version")
    require(
        version == VERSION,
        f"{path}: version {version!r}; this speechcwcl reads version {VERSION}",
    )
    kinds = typing.get_type_hints(StreamSpec)
    for name, value in values.items():
        require(name in kinds, f"{path}: no such key {name!r}{closest(name, kinds)}")
        if name == "shards" and isinstance(value, str):
            value = [value]
        if kinds[name] is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        _check_kind(path, name, value, kinds[name])
        values[name] = value
    spec = StreamSpec(**values)
    check_spec(spec, str(path))
    spec.folder = spec.folder and str(path.parent / spec.folder)
    spec.shards = [word if "://" in word else str(path.parent / word) for word in spec.shards]
    return spec


def _check_kind(path: Path, name: str, value: Any, kind: Any) -> None:
    if name == "shards":
        good = isinstance(value, list) and all(isinstance(word, str) for word in value)
        wanted = "a list of paths or URLs"
    else:
        allowed = typing.get_args(kind) or (kind,)
        good = isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
        wanted = " or ".join(a.__name__ for a in allowed).replace("NoneType", "null")
    require(good, f"{path}: {name}: {value!r} is not {wanted}")


def check_spec(spec: StreamSpec, where: str) -> None:
    """Refuse a description that contradicts itself; ``where`` begins the message."""
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
    """Write a ``stream.json``: what is given, and the defaults that people look for."""
    shown = {"shuffle", "min_duration", "max_duration"}
    shown |= set() if spec.shards else {"split", "audio", "text"}
    values = {
        f.name: getattr(spec, f.name)
        for f in dataclasses.fields(spec)
        if f.name in shown or getattr(spec, f.name) not in (f.default, [])
    }
    write_json(path, {"version": VERSION, **values})
