"""Kaldi data folders: reading, checking, writing.

A folder `data/<set>/` holds `wav.scp` (`id path`), `text` (`id words`), `utt2spk`
(`id speaker`; without it each utterance is its own speaker), perhaps `segments`
(`id recording start end`, seconds; an end of -1 is the end of the recording, and one that lies
half a second behind it at most is cut to it, as in Kaldi, and counted), perhaps label files
(`utt2label` is the field `label`, `utt2scenario` the field `scenario`), perhaps `utt2dur`
(seconds; spares looking into the audio), and `corpus.json`. `text` may be absent where there is
a label file. The files may be in any order; relative audio paths start at the current directory, as
in Kaldi. Ids that differ in composed letters only (NFC, NFD) are the same id.

The tables are held in memory: a million utterances take less than 1 GB.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechcwcl.data.tables import Problems, Table, composed, is_label_file, write_datadir
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest
from speechcwcl.files import read_json

__all__ = ["Utterance", "write_datadir"]  # from here too, for whoever reads and writes folders

_ARCHIVE = re.compile(r".*\.ark(:\d+)?(\[.*\])?")


@dataclass
class Report:
    """What `check_datadir` found."""

    folder: str
    utterances: int  # how many are sound
    speakers: int
    with_text: int  # how many utterances have a text
    # label field -> (different values, utterances that have one)
    fields: dict[str, tuple[int, int]]
    problems: Problems  # what is wrong

    def __str__(self) -> str:
        if self.problems:
            return self.problems.text()
        parts = [f"{self.utterances} utterances", f"{self.speakers} speakers"]
        parts.append(f"{self.with_text} with text")
        for name, (values, count) in self.fields.items():
            parts.append(f"{name}: {values} values in {count} utterances")
        return f"{self.folder}: " + ", ".join(parts)


def check_datadir(folder: str | Path, *, allow_pipe: bool = False) -> Report:
    """Check a data folder's files (its audio: `compile_manifest`) and count what they hold.

    Raises:
        UserError: there is no such folder, or no `wav.scp` in it.
    """
    problems = Problems()
    count = with_text = 0
    speakers: set[str] = set()
    values: dict[str, set[str]] = {}
    having: dict[str, int] = {}
    for utterance in scan_datadir(folder, problems, allow_pipe=allow_pipe):
        count += 1
        with_text += utterance.text is not None
        speakers.add(utterance.speaker)
        for name, value in utterance.labels.items():
            values.setdefault(name, set()).add(value)
            having[name] = having.get(name, 0) + 1
    fields = {name: (len(values[name]), having[name]) for name in sorted(values)}
    return Report(str(folder), count, len(speakers), with_text, fields, problems)


def iter_datadir(folder: str | Path, *, allow_pipe: bool = False) -> Iterator[Utterance]:
    """Yield the utterances of a data folder, ordered by id.

    Raises:
        UserError: anything is wrong, before the first one; the message has the first ten problems
            and their number.
    """
    check_datadir(folder, allow_pipe=allow_pipe).problems.raise_if_any()
    return scan_datadir(folder, Problems(), allow_pipe=allow_pipe)


def read_datadir(folder: str | Path, *, allow_pipe: bool = False) -> list[Utterance]:
    """A data folder as a list; see `iter_datadir`."""
    return list(iter_datadir(folder, allow_pipe=allow_pipe))


def read_corpus(folder: str | Path) -> dict[str, Any]:
    """The facts in a data folder's `corpus.json`; an empty dict when there is none."""
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
    """Yield the sound utterances ordered by id; what is wrong goes to `problems`."""
    folder = Path(folder)
    labels = _look(folder, problems)
    main = recordings = Table(folder / "wav.scp", problems)
    paths = {key: _path(key, recordings, problems, allow_pipe) for key in recordings.rows}
    if (folder / "segments").exists():
        main = Table(folder / "segments", problems)
    sides = {
        name: Table(folder / name, problems, alike=name not in ("text", "utt2dur"))
        for name in ("text", "utt2spk", "utt2dur", *labels)
        if (folder / name).exists()
    }
    for key in sorted(main.rows):
        before = len(problems)
        utterance = (
            Utterance(key, paths[key])
            if main is recordings
            else _segment(key, main, recordings, paths, problems)
        )
        _fill(utterance, main, sides, problems)
        if len(problems) == before and utterance.audio:
            yield utterance
    for table in sides.values():
        for key in table.rows:
            if key not in main.rows:
                near = main.near(key) if problems.room else ""
                problems.add(f"{table.where(key)}: id {key!r} is not in {main.path.name}{near}")
    if not main.rows and not problems:
        problems.add(f"{main.path}: zero utterances")


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
    labels = sorted(name for name in os.listdir(folder) if is_label_file(name))
    if not (folder / "text").exists() and not labels:
        problems.add(f"{folder}: neither text nor a label file such as utt2label in it")
    try:
        read_corpus(folder)
    except UserError as error:
        problems.add(str(error))
    return labels


