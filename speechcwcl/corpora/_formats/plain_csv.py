"""A table with a header: ``audio,text,label`` and whatever else there is."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from speechcwcl.corpora._formats._fields import GUESSES, Options, Reader, absolute, seconds, spooled
from speechcwcl.data.problems import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError

_WRITTEN = ("id", "audio", "start", "end", "duration", "text", "speaker", "label")


def fits(path: Path, head: str) -> bool:
    """Whether this looks like such a table."""
    line = head.split("\n")[0].strip()
    columns = line.split(_delimiter(path))
    return path.suffix in (".csv", ".tsv") and any(c in GUESSES["audio"] for c in columns)


def read(path: Path, problems: Problems, options: Options) -> Iterator[Utterance]:
    """Yield its utterances; ``start`` and ``end`` are seconds."""
    reader = Reader(path, problems, options)
    for number, row in rows(path):
        where = f"{path}:{number}"
        if None in row:
            problems.add(f"{where}: more columns than the header has")
            continue
        try:
            start, end = (seconds(row.get(n), where, n) for n in ("start", "end"))
        except UserError as error:
            problems.add(str(error))
            continue
        utterance = reader.utterance(where, number, row, start=start, end=end)
        if utterance:
            yield utterance


def rows(path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    """``(line number, column -> value)`` of a comma- or tab-separated file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream, delimiter=_delimiter(path), skipinitialspace=True)
            for row in table:
                yield table.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a UTF-8 table: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error


def write(stream: IO[str], utterances: Iterable[Utterance], path: Path) -> None:
    """Write a table; label fields other than ``label`` become columns ``label_X``."""
    with spooled(utterances) as spool:
        fields = [name for name in spool.fields if name != "label"]
        table = csv.writer(stream, delimiter=_delimiter(path), lineterminator="\n")
        table.writerow([*_WRITTEN, *(f"label_{name}" for name in fields)])
        for u in spool:
            values = (u.id, absolute(u), u.start, u.end, u.duration, u.text, u.speaker)
            labels = (u.labels.get(name, "") for name in ("label", *fields))
            table.writerow(["" if value is None else value for value in (*values, *labels)])


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","
