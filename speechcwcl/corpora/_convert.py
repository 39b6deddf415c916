"""Writing the manifests of other toolkits, and from one to the other.

Examples:
    >>> import_datadir("manifest.json", "data/train")  # doctest: +SKIP
    >>> export_manifest("data/train", "train.csv", "speechbrain_csv")  # doctest: +SKIP
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from speechcwcl.corpora._formats import Options, detect, json_object, read_manifest
from speechcwcl.data.audio import AudioInfo, audio_info
from speechcwcl.data.audio.opening import find_member
from speechcwcl.data.kaldi import iter_datadir, write_datadir
from speechcwcl.data.manifest import Manifest
from speechcwcl.data.rows import read_head, suffix_of_list
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest
from speechcwcl.files import atomic_write

_Utterances = Iterable[Utterance]


def import_datadir(
    path: str | Path,
    out: str | Path,
    format: str = "",
    *,
    options: Options | None = None,
    skip_bad: bool = False,
) -> Path:
    """Make a data folder of a manifest, which may also be our own.

    Args:
        path, format, options: as for `read_manifest`.
        out: the data folder.
        skip_bad: leave out what is wrong and list it in `bad.tsv`; otherwise it is an error.
    """
    path, problems = Path(path), Problems()
    own = not format and is_own_manifest(path)
    format = "" if own else format or detect(path, options.audio if options else "")
    facts = {"name": path.stem, "imported_from": path.name, "format": format or "manifest"}
    found = _sound(path, format, options, problems, skip_bad)
    return write_datadir(out, found, corpus=facts, skipped=problems)


def export_manifest(
    source: str | Path,
    path: str | Path,
    to: str,
    format: str = "",
    *,
    options: Options | None = None,
    skip_bad: bool = False,
) -> Path:
    """Write a data folder, a compiled `manifest.jsonl` or another toolkit's manifest in a format.

    Args:
        source: what to read; another toolkit's with `format` and `options` as for `read_manifest`.
        path: the manifest to write.
        to: its format, one of `WRITERS`.
        skip_bad: leave out what is wrong and list it in `<path>.bad.tsv`; otherwise an error.
    """
    problems = Problems()
    write_manifest(path, _sound(Path(source), format, options, problems, skip_bad), to)
    if problems:
        problems.save(f"{path}.bad.tsv")
    return Path(path)


def is_own_manifest(path: str | Path) -> bool:
    """Whether a file is a compiled `manifest.jsonl` of this toolkit."""
    first = json_object(read_head(path).split("\n")[0])
    return {"id", "audio", "duration", "labels"} <= set(first)


def _sound(
    source: Path, format: str, options: Options | None, problems: Problems, skip_bad: bool
) -> Iterator[Utterance]:
    """Utterances of whatever `source` is; what is wrong ends in an error unless skipped."""
    own = source.is_dir() or (not format and is_own_manifest(source))
    if own and options not in (None, Options()):
        raise UserError(f"{source}: named columns and a root are for other toolkits' manifests")
    if source.is_dir():
        yield from iter_datadir(source)
    elif own:
        yield from Manifest(source)
    else:
        yield from read_manifest(source, format, problems=problems, options=options)
    if not skip_bad:
        problems.raise_if_any("(skip_bad leaves these out and lists them)")


def write_manifest(path: str | Path, utterances: _Utterances, format: str) -> Path:
    """Write a manifest in another toolkit's format, atomically; audio paths become absolute.

    Args:
        path: where; `.gz` is packed.
        utterances: taken one by one, in bounded memory.
        format: a key of `WRITERS`.
    """
    path = Path(path)
    if format not in WRITERS:
        raise UserError(f"no format {format!r}{closest(format, WRITERS)}; {', '.join(WRITERS)}")
    if path.suffix == ".gz":
        with atomic_write(path, "wb") as raw, gzip.open(raw, "wt", encoding="utf-8") as stream:
            WRITERS[format](stream, utterances, path)
    else:
        with atomic_write(path) as stream:
            WRITERS[format](stream, utterances, path)
    return path


def _csv(stream: IO[str], utterances: _Utterances, path: Path) -> None:
    """A table; label fields other than `label` become columns `label_X`."""

    def cells(u: Utterance, cut: bool) -> dict[str, Any]:
        return {
            "id": u.id, "audio": _absolute(u), "start": u.start, "end": u.end,
            "duration": u.duration, "text": u.text, "speaker": u.speaker,
        }  # fmt: skip

    _write_table(stream, utterances, path, cells, ("label",))


def _speechbrain_csv(stream: IO[str], utterances: _Utterances, path: Path) -> None:
    """SpeechBrain's table; start and stop, in samples, where an utterance has any."""

    def cells(u: Utterance, cut: bool) -> dict[str, Any]:
        span = dict(zip(("start", "stop"), _samples(u), strict=True)) if cut else {}
        duration = f"{_duration(u):.6g}"
        head = {"ID": u.id, "duration": duration, "wav": _absolute(u), **span}
        return head | {"spk_id": u.speaker, "wrd": u.text}

    _write_table(stream, utterances, path, cells, ())


