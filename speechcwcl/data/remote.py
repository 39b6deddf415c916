"""Datasets of others, of the hub or in a folder: splits, configurations and rows.

The library `datasets` says what is in them: a folder of `save_to_disk`, parquet, WebDataset
tars, audio files with a `metadata.csv` or in a folder a label, lists (csv, json lines) of audio
files, or any of these by a `README.md` with configurations. Audio stays as it is stored (neither
torchcodec nor FFmpeg is needed), and no code of a dataset is run.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.data.audio.recordings import AUDIO_SUFFIXES, audio_files, is_audio_name
from speechcwcl.data.rows import no_column, read_json_lines, read_table, suffix_of_list
from speechcwcl.data.tables import Problems
from speechcwcl.errors import UserError, closest, require
from speechcwcl.files import read_json

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.tsv")
# What `datasets` calls the splits whose folder or file is called so.
_USUAL = {"training": "train", "valid": "validation", "dev": "validation", "val": "validation"}
_USUAL |= {"testing": "test", "eval": "test", "evaluation": "test"}
# Parquet files are cut into row groups only where there are few: it asks every file for its list.
_FEW_FILES = 64
_PIECE = 1000

Row = dict[str, Any]
Rows = Callable[[], Iterator[Row]]


@dataclass
class Records:
    """One split of a source."""

    columns: list[str]  # names of the columns
    audio_columns: list[str]  # those that hold audio by their type, if types are known
    class_names: dict[str, list[str]]  # column -> names, for columns that store class numbers
    # opens an iterator that skips the given number of records first
    rows: Callable[[int], Iterator[Row]]
    key: dict[str, Any] = field(default_factory=dict)  # JSON-able; changes when the source does
    local: bool = True  # whether its paths are files of this machine
    # cuts the split into parts that can be read alone (files, row groups, stretches of rows), each
    # given as a function that opens its rows; the same ones at every call
    pieces: Callable[[], list[Rows]] = list

    def value(self, row: Row, column: str | None) -> Any:
        """What a record has in a column; of class numbers their names."""
        found = row.get(column) if column else None
        names = self.class_names.get(column or "", [])
        if isinstance(found, bool) or not isinstance(found, int | np.integer):
            return found
        return names[int(found)] if 0 <= int(found) < len(names) else found


def hub_splits(dataset: str, config: str | None, revision: str | None) -> list[str]:
    """Names of the splits of a dataset on the hub."""
    import datasets

    ask = functools.partial(datasets.get_dataset_split_names, dataset, config, revision=revision)
    return list(_asked(f"dataset {dataset!r}", ask))


def hub_records(dataset: str, split: str, config: str | None, revision: str | None) -> Records:
    """A split of a dataset on the hub, streamed."""
    import datasets

    ask = functools.partial(
        datasets.load_dataset, dataset, config, split=split, revision=revision, streaming=True
    )
    key = {"dataset": dataset, "config": config, "revision": revision, "split": split}
    found = _asked(f"dataset {dataset!r}", ask)
    return replace(_of_iterable(found, key, dataset), local=False)


def _asked(name: str, ask: Callable[[], Any]) -> Any:
    """Call something of `datasets`; its many classes of error become one line."""
    try:
        return ask()
    except Exception as error:
        text = " ".join(str(error).split())[:400] or type(error).__name__
        raise UserError(
            f"{name}: {text} (a dataset that has a loading script: download it and give the folder "
            "with --data)"
        ) from error


@dataclass
class _Folder:
    """What `datasets` finds in a folder: of which kind, and which files each split has."""

    path: Path
    kind: str
    files: dict[str, list[Path]]
    builder: Any = None


def _look_into(source: Path, config: str | None) -> _Folder:
    import datasets

    if config:
        source, config = _configured(source, config)
    if (source / "dataset_dict.json").exists():
        names = read_json(source / "dataset_dict.json")
        names = names.get("splits") if isinstance(names, dict) else None
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise UserError(f"{source / 'dataset_dict.json'}: names no splits; save it again")
        return _Folder(source, "saved", {name: [source / name] for name in names})
    if (source / "dataset_info.json").exists():
        return _Folder(source, "saved", {"train": [source]})
    try:
        builder = datasets.load_dataset_builder(str(source), config)
    except (FileNotFoundError, datasets.exceptions.DataFilesNotFoundError):
        if files := _with_linked(source, "audiofolder", {}):
            return _Folder(source, "audiofolder", files)
        builder, kind = None, ""
    except Exception as error:
        raise UserError(f"{source}: {' '.join(str(error).split())[:400]}") from error
    else:
        kind = type(builder).__module__.rsplit(".", 1)[-1]
    if builder is None or kind == "text":
        found = ", ".join(sorted(p.name for p in source.iterdir())[:6]) or "nothing"
        raise UserError(
            f"{source}: no dataset: neither parquet files, nor a folder of save_to_disk, nor audio "
            f"files with a metadata.csv or in a folder a label; found {found}"
        )
    files = {str(s): [Path(p) for p in paths] for s, paths in builder.config.data_files.items()}
    return _Folder(source, kind, _with_linked(source, kind, files), builder)


def _with_linked(source: Path, kind: str, files: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """The same splits, and in them the audio below links to folders: `datasets` follows none.

    A split is then the folder of its name; where there is no such folder, the only split there is.
    """
    for path in _below_links(source) if kind == "audiofolder" else ():
        words = (_USUAL.get(word, word) for word in path.relative_to(source).parts)
        usual = next((word for word in words if word in ("train", "validation", "test")), "")
        usual = usual or (next(iter(files)) if len(files) == 1 else "train")
        files.setdefault(usual, []).append(path)
    return files


def _below_links(source: Path) -> list[Path]:
    real, found = Path(os.path.realpath(source)), []
    for path in map(Path, _audio_below(source)):
        if Path(os.path.realpath(path.parent)) != real / path.parent.relative_to(source):
            found.append(path)
    return found


def _audio_below(source: Path) -> list[str]:
    try:
        return list(audio_files(source))
    except UserError:  # there is none
        return []


def _configured(source: Path, config: str) -> tuple[Path, str | None]:
    """A configuration is one that `README.md` declares, or else a folder of that name."""
    import datasets

    try:
        names = datasets.get_dataset_config_names(str(source))
    except Exception:  # nothing is declared
        names = []
    if config in names and names != ["default"]:
        return source, config
    folders = [p.name for p in sorted(source.iterdir()) if p.is_dir() and p.name[0] != "."]
    if config not in folders:
        there = list(dict.fromkeys([*names, *folders]))
        raise UserError(
            f"{source}: no configuration {config!r}{closest(config, there)}; there are "
            f"{', '.join(there)}"
        )
    return source / config, None


def local_splits(source: Path, config: str | None = None) -> list[str]:
    """Names of the splits of a local folder; files that belong to none are counted in a line."""
    found = _look_into(source, config)
    mine = {os.path.abspath(path) for paths in found.files.values() for path in paths}
    every = _audio_below(found.path) if found.kind == "audiofolder" else []
    if found.kind == "parquet":
        every = [str(path) for path in found.path.rglob("*.parquet")]
    if others := [path for path in every if os.path.abspath(path) not in mine]:
        print(
            f"{source}: {len(others)} files belong to no split and are left out, such as "
            f"{ascii(os.path.relpath(others[0], source))}",
            file=sys.stderr,
        )
    return sorted(found.files)


def local_records(source: Path, split: str, config: str | None = None) -> Records:
    """A split of a local folder."""
    import datasets

    found = _look_into(source, config)
    name = split if split in found.files else _USUAL.get(split, "")
    own = re.compile(rf"(?<![a-z]){re.escape(split)}(?![a-z])")
    if not any(name == split or own.search(str(p)) for p in found.files.get(name, [])):
        raise UserError(
            f"{source}: no split {split!r}{closest(split, found.files)}; it has "
            f"{', '.join(sorted(found.files))}"
        )
    files = found.files[name]
    if found.kind == "saved":
        load = functools.partial(datasets.load_from_disk, str(files[0]))
        loaded = _asked(str(files[0]), load)
        streamed = loaded.to_iterable_dataset(num_shards=max(1, len(loaded) // _PIECE))
        return _of_iterable(streamed, _stamp(sorted(files[0].glob("*.arrow"))), str(source))
    if found.kind == "audiofolder":
        return _of_list(_audio_rows(found, name), _stamp(files))
    if found.kind in ("csv", "json"):
        return _of_list([row for file in files for row in _listed(file)], _stamp(files))
    streamed = _asked(str(source), lambda: found.builder.as_streaming_dataset(split=name))
    return _of_iterable(streamed, _stamp(files), str(source))


def _stamp(files: list[Path]) -> dict[str, Any]:
    stats = [(path, path.stat()) for path in files if path.exists()]
    names = {path: str(path.resolve()).encode("utf-8", "backslashreplace") for path, _ in stats}
    return {"files": [[names[path].decode(), s.st_size, s.st_mtime_ns] for path, s in stats]}


def _of_iterable(streamed: Any, key: dict[str, Any], name: str) -> Records:
    """Wrap a `datasets` iterable, with decoding switched off."""
    import datasets

    features = streamed.features or {}
    audio = [c for c, kind in features.items() if type(kind).__name__ == "Audio"]
    named = {c: kind for c, kind in features.items() if type(kind).__name__ == "ClassLabel"}
    classes = {column: list(kind.names) for column, kind in named.items()}
    undecoded = streamed.decode(False) if audio else streamed
    # Rows that python makes have paths or bytes, which `datasets` would encode by torchcodec.
    kind, file = str(streamed.info.builder_name), {"bytes": datasets.Value("binary")}
    file |= {"path": datasets.Value("string")}
    for column in audio if kind.endswith(("folder", "webdataset", "web_dataset")) else ():
        as_is = datasets.Value("string") if kind.endswith("folder") else file
        undecoded = undecoded.cast_column(column, as_is)
    # WebDataset: the .json of a sample has what other formats have in columns
    inner = features["json"] if isinstance(features.get("json"), dict) else {}

    def flat(rows: Iterable[Row]) -> Iterator[Row]:
        return ({**(row["json"] or {}), **row} for row in rows) if inner else iter(rows)

    def rows(skip: int) -> Iterator[Row]:
        return flat(_guarded(iter(undecoded.skip(skip) if skip else undecoded), name))

    def piece(cut: Any, at: int) -> Iterator[Row]:
        # iter(), unlike a loop over the dataset, does not share rows out among DataLoader workers
        for columns in _guarded(cut.shard(cut.num_shards, at).iter(batch_size=16), name):
            values = zip(*columns.values(), strict=True)
            yield from flat(dict(zip(columns, row, strict=True)) for row in values)

    def pieces() -> list[Rows]:
        cut = undecoded
        if undecoded.num_shards < _FEW_FILES:
            cut = _asked(name, undecoded.reshard)
        return [functools.partial(piece, cut, at) for at in range(cut.num_shards)]

    return Records([*features, *inner], audio, classes, rows, key, pieces=pieces)


def _guarded(iterator: Iterator[Any], name: str) -> Iterator[Any]:
    """The same items; what goes wrong inside `datasets` becomes one line."""
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            raise UserError(f"dataset {name}: {text.splitlines()[0]}") from error
        yield item


def _of_list(rows: list[Row], key: dict[str, Any]) -> Records:
    """Rows with paths of audio files, held in memory."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    audio = [c for c in columns if rows and os.path.isabs(str(rows[0].get(c)))]
    starts = range(0, len(rows), _PIECE)
    return Records(
        columns,
        audio,
        {},
        lambda skip: iter(rows[skip:]),
        {**key, "rows": len(rows)},
        pieces=lambda: [functools.partial(iter, rows[at : at + _PIECE]) for at in starts],
    )


