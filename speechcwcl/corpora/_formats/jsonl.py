"""One JSON object a line: NeMo, Whisper fine-tuning, and our own ``manifest.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from speechcwcl.corpora._formats._fields import (
    GUESSES,
    Options,
    Reader,
    absolute,
    duration_of,
    seconds,
)
from speechcwcl.corpora._layout import read_lines
from speechcwcl.data.problems import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError


def fits(path: Path, head: str) -> bool:
    """Whether the first line is an object that names audio."""
    try:
        first = json.loads(head.split("\n")[0])
    except ValueError:
        return False
    return isinstance(first, dict) and any(name in first for name in GUESSES["audio"])


def read(path: Path, problems: Problems, options: Options) -> Iterator[Utterance]:
    """Yield its utterances.

    ``offset`` with ``duration`` (NeMo), ``start`` with ``end`` (ours), or ``audio.start_time`` with
    ``audio.end_time`` (Whisper fine-tuning) choose a stretch, in seconds; without them the whole
    file is meant.
    """
    reader = Reader(path, problems, options)
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
            if isinstance(row.get("labels"), dict):  # ours
                given = row.pop("labels").items()
                row |= {k if k == "label" else f"label_{k}": v for k, v in given}
            audio, start, end = _stretch(row, reader, where)
        except (ValueError, UserError) as error:
            text = str(error)
            problems.add(text if text.startswith(where) else f"{where}: not such a line: {text}")
            continue
        utterance = reader.utterance(where, number, row, start=start, end=end, audio=audio)
        if utterance:
            yield utterance


def _stretch(
    row: dict[str, Any], reader: Reader, where: str
) -> tuple[Any, float | None, float | None]:
    """Audio path, start and end of a line."""
    audio = reader.value(row, "audio")
    if isinstance(audio, dict):
        times = (audio.get("start_time"), audio.get("end_time"))
        audio = audio.get("path")
    else:
        times = (row.get("start"), row.get("end"))
    start, end = (seconds(value, where, "time") for value in times)
    offset = seconds(row.get("offset"), where, "offset")
    if offset is not None:
        length = seconds(row.get("duration"), where, "duration")
        start, end = offset, None if length is None else offset + length
    return audio, start, end


def write(stream: IO[str], utterances: Iterable[Utterance], path: Path) -> None:
    """Write NeMo's keys; ``label`` as such, other label fields as ``label_X``."""
    for u in utterances:
        row: dict[str, Any] = {"audio_filepath": absolute(u), "duration": round(duration_of(u), 6)}
        if u.start is not None or u.end is not None:
            row["offset"] = u.start or 0.0
        if u.text is not None:
            row["text"] = u.text
        row |= {"id": u.id, "speaker": u.speaker}
        for name, value in u.labels.items():
            row["label" if name == "label" else f"label_{name}"] = value
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")