def _write_table(
    stream: IO[str],
    utterances: _Utterances,
    path: Path,
    cells: Callable[[Utterance, bool], dict[str, Any]],
    always: tuple[str, ...],
) -> None:
    """Write a table of columns and label fields.

    The utterances wait on the disk until all label fields are known, so that a table of any length
    is written in little memory.

    Args:
        stream, utterances, path: as for every format.
        cells: an utterance, and whether any is a stretch of its file -> its columns.
        always: label fields that are columns even if no utterance has them.
    """
    fields, cut = set(always), False
    with tempfile.TemporaryFile("w+", encoding="utf-8") as waiting:
        for utterance in utterances:
            fields.update(utterance.labels)
            cut |= utterance.start is not None or utterance.end is not None
            waiting.write(json.dumps(asdict(utterance)) + "\n")
        waiting.seek(0)
        names = sorted(fields, key=lambda name: (name != "label", name))
        header: list[str] = []
        tabs = suffix_of_list(path) == ".tsv"
        table = csv.writer(stream, lineterminator="\n")
        for line in waiting:
            u = Utterance(**json.loads(line))
            row = cells(u, cut) | {_column(name): u.labels.get(name) for name in names}
            words = ["" if value is None else str(value) for value in row.values()]
            for words_of_row in [words] if header else [list(row), words]:
                if tabs:  # has no quotes, so what cannot be in a column becomes a blank
                    stream.write("\t".join(" ".join(w.split()) for w in words_of_row) + "\n")
                else:
                    table.writerow(words_of_row)
            header = header or list(row)


def _column(field: str) -> str:
    return field if field == "label" else f"label_{field}"


def _labels(utterance: Utterance) -> dict[str, str]:
    return {_column(name): value for name, value in utterance.labels.items()}


def _jsonl(stream: IO[str], utterances: _Utterances, path: Path) -> None:
    """NeMo's keys; `label` as such, other label fields as `label_X`."""
    for u in utterances:
        row: dict[str, Any] = {"audio_filepath": _absolute(u), "duration": round(_duration(u), 6)}
        if u.start is not None or u.end is not None:
            row["offset"] = u.start or 0.0
        if u.text is not None:
            row["text"] = u.text
        row |= {"id": u.id, "speaker": u.speaker, **_labels(u)}
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _speechbrain_json(stream: IO[str], utterances: _Utterances, path: Path) -> None:
    """`wav` (with start and stop in samples where there are any), length, text, labels."""
    separator = "{\n"
    for u in utterances:
        wav: Any = _absolute(u)
        if u.start is not None or u.end is not None:
            wav = {"file": wav, **dict(zip(("start", "stop"), _samples(u), strict=True))}
        entry: dict[str, Any] = {"wav": wav, "length": round(_duration(u), 6), "spk_id": u.speaker}
        if u.text is not None:
            entry["words"] = u.text
        text = json.dumps(entry | _labels(u), ensure_ascii=False)
        stream.write(f"{separator}{json.dumps(u.id)}: {text}")
        separator = ",\n"
    stream.write("{}\n" if separator == "{\n" else "\n}\n")


def _lhotse(stream: IO[str], utterances: _Utterances, path: Path) -> None:
    """A `MonoCut` with one supervision each; label fields go to its `custom`."""
    for u, info in _with_info(utterances):
        name, length = Path(u.audio).stem, round(_duration(u), 6)
        channels = list(range(info.channels))
        common: dict[str, Any] = {
            "channel": 0 if info.channels == 1 else channels,
            "duration": length,
        }
        supervision: dict[str, Any] = {"id": u.id, "recording_id": name, "start": 0.0, **common}
        supervision |= {k: v for k, v in (("text", u.text), ("speaker", u.speaker)) if v}
        if u.labels:
            supervision["custom"] = _labels(u)
        recording = {
            "id": name,
            "sources": [{"type": "file", "channels": channels, "source": _absolute(u)}],
            "sampling_rate": info.sample_rate,
            "num_samples": info.frames,
            "duration": info.duration,
            "channel_ids": channels,
        }
        cut: dict[str, Any] = {
            "id": u.id,
            "start": u.start or 0.0,
            **common,
            "supervisions": [supervision],
        }
        cut |= {"recording": recording, "type": "MonoCut" if info.channels == 1 else "MultiCut"}
        stream.write(json.dumps(cut, ensure_ascii=False) + "\n")


WRITERS = {
    "csv": _csv,
    "jsonl": _jsonl,
    "speechbrain_csv": _speechbrain_csv,
    "speechbrain_json": _speechbrain_json,
    "lhotse": _lhotse,
}
"""Name of a format -> how it is written."""


def _with_info(utterances: _Utterances) -> Iterator[tuple[Utterance, AudioInfo]]:
    """Each with its file's facts; utterances of one recording stand together."""
    last, info = "", None
    for utterance in utterances:
        audio = _absolute(utterance)
        if info is None or audio != last:
            last, info = audio, audio_info(audio)
        yield utterance, info


def _duration(utterance: Utterance) -> float:
    """Length in seconds: known, or from start and end, or measured."""
    if utterance.duration is not None:
        return utterance.duration
    start = utterance.start or 0.0
    end = utterance.end if utterance.end is not None else audio_info(utterance.audio).duration
    return end - start


def _samples(utterance: Utterance) -> tuple[int, int]:
    """First and one-past-last sample of an utterance, at the rate of its file."""
    info = audio_info(utterance.audio)
    start = round((utterance.start or 0.0) * info.sample_rate)
    if utterance.end is None:
        return start, info.frames
    return start, min(info.frames, round(utterance.end * info.sample_rate))


def _absolute(utterance: Utterance) -> str:
    """Its audio as an absolute path; a command, or a clip in a shard, is refused."""
    if utterance.audio.rstrip().endswith("|"):
        raise UserError(f"{utterance.id}: its audio is a command, which no other format takes")
    if find_member(utterance.audio):
        raise UserError(
            f"{utterance.id}: its audio lies in a shard, which no other format takes; "
            "export the manifest that the shards were made from"
        )
    return os.path.abspath(utterance.audio)
