"""WebDataset tar shards: a million clips as a few hundred large files, for clusters.

`<folder>/shard-000000.tar` ... hold for each utterance its audio, byte for byte as it was stored
(a segment of a longer recording is cut out as FLAC), and `.json` with id, text, speaker,
duration and labels: what `webdataset` reads anywhere. `plan.json` is written first,
`shards.json` (bytes, utterances and sha256 of each shard) last; a shard appears whole or not at
all, so that an interrupted run resumes.

A manifest of shards (`write_manifest`) names each clip by shard and byte offset; whoever
reads manifests (training, feature cache, evaluation) reads such a one alike, in any order.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from tqdm import tqdm

from speechcwcl.data.audio import audio_info, encode_audio, load_audio
from speechcwcl.data.audio.opening import Member, find_member, read_audio_file
from speechcwcl.data.compiling import worker_pool
from speechcwcl.data.manifest import Manifest, Summary, save_manifest
from speechcwcl.data.rows import one_text, one_word, seconds
from speechcwcl.data.stream_spec import ShardIndex, open_shard_file
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest, require
from speechcwcl.files import (
    atomic_write,
    copy_json,
    parse_json,
    read_json,
    refuse_foreign,
    sha256_file,
    sha256_json,
    write_json,
)

VERSION = 1
INDEX, PLAN = "shards.json", "plan.json"
_NOT_AUDIO = ("json", "txt", "cls")
_LARGEST = 1 << 30  # bytes of a file in a shard


def write_shards(
    manifest: str | Path,
    folder: str | Path,
    *,
    per_shard: int = 1000,
    nj: int = 1,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Pack a manifest's audio; what an earlier run finished stays.

    Returns:
        For each shard `{"name", "bytes", "utterances", "sha256"}`, as `shards.json` has it.

    Raises:
        UserError: audio that is missing or cannot be read, a full disk.
    """
    source, folder = Manifest(manifest), Path(folder)
    if per_shard < 1:
        raise UserError(f"per_shard: {per_shard} is not above 0")
    key = sha256_json([VERSION, source.hash, per_shard])
    done = _index(folder)
    same = bool(done) and read_json(folder / INDEX)["key"] == key
    if same and all(_size(folder / shard["name"]) == shard["bytes"] for shard in done):
        return done
    starts = range(0, len(source), per_shard)
    _begin(folder, key, len(starts))
    work = functools.partial(_write_shard, source, folder, per_shard)
    bar = functools.partial(tqdm, total=len(starts), unit="shard", disable=not progress)
    if nj <= 1:
        found = list(bar(map(work, starts)))
    else:
        with worker_pool(nj) as pool:
            found = list(bar(pool.map(work, starts)))
    write_json(folder / INDEX, {"version": VERSION, "key": key, "shards": found})
    return found


def write_manifest(folder: str | Path, out: str | Path, *, progress: bool = True) -> Summary:
    """Write the manifest of a folder of shards, whoever made them.

    Shards that were copied elsewhere get their new place into a manifest by this. Other people's
    WebDataset shards do too: audio with `.json` (`text`, `speaker`, `label`, ...), `.txt`
    (the words) or `.cls` (a label).

    Args:
        folder: holds `*.tar`; if there is a `shards.json` too, the sizes must be as it says.

    Raises:
        UserError: no shard, a shard that is missing, cut off or damaged, audio of unknown length.
    """
    folder, out = Path(folder).resolve(), Path(out)
    paths, seen = shard_paths(folder), set()

    def found() -> Iterator[Utterance]:
        for path in tqdm(paths, desc=folder.name, unit="shard", disable=not progress):
            for utterance in read_shard(path):
                if utterance.id in seen:
                    raise UserError(f"{path}: utterance {utterance.id!r} is in another shard too")
                seen.add(utterance.id)
                yield utterance
        if not seen:
            raise UserError(f"{folder}: the shards hold no audio")

    return save_manifest(out, found(), Summary(str(out)))


def pack_set(source: Path, out: Path, *, per_shard: int, nj: int) -> Summary:
    """Write `out/shards`, unless `source` is a folder of such, and `out/manifest.jsonl` of them."""
    manifest, folder = out / "manifest.jsonl", source
    if not source.is_dir():
        require(source.exists(), f"{source}: no such manifest or folder of shards")
        require(
            not manifest.exists() or not manifest.samefile(source),
            f"{manifest}: the manifest of the shards would replace the one they are made from; "
            "choose another --out",
        )
        folder = out / "shards"
        made = write_shards(source, folder, per_shard=per_shard, nj=nj)
        size = sum(shard["bytes"] for shard in made)
        print(f"{folder}: {len(made)} shards, {size / 1e6:.1f} MB")
    summary = write_manifest(folder, manifest)
    copy_json(source.parent / "corpus.json", out / "corpus.json")
    return summary


