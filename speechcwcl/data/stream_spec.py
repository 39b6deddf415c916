"""``stream.json``: where a training set is that is read as it goes, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from speechcwcl.data.shard_names import expand
from speechcwcl.errors import UserError, require
from speechcwcl.files import read_json, sha256_json, write_json
from speechcwcl.yamls import Document, validate

VERSION = 1
NAME = "stream.json"


class StreamSpec(BaseModel):
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

    model_config = ConfigDict(extra="forbid", strict=True)

    dataset: str = ""
    folder: str = ""
    shards: list[str] = []
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

    @field_validator("shards", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def hash(self) -> str:
        """Changes with anything that changes what is read, or its order."""
        return sha256_json(self.model_dump())


def is_stream(path: str | Path) -> bool:
    """Whether a training set is a ``stream.json`` rather than a manifest."""
    return Path(path).suffix == ".json"


def read_stream(path: str | Path) -> StreamSpec:
    """Read a ``stream.json``.

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
    given = spec.model_dump(exclude_defaults=True)
    values = {k: v for k, v in spec.model_dump().items() if k in shown or k in given}
    write_json(path, {"version": VERSION, **values})
