"""Records of a ``datasets`` source, audio as it is stored: no decoding, no code of the dataset."""

from __future__ import annotations

import csv
import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.errors import UserError, closest
from speechcwcl.files import read_json

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
_MAGIC = ((b"RIFF", ".wav"), (b"fLaC", ".flac"), (b"OggS", ".ogg"), (b"ID3", ".mp3"))
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.tsv")
_SHARD = re.compile(r"[-_.]?\d{3,}(-of-\d+)?$")
# Parquet files are cut into row groups only where there are few: it asks every file for its list.
_FEW_FILES = 64
_PIECE = 1000

Rows = Callable[[], Iterator[dict[str, Any]]]


@dataclass
class Records:
    """One split of a source.

    Attributes:
        columns: names of the columns.
        audio_columns: those that hold audio by their type, if types are known.
        class_names: column -> names, for columns that store class numbers.
        rows: opens an iterator that skips the given number of records first.
        key: JSON-able; changes when the source does.
        local: whether its paths are files of this machine.
        pieces: cuts the split into parts that can be read alone (files, row groups, stretches of
            rows), each given as a function that opens its rows; the same ones at every call.
    """

    columns: list[str]
    audio_columns: list[str]
    class_names: dict[str, list[str]]
    rows: Any
    key: dict[str, Any] = field(default_factory=dict)
    local: bool = True
    pieces: Callable[[], list[Rows]] | None = None


def hub_splits(dataset: str, config: str | None, revision: str | None) -> list[str]:
    """Names of the splits of a dataset on the hub."""
    import datasets

    return list(
        _asked(dataset, datasets.get_dataset_split_names, dataset, config, revision=revision)
    )


def hub_records(dataset: str, split: str, config: str | None, revision: str | None) -> Records:
    """A split of a dataset on the hub, streamed."""
    import datasets

    streamed = _asked(
        dataset, datasets.load_dataset, dataset, config, split=split, revision=revision,
        streaming=True,
    )  # fmt: skip
    key = {"dataset": dataset, "config": config, "revision": revision, "split": split}
    return replace(_of_iterable(streamed, key, dataset), local=False)


def _asked(dataset: str, function: Any, *args: Any, **options: Any) -> Any:
    """Call something of ``datasets``; its many classes of error become one line."""
    try:
        return function(*args, **options)
    except Exception as error:
        text = str(error).strip() or type(error).__name__
        raise UserError(
            f"dataset {dataset!r}: {text.splitlines()[0]} (a dataset that has a loading "
            "script: download it and give the folder with --data)"
        ) from error


def local_splits(source: Path) -> list[str]:
    """Names of the splits of a local folder: arrow (``save_to_disk``), parquet or audio files."""
    if (source / "dataset_dict.json").exists():
        return list(read_json(source / "dataset_dict.json")["splits"])
    if (source / "dataset_info.json").exists():
        return ["train"]
    if parquet := _parquet_files(source):
        return list(parquet)
    if folders := _audio_folders(source):
        return list(folders)
    found = ", ".join(sorted(p.name for p in source.iterdir())[:6]) or "nothing"
    raise UserError(
        f"{source}: no dataset: neither parquet files, nor a folder of save_to_disk, nor audio "
        f"files with a metadata.csv or in a folder a label; found {found}"
    )


def local_records(source: Path, split: str) -> Records:
    """A split of a local folder."""
    names = local_splits(source)
    if split not in names:
        raise UserError(
            f"{source}: no split {split!r}{closest(split, names)}; it has {', '.join(names)}"
        )
    if (source / "dataset_dict.json").exists():
        return _arrow(source / split)
    if (source / "dataset_info.json").exists():
        return _arrow(source)
    if parquet := _parquet_files(source):
        return _parquet(source, parquet[split])
    return _audiofolder(_audio_folders(source)[split])


def _parquet(source: Path, files: list[Path]) -> Records:
    import datasets

    names = [str(path) for path in files]
    streamed = _asked(
        str(source), datasets.load_dataset, "parquet", data_files={"train": names}, split="train",
        streaming=True,
    )  # fmt: skip
    return _of_iterable(streamed, {"files": _stamps(files)}, str(source))