def _listed(path: Path, needed: str = "") -> Iterator[Row]:
    """The rows of a list of audio files, whose paths (they start at its folder) become absolute.

    Raises:
        UserError: it is no such list; the line, or the missing column, is named.
    """
    problems = Problems()
    if suffix_of_list(path) in (".csv", ".tsv"):
        lines = read_table(path, (needed,) if needed else (), problems)
    elif suffix_of_list(path) == ".json" and isinstance(whole := read_json(path), list):
        lines = enumerate(whole, 1)
    else:
        lines = read_json_lines(path, problems)
    for number, row in lines:
        where = f"{path}:{number}"
        require(isinstance(row, dict), f"{where}: not an object")
        if needed:
            name = row.pop(needed, None)
            require(name is not None, f"{where}: {no_column(needed, list(row))}")
            require(isinstance(name, str) and bool(name), f"{where}: {needed} is no file's name")
            row = {"audio": str(name), **row}
        for column in ["audio"] if needed else list(row):
            value = row[column]
            if needed or (isinstance(value, str) and value.lower().endswith(AUDIO_SUFFIXES)):
                row[column] = os.path.abspath(path.parent / value)
        yield row
    problems.raise_if_any()


def _audio_rows(found: _Folder, split: str) -> list[Row]:
    """The audio files of a split, by the lines of the metadata files above them, or by folders."""
    every = {
        s: [os.path.abspath(p) for p in paths if is_audio_name(p.name)]
        for s, paths in found.files.items()
    }
    mine, others = every[split], {p for s, paths in every.items() if s != split for p in paths}
    above = {folder for path in mine for folder in Path(path).parents}
    above |= {path.parent for path in found.files[split]}
    lists = [
        folder / name
        for folder in sorted(above, key=lambda f: (-len(f.parts), f))  # the nearest first
        if folder == found.path or found.path in folder.parents
        for name in _METADATA
        if (folder / name).exists()
    ]
    if not lists:
        return _labelled(every, mine)
    rows: list[Row] = []
    seen: set[str] = set()
    for path in lists:
        new = [row for row in _listed(path, "file_name") if row["audio"] not in seen | others]
        rows += new
        seen.update(row["audio"] for row in new)
    if left := [path for path in mine if path not in seen]:
        print(
            f"{found.path}: {len(left)} audio files of {split!r} are in no {lists[0].name} and are "
            f"left out, such as {ascii(os.path.relpath(left[0], found.path))}",
            file=sys.stderr,
        )
    return rows


def _labelled(every: dict[str, list[str]], mine: list[str]) -> list[Row]:
    """Files with the names of their folders as labels, where those are labels.

    They are none where files lie in different depths, or where each split is one folder: its name
    is then that of the split.
    """
    depths = {path.count(os.sep) for paths in every.values() for path in paths}
    several = any(len({os.path.dirname(path) for path in paths}) > 1 for paths in every.values())
    if len(depths) != 1 or not several:
        return [{"audio": path} for path in mine]
    return [{"audio": path, "label": os.path.basename(os.path.dirname(path))} for path in mine]