def _path(key: str, scp: Table, problems: Problems, allow_pipe: bool) -> str:
    """The audio of a recording; empty if it is unsound."""
    value = scp.rows[key]
    if not value:
        problems.add(f"{scp.where(key)}: no path after id {key!r}")
    elif value.endswith("|") and not allow_pipe:
        problems.add(
            f"{scp.where(key)}: {key!r} is a command; `check` and `format` take commands with "
            "--allow_pipe, run.sh with --allow_pipe true"
        )
    elif _ARCHIVE.fullmatch(value):
        problems.add(
            f"{scp.where(key)}: {value!r} is a place in a Kaldi archive, and arks are not read: "
            "write wav files (wav-copy scp:wav.scp scp,p:out.scp)"
        )
    else:
        return value
    return ""


def _segment(
    key: str, segments: Table, recordings: Table, paths: dict[str, str], problems: Problems
) -> Utterance:
    """Parse `recording start end`; without audio if it is unsound."""
    columns, utterance = segments.rows[key].split(), Utterance(key, "")
    if len(columns) != 3:
        problems.add(
            f"{segments.where(key)}: {len(columns) + 1} columns, 4 expected: utterance recording "
            "start end"
        )
        return utterance
    name = composed(columns[0])
    try:
        start, end = float(columns[1]), float(columns[2])
    except ValueError:
        problems.add(
            f"{segments.where(key)}: start and end must be seconds, not {' '.join(columns[1:])!r}"
        )
        return utterance
    to_the_end = end == -1  # Kaldi's way to say it
    if name not in paths:
        near = recordings.near(name) if problems.room else ""
        problems.add(f"{segments.where(key)}: recording {name!r} is not in wav.scp{near}")
    elif not (0 <= start < math.inf and (to_the_end or start < end < math.inf)):
        problems.add(f"{segments.where(key)}: no stretch from {columns[1]} s to {columns[2]} s")
    else:
        utterance.audio = paths[name]
        utterance.start, utterance.end = start, None if to_the_end else end
    return utterance


def _fill(utterance: Utterance, main: Table, sides: dict[str, Table], problems: Problems) -> None:
    """Add text, speaker, duration and labels; what is wrong with them goes to `problems`."""
    key = utterance.id
    utterance.speaker = key
    for name, table in sides.items():
        value = table.rows.get(key)
        if value is None:
            if name in ("text", "utt2spk"):  # durations and labels may be there for a part only
                near = table.near(key) if problems.room else ""
                problems.add(f"{main.where(key)}: id {key!r} has no line in {name}{near}")
        elif not value:
            what = {"text": "empty text", "utt2spk": "no speaker"}.get(name, "no value")
            problems.add(f"{table.where(key)}: {what} for id {key!r}")
        elif name == "text":
            utterance.text = value
        elif name == "utt2dur":
            utterance.duration = _seconds(value)
            if utterance.duration is None:
                problems.add(f"{table.where(key)}: {value!r} is no duration in seconds")
        elif name != "utt2spk":
            utterance.labels[name[len("utt2") :]] = value
        elif len(value.split()) != 1:
            columns = len(value.split()) + 1
            problems.add(f"{table.where(key)}: {columns} columns, 2 expected: utterance speaker")
        else:
            utterance.speaker = value


def _seconds(value: str) -> float | None:
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None
