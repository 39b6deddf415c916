"""Writing the manifests of other toolkits, and from one to the other.

Examples:
    >>> import_datadir("manifest.json", "data/train")  # doctest: +SKIP
    >>> export_manifest("data/train", "train.csv", "speechbrain_csv")  # doctest: +SKIP
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from speechcwcl.corpora._formats import Options, detect, json_object, read_manifest
from speechcwcl.data.audio import audio_info
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
    """Write a manifest in another toolkit's format (`.gz` is packed); paths become absolute."""
    path = Path(path)
    if format not in WRITERS:
        raise UserError(f"no format {format!r}{closest(format, WRITERS)}; {', '.join(WRITERS)}")
    lines = WRITERS[format](utterances, suffix_of_list(path) == ".tsv")
    if path.suffix == ".gz":
        with atomic_write(path, "wb") as raw, gzip.open(raw, "wt", encoding="utf-8") as stream:
            stream.writelines(lines)
    else:
        with atomic_write(path) as stream:
            stream.writelines(lines)
    return path


def _csv(utterances: _Utterances, tabs: bool) -> Iterator[str]:
    """A table; label fields other than `label` become columns `label_X`."""
    rows = [
        {
            "id": u.id, "audio": _absolute(u), "start": u.start, "end": u.end,
            "duration": u.duration, "text": u.text, "speaker": u.speaker, "label": None,
            **_labels(u),
        }
        for u in utterances
    ]  # fmt: skip
    return _table(rows, tabs)


def _speechbrain_csv(utterances: _Utterances, tabs: bool) -> Iterator[str]:
    """SpeechBrain's table; start and stop, in samples, where an utterance has any."""
    found = list(utterances)
    cut = any(map(_is_cut, found))
    rows = [
        {
            "ID": u.id, "duration": f"{_duration(u):.6g}", "wav": _absolute(u),
            **(_samples(u) if cut else {}), "spk_id": u.speaker, "wrd": u.text, **_labels(u),
        }
        for u in found
    ]  # fmt: skip
    return _table(rows, tabs)


def _table(rows: list[dict[str, Any]], tabs: bool) -> Iterator[str]:
    """The lines of a table whose columns are those of all rows, labels in the order of names."""
    names = dict.fromkeys(name for row in rows for name in row)
    labels = sorted(name for name in names if name.startswith("label_"))
    header = [*(name for name in names if name not in labels), *labels]
    line = io.StringIO()
    table = csv.writer(line, lineterminator="\n")
    for row in (dict(zip(header, header, strict=True)), *rows):
        words = ["" if row.get(name) is None else str(row[name]) for name in header]
        if tabs:  # has no quotes, so what cannot be in a column becomes a blank
            yield "\t".join(" ".join(word.split()) for word in words) + "\n"
            continue
        table.writerow(words)
        yield line.getvalue()
        line.seek(line.truncate(0))


def _labels(utterance: Utterance) -> dict[str, str]:
    return {k if k == "label" else f"label_{k}": v for k, v in utterance.labels.items()}


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _jsonl(utterances: _Utterances, tabs: bool) -> Iterator[str]:
    """NeMo's keys; `label` as such, other label fields as `label_X`."""
    for u in utterances:
        row: dict[str, Any] = {"audio_filepath": _absolute(u), "duration": round(_duration(u), 6)}
        row |= {"offset": u.start or 0.0} if _is_cut(u) else {}
        row |= {} if u.text is None else {"text": u.text}
        yield _line(row | {"id": u.id, "speaker": u.speaker, **_labels(u)}) + "\n"


def _speechbrain_json(utterances: _Utterances, tabs: bool) -> Iterator[str]:
    """`wav` (with start and stop in samples where there are any), length, text, labels."""
    separator = "{\n"
    for u in utterances:
        wav: Any = {"file": _absolute(u), **_samples(u)} if _is_cut(u) else _absolute(u)
        entry: dict[str, Any] = {"wav": wav, "length": round(_duration(u), 6), "spk_id": u.speaker}
        entry |= {} if u.text is None else {"words": u.text}
        yield f"{separator}{json.dumps(u.id)}: {_line(entry | _labels(u))}"
        separator = ",\n"
    yield "{}\n" if separator == "{\n" else "\n}\n"


def _lhotse(utterances: _Utterances, tabs: bool) -> Iterator[str]:
    """A `MonoCut` with one supervision each; label fields go to its `custom`."""
    for u in utterances:
        name, info = Path(u.audio).stem, _info(_absolute(u))
        channels = list(range(info.channels))
        common: dict[str, Any] = {
            "channel": 0 if info.channels == 1 else channels,
            "duration": round(_duration(u), 6),
        }
        supervision: dict[str, Any] = {"id": u.id, "recording_id": name, "start": 0.0, **common}
        supervision |= {k: v for k, v in (("text", u.text), ("speaker", u.speaker)) if v}
        supervision |= {"custom": _labels(u)} if u.labels else {}
        recording = {
            "id": name,
            "sources": [{"type": "file", "channels": channels, "source": _absolute(u)}],
            "sampling_rate": info.sample_rate,
            "num_samples": info.frames,
            "duration": info.duration,
            "channel_ids": channels,
        }
        kind = "MonoCut" if info.channels == 1 else "MultiCut"
        cut = {"id": u.id, "start": u.start or 0.0, **common, "supervisions": [supervision]}
        yield _line(cut | {"recording": recording, "type": kind}) + "\n"


WRITERS = {
    "csv": _csv,
    "jsonl": _jsonl,
    "speechbrain_csv": _speechbrain_csv,
    "speechbrain_json": _speechbrain_json,
    "lhotse": _lhotse,
}
"""Name of a format -> how it is written."""

_info = functools.lru_cache(maxsize=1024)(audio_info)


def _is_cut(utterance: Utterance) -> bool:
    return utterance.start is not None or utterance.end is not None


def _duration(utterance: Utterance) -> float:
    """Length in seconds: known, or from start and end, or measured."""
    if utterance.duration is not None:
        return utterance.duration
    end = _info(utterance.audio).duration if utterance.end is None else utterance.end
    return end - (utterance.start or 0.0)


def _samples(utterance: Utterance) -> dict[str, int]:
    """First and one-past-last sample of an utterance, at the rate of its file."""
    info = _info(utterance.audio)
    end = info.duration if utterance.end is None else utterance.end
    return {
        "start": round((utterance.start or 0.0) * info.sample_rate),
        "stop": min(info.frames, round(end * info.sample_rate)),
    }


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