def _arrow(folder: Path) -> Records:
    import datasets

    loaded = _asked(str(folder), datasets.load_from_disk, str(folder))
    stamps = _stamps(sorted(folder.glob("*.arrow")))
    streamed = loaded.to_iterable_dataset(num_shards=max(1, len(loaded) // _PIECE))
    return _of_iterable(streamed, {"files": stamps}, str(folder))


def _stamps(files: list[Path]) -> list[list[Any]]:
    return [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def _of_iterable(streamed: Any, key: dict[str, Any], name: str) -> Records:
    """Wrap a ``datasets`` iterable, with decoding switched off."""
    import datasets

    features = streamed.features or {}
    audio = [c for c, kind in features.items() if type(kind).__name__ == "Audio"]
    classes = {
        column: list(kind.names)
        for column, kind in features.items()
        if type(kind).__name__ == "ClassLabel"
    }
    undecoded = streamed.decode(False) if audio else streamed
    if audio and str(streamed.info.builder_name).endswith("folder"):
        # Its rows have paths, which `datasets` would make files of by torchcodec.
        for column in audio:
            undecoded = undecoded.cast_column(column, datasets.Value("string"))

    def rows(skip: int) -> Iterator[dict[str, Any]]:
        return _sound(iter(undecoded.skip(skip) if skip else undecoded), name)

    def pieces() -> list[Rows]:
        cut = undecoded
        if undecoded.num_shards < _FEW_FILES:
            cut = _asked(name, undecoded.reshard)
        return [functools.partial(_piece, cut, at, name) for at in range(cut.num_shards)]

    return Records(list(features), audio, classes, rows, key, pieces=pieces)


def _piece(streamed: Any, number: int, name: str) -> Iterator[dict[str, Any]]:
    """The rows of one shard of a ``datasets`` iterable."""
    # iter(), unlike a loop over the dataset, does not share the rows out among DataLoader workers.
    for columns in _sound(streamed.shard(streamed.num_shards, number).iter(batch_size=16), name):
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def _sound(iterator: Iterator[Any], name: str) -> Iterator[Any]:
    """The same items; what goes wrong inside ``datasets`` becomes one line."""
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            raise UserError(f"dataset {name}: {text.splitlines()[0]}") from error
        yield item


def _parquet_files(source: Path) -> dict[str, list[Path]]:
    """Split -> its parquet files: the split is in the name, or else in the folder's name."""
    found: dict[str, list[Path]] = {}
    for path in sorted(source.rglob("*.parquet")):
        name = _SHARD.sub("", path.stem)
        if not name or name in ("data", "part"):
            name = path.parent.name if path.parent != source else "train"
        found.setdefault(name if name != "data" else "train", []).append(path)
    return found


def _audio_folders(source: Path) -> dict[str, Path]:
    """Split -> folder. Folders with a metadata file or folders of labels are splits."""
    named = {p.name: p for p in sorted(source.iterdir()) if p.is_dir() and _is_split(p)}
    if named and not any((source / name).exists() for name in _METADATA):
        return named
    if any((source / name).exists() for name in _METADATA) or _label_folders(source):
        return {"train": source}
    return {}


def _is_split(folder: Path) -> bool:
    known = ("train", "validation", "valid", "dev", "test", "eval", "all")
    has = any((folder / name).exists() for name in _METADATA)
    return has or (folder.name in known and bool(_label_folders(folder)))


def _label_folders(folder: Path) -> list[Path]:
    return [
        p
        for p in sorted(folder.iterdir())
        if p.is_dir() and any(f.suffix.lower() in AUDIO_SUFFIXES for f in p.iterdir())
    ]


def _audiofolder(folder: Path) -> Records:
    """``metadata.csv`` / ``.jsonl`` with ``file_name``, or one folder a label."""
    metadata = next((folder / n for n in _METADATA if (folder / n).exists()), None)
    rows = (
        list(_metadata_rows(metadata))
        if metadata
        else [
            {"audio": str(file.resolve()), "label": place.name}
            for place in _label_folders(folder)
            for file in sorted(place.iterdir())
            if file.suffix.lower() in AUDIO_SUFFIXES
        ]
    )
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stamp = {"folder": str(folder.resolve()), "rows": len(rows)}
    starts = range(0, len(rows), _PIECE)
    return Records(
        columns,
        ["audio"],
        {},
        lambda skip: iter(rows[skip:]),
        stamp,
        pieces=lambda: [functools.partial(iter, rows[at : at + _PIECE]) for at in starts],
    )


def _metadata_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        if path.suffix == ".jsonl":
            rows: Any = (_json_row(path, n, line) for n, line in enumerate(stream, 1))
        else:
            rows = csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
        for number, row in enumerate(rows, 1):
            name = row.pop("file_name", None) if row else None
            if not name:
                raise UserError(f"{path}: record {number} has no file_name")
            yield {"audio": str((path.parent / name).resolve()), **row}


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}:{number}: not JSON: {error}") from error


def on_the_hub(path: str) -> bool:
    """Whether a path names a file of a dataset on the hub."""
    return path.startswith("hf://datasets/") and "::" not in path  # fsspec would go on from there


def hub_file(path: str) -> bytes:
    """What is in a file of a dataset on the hub.

    Raises:
        UserError: it cannot be had.
    """
    import fsspec

    try:
        with fsspec.open(path, "rb") as stream:
            return stream.read()
    except Exception as error:
        text = str(error).strip() or type(error).__name__
        raise UserError(f"{path}: {text.splitlines()[0]}") from error


def audio_of(value: Any, *, local: bool) -> bytes | str | tuple[np.ndarray, int] | None:
    """What a record holds of its audio: a file's bytes, or its path, or samples and their rate.

    Paths of this machine count in local datasets only: one of the hub must not name its files.
    """
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, dict):
        return None
    if value.get("array") is not None and value.get("sampling_rate"):
        return np.asarray(value["array"], dtype=np.float32), int(value["sampling_rate"])
    if value.get("bytes"):
        return value["bytes"]
    path = value.get("path")
    if path and on_the_hub(path):
        return path
    return os.path.abspath(path) if path and local else None


def suffix_of(data: bytes, name: str) -> str:
    """The suffix of an audio file, from its first bytes, else from its name."""
    for magic, suffix in _MAGIC:
        if data.startswith(magic):
            return suffix
    if data[:1] == b"\xff" and data[1:2] and data[1] & 0xE0 == 0xE0:
        return ".mp3"
    suffix = Path(name).suffix.lower()
    return suffix if suffix in AUDIO_SUFFIXES else ".audio"
