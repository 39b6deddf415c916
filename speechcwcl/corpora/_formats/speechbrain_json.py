"""SpeechBrain's JSON: one object, utterance -> ``wav``, ``length`` and what the recipe needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from speechcwcl.corpora._formats import speechbrain_csv
from speechcwcl.corpora._formats._fields import Options, Reader, absolute, duration_of
from speechcwcl.data.problems import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.files import read_json

_FIRST = re.compile(r'\s*\{\s*"[^"]+"\s*:\s*\{')


def fits(path: Path, head: str) -> bool:
    """Whether it is an object of objects."""
    return path.suffix == ".json" and _FIRST.match(head) is not None


def read(path: Path, problems: Problems, options: Options) -> Iterator[Utterance]:
    """Yield its utterances; ``{data_root}`` is :attr:`Options.root`."""
    entries = read_json(path)
    if not isinstance(entries, dict):
        raise UserError(f"{path}:1: expected an object, utterance -> entry")
    reader = Reader(path, problems, options)
    for number, (key, entry) in enumerate(entries.items(), 1):
        where = f"{path}: {key!r}"
        if not isinstance(entry, dict):
            problems.add(f"{where}: not an entry")
            continue
        wav = reader.value(entry, "audio")
        yield from speechbrain_csv.one(reader, where, number, entry, key, wav)


def write(stream: IO[str], utterances: Iterable[Utterance], path: Path) -> None:
    """Write ``wav`` (with start and stop in samples where there are any), length, text, labels."""
    separator = "{\n"
    for u in utterances:
        wav: Any = absolute(u)
        if u.start is not None or u.end is not None:
            start, stop = speechbrain_csv.samples(u)
            wav = {"file": wav, "start": start, "stop": stop}
        entry: dict[str, Any] = {"wav": wav, "length": round(duration_of(u), 6)}
        entry |= {"spk_id": u.speaker}
        if u.text is not None:
            entry["words"] = u.text
        for name, value in u.labels.items():
            entry["label" if name == "label" else f"label_{name}"] = value
        stream.write(separator + json.dumps(u.id) + ": " + json.dumps(entry, ensure_ascii=False))
        separator = ",\n"
    stream.write("{}\n" if separator == "{\n" else "\n}\n")