def read_shard(path: str | Path) -> Iterator[Utterance]:
    """Yield the utterances of one shard; of the audio only the place is read."""
    size = _size(Path(path))
    with _named(str(path)), tarfile.open(path, "r:") as tar:
        for key, texts, (info, _) in _samples(tar, str(path), with_audio=False):
            if info.offset_data + info.size > size:
                raise EOFError("unexpected end of data")
            found = _described(key, texts, f"{path}: {key!r}")
            found.audio = str(Member(str(path), info.name, info.offset_data, info.size))
            if found.duration is None:
                found.duration = audio_info(found.audio).duration
            yield found


def open_shard(shard: str) -> Iterator[tuple[Utterance, bytes]]:
    """Read one shard from front to back, from the disk or a URL; nothing is kept.

    Yields:
        Utterances with their audio as it is stored.

    Raises:
        UserError: it cannot be opened, is cut off, or holds a sample without audio.
    """
    with (
        _named(shard),
        open_shard_file(shard) as stream,
        tarfile.open(fileobj=stream, mode="r|*") as tar,
    ):
        for key, texts, (info, data) in _samples(tar, shard, with_audio=True):
            found = _described(key, texts, f"{shard}: {key!r}")
            found.audio = f"{shard}::{info.name}"
            yield found, data


