"""Splits of a dataset on the disk: audio as it is stored, in shards of files, and a parquet fake.

`<split>/shard-00000/rows.jsonl` has a line for each clip beside it; `.source.json` says what it
is made of, `.completed` that it is all there. A shard is there when it is whole, so a run that
was cut off goes on after the last of them.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from speechcwcl.corpora._formats import say_repeated
from speechcwcl.corpora.base import write_spoken
from speechcwcl.data.audio import write_audio
from speechcwcl.data.remote import Records
from speechcwcl.data.rows import (
    NOT_UTF8,
    audio_of,
    hub_file,
    is_text,
    on_the_hub,
    one_text,
    one_word,
    read_lines,
    suffix_of,
)
from speechcwcl.errors import UserError
from speechcwcl.files import read_json, replace_folder, sha256_json, write_json
from speechcwcl.jsons import parse_json

DONE = ".completed"
STATE = ".source.json"


def write_split(
    records: Records,
    columns: dict[str, Any],
    folder: Path,
    *,
    shard: int,
    limit: int | None,
    id_given: str,
) -> None:
    """Write a split in shards, unless it was done from the same source.

    Args:
        columns: role -> column; `labels`: label field -> column.
        id_given: the column of ids, if the user named it: then it must hold ids.
    """
    key = sha256_json([records.key, columns, shard, limit])
    if (folder / DONE).exists() and read_json(folder / DONE, dict).get("key") == key:
        return
    whole = _whole_shards(folder, key)
    written = whole * shard
    last = None if limit is None else max(0, limit - written)
    bar = tqdm(records.rows(written), initial=written, unit=" clips", desc=folder.name)
    rows = islice(bar, last)
    while True:
        part = folder / f"shard-{whole:05d}"
        count = _write_shard(part, islice(rows, shard), columns, records)
        whole, written = whole + 1, written + count
        if count < shard:
            break
    facts = {"key": key, "records": written, "columns": columns, "id_given": id_given}
    write_json(folder / DONE, facts)


def _ours(folder: Path) -> set[str]:
    """The files of a split that was written out, or half of it."""
    if not (folder / STATE).is_file():
        return set()
    found = {STATE, DONE}
    for shard in folder.glob("shard-*"):
        rows = shard / "rows.jsonl"
        if re.fullmatch(r"shard-\d{5}", shard.name) and rows.is_file():
            try:
                names = [json.loads(line)["audio"] for line in rows.read_bytes().splitlines()]
            except (ValueError, KeyError, TypeError):
                continue
            found |= {f"{shard.name}/{name}" for name in (rows.name, *names)}
    return found


def written(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The rows that were written out, each with the folder of its audio."""
    for shard in sorted(folder.glob("shard-*")):
        for number, line in read_lines(shard / "rows.jsonl"):
            yield shard, parse_json(line, f"{shard / 'rows.jsonl'}:{number}", line=False)


def repeats(folder: Path) -> bool:
    """Whether a guessed column of ids has an id twice, which is said then."""
    seen: set[str] = set()
    for _, row in written(folder):
        key = row.get("id", "")
        if key and key in seen:
            say_repeated(str(folder), key)
            return True
        seen.add(key)
    return False


def _whole_shards(folder: Path, key: str) -> int:
    """How many shards of a cut-off run stand; those of another source are removed."""
    state = folder / STATE
    if not state.exists() or read_json(state, dict).get("key") != key:
        with replace_folder(folder, _ours) as empty:
            write_json(empty / STATE, {"key": key})
    (folder / DONE).unlink(missing_ok=True)
    count = 0
    while (folder / f"shard-{count:05d}").is_dir():
        count += 1
    return count


