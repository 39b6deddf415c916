"""SpeechBrain's CSV: ``ID,duration,wav,[start,stop,]spk_id,wrd,...``, times in samples."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from speechcwcl.corpora._formats import plain_csv
from speechcwcl.corpora._formats._fields import Options, Reader, absolute, duration_of, spooled
from speechcwcl.data.audio import audio_info
from speechcwcl.data.problems import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError


def fits(path: Path, head: str) -> bool:
    """Whether the header is SpeechBrain's."""
    columns = [name.strip() for name in head.split("\n")[0].split(",")]
    return path.suffix == ".csv" and columns[0] == "ID" and "wav" in columns


def read(path: Path, problems: Problems, options: Options) -> Iterator[Utterance]:
    """Yield its utterances; ``{data_root}`` is :attr:`Options.root`."""
    reader = Reader(path, problems, options)
    for number, row in plain_csv.rows(path):
        yield from one(reader, f"{path}:{number}", number, row, row.get("ID", ""), row.get("wav"))


def one(
    reader: Reader, where: str, number: int, row: dict[Any, Any], key: str, wav: Any
) -> Iterator[Utterance]:
    """The utterance of an entry, if it is sound; also SpeechBrain's JSON has such entries."""
    span = wav if isinstance(wav, dict) else row
    audio = wav.get("file") if isinstance(wav, dict) else wav
    start = end = None
    if span.get("start") not in (None, "") or span.get("stop") not in (None, ""):
        try:
            first, last = (int(span.get(name) or 0) for name in ("start", "stop"))
            rate = audio_info(reader.audio(audio)).sample_rate
        except ValueError:
            reader.problems.add(f"{where}: start and stop must be numbers of samples")
            return
        except UserError as error:
            reader.problems.add(f"{where}: {error}")
            return
        start, end = first / rate, last / rate if last > 0 else None
    found = reader.utterance(where, number, row, start=start, end=end, key=str(key), audio=audio)
    if found:
        yield found


def write(stream: IO[str], utterances: Iterable[Utterance], path: Path) -> None:
    """Write the table; label fields become columns of their names."""
    with spooled(utterances) as spool:
        times = ["start", "stop"] if spool.cut else []
        table = csv.writer(stream, lineterminator="\n")
        names = [name if name == "label" else f"label_{name}" for name in spool.fields]
        table.writerow(["ID", "duration", "wav", *times, "spk_id", "wrd", *names])
        for u in spool:
            span = samples(u) if spool.cut else ()
            labels = [u.labels.get(name, "") for name in spool.fields]
            head = (u.id, f"{duration_of(u):.6g}", absolute(u))
            table.writerow([*head, *span, u.speaker, u.text or "", *labels])


def samples(utterance: Utterance) -> tuple[int, int]:
    """First and one-past-last sample of an utterance, at the rate of its file."""
    info = audio_info(utterance.audio)
    start = round((utterance.start or 0.0) * info.sample_rate)
    if utterance.end is None:
        return start, info.frames
    return start, min(info.frames, round(utterance.end * info.sample_rate))