@contextlib.contextmanager
def _named(shard: str) -> Iterator[None]:
    """What goes wrong while a shard is read becomes a line that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{shard}: no such shard") from error
    except (tarfile.TarError, EOFError, OSError, ValueError, HTTPException, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{shard}: damaged, cut off or unreachable ({reason}); make or copy it again"
        ) from error


def _index(folder: Path) -> list[dict[str, Any]]:
    """The lines of `shards.json`; none when there is no such file."""
    path = folder / INDEX
    if not path.exists():
        return []
    return read_json(path, ShardIndex)["shards"]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def ours(folder: Path) -> set[str]:
    """The files of a folder of shards that this project made, finished or not."""
    try:
        plan = read_json(folder / PLAN, dict)
        count = plan.get("shards", 0)  # plans of before they counted: those of the index
        made = {shard["name"] for shard in _index(folder)}
    except UserError:
        return set()
    made |= {_shard_name(n) for n in range(count if isinstance(count, int) else 0)}
    return {PLAN, INDEX, *made} if "key" in plan else set()


def _begin(folder: Path, key: str, count: int) -> None:
    """Note what is being made; shards of something else, or of other sizes, make room."""
    refuse_foreign(folder, ours)
    index, plan = folder / INDEX, folder / PLAN
    known = {shard["name"]: shard["bytes"] for shard in _index(folder)}
    same = plan.exists() and read_json(plan).get("key") == key
    index.unlink(missing_ok=True)
    for path in folder.glob("shard-*.tar"):
        if not same or known.get(path.name, _size(path)) != _size(path):
            path.unlink()
    write_json(plan, {"version": VERSION, "key": key, "shards": count})


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def _write_shard(source: Manifest, folder: Path, per_shard: int, start: int) -> dict[str, Any]:
    """One shard, unless it stands; its line of the index."""
    path = folder / _shard_name(start // per_shard)
    stop = min(start + per_shard, len(source))
    if not path.exists():
        # PAX, because USTAR cuts long names
        with (
            atomic_write(path, "wb") as stream,
            tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for at in range(start, stop):
                _add(tar, source[at])
    entry = {"name": path.name, "bytes": _size(path), "utterances": stop - start}
    count = sum(1 for _ in read_shard(path))
    if count != stop - start:
        raise UserError(f"{path}: {count} utterances instead of {stop - start}; delete it")
    return {**entry, "sha256": sha256_file(path)}


def _add(tar: tarfile.TarFile, utterance: Utterance) -> None:
    """Append an utterance's audio and what is known of it."""
    data, suffix = _clip(utterance)
    facts = {
        "id": utterance.id,
        "text": utterance.text,
        "speaker": utterance.speaker,
        "duration": utterance.duration,
        "labels": utterance.labels,
    }
    # A dot would end the key and a slash would make a folder.
    key = quote(utterance.id, safe=" ").replace(".", "%2E")
    for ending, content in (
        (suffix, data),
        ("json", json.dumps(facts, ensure_ascii=False).encode()),
    ):
        info = tarfile.TarInfo(f"{key}.{ending}")  # no time, so that equal input gives equal bytes
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def _clip(utterance: Utterance) -> tuple[bytes, str]:
    """The audio of one utterance and the suffix that says what it is."""
    audio = utterance.audio
    if utterance.start is not None or utterance.end is not None:
        rate = audio_info(audio).sample_rate
        wav = load_audio(audio, utterance.start, utterance.end, rate)
        return encode_audio(wav, ".flac", rate, name=audio), "flac"
    member = find_member(audio)
    suffix = Path(member.name if member else audio).suffix.lower().lstrip(".")
    try:
        data = read_audio_file(audio)
    except (OSError, EOFError) as error:
        raise UserError(f"{audio}: cannot read: {getattr(error, 'strerror', error)}") from error
    if not data:
        raise UserError(f"{audio}: empty file (0 bytes)")
    return data, suffix if suffix.isalnum() and suffix not in _NOT_AUDIO else "audio"


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder in order; what the index says must be so."""
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.glob("*") if p.is_dir()]
        raise UserError(f"{folder}: no such folder of shards{closest(folder.name, beside)}")
    paths = sorted(Path(p) for p in glob.glob(os.path.join(glob.escape(str(folder)), "*.tar")))
    if (folder / INDEX).exists():
        for entry in _index(folder):
            size = _size(folder / entry["name"])
            if size != entry["bytes"]:
                what = "is missing" if size < 0 else f"has {size} bytes"
                raise UserError(
                    f"{folder / entry['name']}: {what}, {entry['bytes']} are expected; "
                    "make or copy it again"
                )
    elif (folder / PLAN).exists():
        raise UserError(f"{folder}: only half there; run the same command again")
    if not paths:
        raise UserError(f"{folder}: no shard (*.tar) in it")
    return paths


def _samples(
    tar: tarfile.TarFile, shard: str, *, with_audio: bool
) -> Iterator[tuple[str, dict[str, bytes], tuple[tarfile.TarInfo, bytes]]]:
    """Group neighbours of one key, as `webdataset` does: the key ends at the name's first dot.

    Yields:
        The key, what is in the files beside the audio, and the audio file with its bytes (none
        without `with_audio`).
    """
    key = ""
    texts: dict[str, bytes] = {}
    audio: list[tuple[tarfile.TarInfo, bytes]] = []

    def sample() -> tuple[str, dict[str, bytes], tuple[tarfile.TarInfo, bytes]]:
        if len(audio) != 1:
            names = ", ".join(info.name for info, _ in audio) or "none"
            raise UserError(f"{shard}: {key!r} must have one audio file, it has {names}")
        return key, texts, audio[0]

    for info in tar:
        folder, name = os.path.split(info.name)
        stem, _, suffix = name.lower().partition(".")
        if not info.isfile() or not stem or re.fullmatch("__.*__", stem):
            continue  # folders, hidden files of macOS, metadata
        found = os.path.join(folder, name[: len(stem)])
        if (texts or audio) and found != key:
            yield sample()
            texts, audio = {}, []
        key = found
        if info.size > _LARGEST:
            raise UserError(f"{shard}: {info.name}: {info.size:,} bytes; {_LARGEST:,} are allowed")
        stream = tar.extractfile(info) if with_audio or suffix in _NOT_AUDIO else None
        data = stream.read() if stream else b""
        if suffix in _NOT_AUDIO:
            texts[suffix] = data
        else:
            audio.append((info, data))
        tar.members = []  # type: ignore[attr-defined]  # or a large shard's headers would all stay in memory
    if texts or audio:
        yield sample()


def _described(key: str, texts: dict[str, bytes], where: str) -> Utterance:
    """An utterance from its `.json`, `.txt` and `.cls`, still without audio."""
    try:
        facts = parse_json(texts.get("json", b"{}"), where, line=False)
        words = texts["txt"].decode("utf-8").strip() if "txt" in texts else None
        label = texts["cls"].decode("utf-8").strip() if "cls" in texts else None
        labels = dict(facts.get("labels") or {})
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{where}: its .json or .txt cannot be read: {error}") from error
    label = facts.get("label", label)
    if label is not None:
        labels.setdefault("label", label)
    key = "_".join((one_word(facts.get("id"), where, "id") or unquote(key)).split())
    return Utterance(
        key,
        "",
        one_text(facts.get("text", words), where, key),
        one_word(facts.get("speaker"), where, "speaker"),
        duration=seconds(facts.get("duration"), where, "duration"),
        labels={name: one_word(value, where, f"label {name!r}") for name, value in labels.items()},
    )