def _write_shard(
    folder: Path, rows: Iterable[dict[str, Any]], columns: dict[str, Any], records: Records
) -> int:
    """One folder of audio files with `rows.jsonl`, there when whole; returns how many."""
    rows, count = iter(rows), 0
    first = next(rows, None)
    if first is None:
        return 0
    with (
        replace_folder(folder, lambda _: ()) as made,
        (made / "rows.jsonl").open("w", encoding="utf-8") as stream,
    ):
        for row in chain([first], rows):
            audio = row.get(columns["audio"])
            try:
                name = _store(audio, made / f"{count:06d}", local=records.local)
                if name and not is_text(name):
                    raise UserError(f"{ascii(name)}: {NOT_UTF8}")
                entry = {"audio": name, **_words(row, columns, records, count)}
            except UserError as error:
                entry = {"audio": None, "problem": f": {str(error).removeprefix(': ')}"}
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
            count += 1
    return count


def _words(
    row: dict[str, Any], columns: dict[str, Any], records: Records, number: int
) -> dict[str, Any]:
    """All of a record but its audio, as text."""

    def word(column: str | None, role: str) -> str:
        return one_word(records.value(row, column), "", role)

    key = word(columns["id"], "id")
    text = one_text(records.value(row, columns["text"]), "", key or str(number))
    labels = {f: word(c, f"label {c!r}") for f, c in columns["labels"].items()}
    return {
        "text": (text or "") if columns["text"] else None,
        "speaker": word(columns["speaker"], "speaker"),
        "id": key,
        "labels": {field: label for field, label in labels.items() if label},
    }


def _store(audio: Any, stem: Path, *, local: bool) -> str | None:
    """Write a record's audio beside `stem`; its name, or the path of a file that is there."""
    found = audio_of(audio, local=local)
    if isinstance(found, tuple):
        path = stem.with_suffix(".flac")
        write_audio(path, *found)
        return path.name
    if isinstance(found, str) and on_the_hub(found):
        found = hub_file(found)
    if isinstance(found, bytes):
        name = audio if isinstance(audio, str) else audio.get("path")
        path = stem.with_suffix(suffix_of(found, name or ""))
        path.write_bytes(found)
        return path.name
    return found


_FAKE = (
    ("turn the heating on", "heating_on"),
    ("it is far too warm in here", "heating_off"),
    ("warm the bathroom up", "heating_on"),
    ("stop heating the cellar", "heating_off"),
)


def write_parquet(target: Path, seed: int = 0) -> Path:
    """Write `data/<split>-00000-of-00001.parquet` with audio, text, intent and speaker."""
    names = sorted({intent for _, intent in _FAKE})
    for place, split in enumerate(("train", "validation", "test")):
        rows = [
            {"text": text, "intent": intent, "speaker_id": f"{split}{number % 2}"}
            for number, (text, intent) in enumerate(_FAKE)
        ]
        file = target / "data" / f"{split}-00000-of-00001.parquet"
        write_table(file, rows, "text", seed + 10 * place, {"intent": names})
    return target


def write_table(
    file: Path,
    rows: Sequence[dict[str, str]],
    said: str,
    seed: int = 0,
    classes: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a parquet file of a fake as `datasets` writes them, with synthetic clips.

    Args:
        rows: the columns beside `audio`.
        said: the column that the clips say.
        seed: of the first clip.
        classes: column -> the names that its numbers stand for.
    """
    import pyarrow
    import pyarrow.parquet

    features: dict[str, Any] = {"audio": {"sampling_rate": 16000, "_type": "Audio"}}
    columns: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        features[name] = {"dtype": "string", "_type": "Value"}
        if names := list((classes or {}).get(name, ())):
            features[name] = {"names": names, "_type": "ClassLabel"}
            values = pyarrow.array([names.index(value) for value in values], pyarrow.int64())
        columns[name] = values
    clips = []
    with tempfile.TemporaryDirectory() as folder:
        for number, row in enumerate(rows):
            path = Path(folder) / f"{file.stem.split('-')[0]}_{number}.flac"
            write_spoken(path, row[said], seed + number)
            clips.append({"bytes": path.read_bytes(), "path": path.name})
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"audio": pyarrow.array(clips, type=kind), **columns})
    facts = {"huggingface": json.dumps({"info": {"features": features}})}
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table.replace_schema_metadata(facts), file)
