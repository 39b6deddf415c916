"""Reading a data folder as one stream: its sorted tables are merged, nothing is held whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechcwcl.data import tables
from speechcwcl.data.problems import Problems
from speechcwcl.data.tables import Row
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest
from speechcwcl.files import read_json


def read_corpus(folder: str | Path) -> dict[str, Any]:
    """The facts in a data folder's ``corpus.json``; an empty dict when there is none.

    Raises:
        UserError: it is not a JSON object; the message names the line.
    """
    path = Path(folder) / "corpus.json"
    if not path.exists():
        return {}
    facts = read_json(path)
    if not isinstance(facts, dict):
        raise UserError(f"{path}:1: must be a JSON object, {{...}}")
    return facts


def scan_datadir(
    folder: str | Path, problems: Problems, *, allow_pipe: bool = False
) -> Iterator[Utterance]:
    """Yield the sound utterances ordered by id; what is wrong goes to ``problems``.

    Memory does not grow with the number of utterances (the recordings behind ``segments`` are
    held: as a rule they are far fewer).

    Raises:
        UserError: there is no such folder, or no ``wav.scp`` in it.
    """
    folder = Path(folder)
    fields = _look(folder, problems)
    main = folder / ("segments" if (folder / "segments").exists() else "wav.scp")
    names = [n for n in ("text", "utt2spk", "utt2dur") if (folder / n).exists()]
    sides = {name: _Side(folder / name, main, problems) for name in (*names, *fields)}
    count = 0
    for key, where, utterance in _audio_rows(folder, problems, allow_pipe):
        count += 1
        rows = {name: side.take(key) for name, side in sides.items()}
        sound = _fill(key, where, utterance, rows, sides, problems)
        if sound is not None:
            yield sound
    for side in sides.values():
        side.finish()
    if not count and not problems:
        problems.add(f"{main}: zero utterances")


def _look(folder: Path, problems: Problems) -> list[str]:
    """See which files are there; return the label files."""
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.glob("*") if p.is_dir()]
        raise UserError(
            f"{folder}: no such data folder{closest(folder.name, beside)}; run stage 1 (data) first"
        )
    if (folder / "stream.json").exists():
        raise UserError(
            f"{folder}: streamed (stream.json), which only a training set can be: "
            "`train --train` takes it; for other uses prepare it without --stream"
        )
    if not (folder / "wav.scp").exists():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise UserError(f"{folder}: not a data folder: no wav.scp in it (but {found})")
    fields = tables.field_files(folder)
    if not (folder / "text").exists() and not fields:
        problems.add(f"{folder}: neither text nor a label file such as utt2label in it")
    try:
        read_corpus(folder)
    except UserError as error:
        problems.add(str(error))
    return fields


class _Side:
    """A table read beside the main one, both in the order of their ids."""

    def __init__(self, path: Path, main: Path, problems: Problems) -> None:
        self.path, self.main, self.problems = path, main, problems
        self.rows = tables.sorted_rows(path, problems)
        self.row = next(self.rows, None)

    def take(self, key: str) -> Row | None:
        """The row of ``key``, or None; rows passed on the way belong to no utterance."""
        while self.row is not None and self.row.id < key:
            self._orphan(self.row)
        row = self.row
        if row is None or row.id != key:
            return None
        self.row = next(self.rows, None)
        return row

    def finish(self) -> None:
        """Everything still here belongs to no utterance."""
        while self.row is not None:
            self._orphan(self.row)

    def _orphan(self, row: Row) -> None:
        near = tables.closest_id(row.id, self.main) if self.problems.room else ""
        where = f"{self.path}:{row.line}"
        self.problems.add(f"{where}: id {row.id!r} is not in {self.main.name}{near}")
        self.row = next(self.rows, None)

    def missing(self, key: str, where: str) -> None:
        """Note that the utterance at ``where`` has no row here."""
        near = tables.closest_id(key, self.path) if self.problems.room else ""
        self.problems.add(f"{where}: id {key!r} has no line in {self.path.name}{near}")


def _audio_rows(
    folder: Path, problems: Problems, allow_pipe: bool
) -> Iterator[tuple[str, str, Utterance | None]]:
    """Yield (id, ``file:line``, utterance with its audio only or None if that is unsound)."""
    scp, segments = folder / "wav.scp", folder / "segments"
    recordings = _recordings(scp, problems, allow_pipe)
    if not segments.exists():
        place = str(scp)
        for row, path in recordings:
            utterance = None if path is None else Utterance(row.id, path)
            yield row.id, f"{place}:{row.line}", utterance
        return
    paths = {row.id: path for row, path in recordings}
    for row in tables.sorted_rows(segments, problems):
        where = f"{segments}:{row.line}"
        yield row.id, where, _segment(row, where, paths, problems)


def _recordings(
    scp: Path, problems: Problems, allow_pipe: bool
) -> Iterator[tuple[Row, str | None]]:
    for row in tables.sorted_rows(scp, problems):
        path: str | None = row.value
        if not row.value:
            problems.add(f"{scp}:{row.line}: no path after id {row.id!r}")
            path = None
        elif row.value.endswith("|") and not allow_pipe:
            problems.add(
                f"{scp}:{row.line}: {row.id!r} is a command; commands run only with allow_pipe"
            )
            path = None
        yield row, path


def _segment(
    row: Row, where: str, paths: dict[str, str | None], problems: Problems
) -> Utterance | None:
    """Parse ``recording start end``."""
    columns = row.value.split()
    if len(columns) != 3:
        problems.add(
            f"{where}: {len(columns) + 1} columns, 4 expected: utterance recording start end"
        )
        return None
    name = columns[0]
    try:
        start, end = float(columns[1]), float(columns[2])
    except ValueError:
        problems.add(f"{where}: start and end must be seconds, not {' '.join(columns[1:])!r}")
        return None
    if name not in paths:
        near = closest(name, paths) if problems.room and len(paths) < 100_000 else ""
        problems.add(f"{where}: recording {name!r} is not in wav.scp{near}")
        return None
    to_the_end = end == -1  # Kaldi's way to say it
    if not (0 <= start < math.inf and (to_the_end or start < end < math.inf)):
        problems.add(f"{where}: no stretch from {columns[1]} s to {columns[2]} s")
        return None
    path = paths[name]
    if path is None:
        return None
    return Utterance(row.id, path, start=start, end=None if to_the_end else end)


def _fill(
    key: str,
    where: str,
    utterance: Utterance | None,
    rows: dict[str, Row | None],
    sides: dict[str, _Side],
    problems: Problems,
) -> Utterance | None:
    """Add text, speaker, duration and labels; None if any of them is unsound."""
    before = problems.count
    values: dict[str, str] = {}
    for name, row in rows.items():
        if row is None:
            if name in ("text", "utt2spk"):  # durations and labels may be there for a part only
                sides[name].missing(key, where)
        elif not row.value:
            what = {"text": "empty text", "utt2spk": "no speaker"}.get(name, "no value")
            problems.add(f"{sides[name].path}:{row.line}: {what} for id {key!r}")
        elif name == "utt2spk" and len(row.value.split()) != 1:
            columns = len(row.value.split()) + 1
            problems.add(
                f"{sides[name].path}:{row.line}: {columns} columns, 2 expected: utterance speaker"
            )
        else:
            values[name] = row.value
    duration = _seconds(values.pop("utt2dur", None), rows.get("utt2dur"), sides, problems)
    if utterance is None or problems.count > before:
        return None
    utterance.text = values.pop("text", None)
    utterance.speaker = values.pop("utt2spk", key)
    utterance.duration = duration
    utterance.labels = {name[len("utt2") :]: value for name, value in values.items()}
    return utterance


def _seconds(
    value: str | None, row: Row | None, sides: dict[str, _Side], problems: Problems
) -> float | None:
    if value is None or row is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if 0 < seconds < math.inf:
        return seconds
    problems.add(f"{sides['utt2dur'].path}:{row.line}: {value!r} is no duration in seconds")
    return None
