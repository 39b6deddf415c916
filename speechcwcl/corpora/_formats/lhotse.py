"""Lhotse cuts as JSON lines (``MonoCut``); lhotse itself is not needed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from speechcwcl.corpora._formats._fields import Options, Reader, absolute, duration_of
from speechcwcl.data.audio import AudioInfo, audio_info
from speechcwcl.data.problems import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError

_CLOSE = 1e-3


def fits(path: Path, head: str) -> bool:
    """Whether the first line is a cut."""
    names = path.name.removesuffix(".gz")
    line = head.split("\n")[0]
    return names.endswith(".jsonl") and '"supervisions"' in line and '"recording"' in line


def read(path: Path, problems: Problems, options: Options) -> Iterator[Utterance]:
    """Yield its cuts. Supervisions are joined in the order of their times; labels are looked for
    in the supervision, its ``custom``, and the cut's ``custom``.

    What cannot be had from one plain file is a problem: mixed or padded cuts, transforms (speed,
    volume), audio that is a command or a URL, one channel of several.
    """
    reader = Reader(path, problems, options)
    for number, line in _lines(path):
        where = f"{path}:{number}"
        try:
            cut = json.loads(line)
            audio, start, end = _audio(cut)
            row = _row(cut)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            problems.add(f"{where}: not a cut of one file: {error}")
            continue
        key = str(cut.get("id", ""))
        utterance = reader.utterance(where, number, row, start=start, end=end, key=key, audio=audio)
        if utterance:
            yield utterance


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read: {error}") from error


def _audio(cut: dict[str, Any]) -> tuple[str, float | None, float | None]:
    """Path, start and end of a cut; an exception that says why not."""
    if cut.get("type", "MonoCut") not in ("MonoCut", "MultiCut"):
        raise ValueError(f"a {cut['type']}")
    recording = cut["recording"]
    sources = recording["sources"]
    if recording.get("transforms"):
        raise ValueError("its recording has transforms (save the audio first)")
    if len(sources) != 1 or sources[0].get("type") != "file":
        raise ValueError("its audio is not one file")
    if len(sources[0].get("channels", [0])) > 1 and cut.get("type") == "MonoCut":
        raise ValueError("one channel of several")
    start, length = float(cut["start"]), float(cut["duration"])
    whole = start < _CLOSE and abs(length - float(recording["duration"])) < _CLOSE
    path = sources[0]["source"]
    return (path, None, None) if whole else (path, start, start + length)


def _row(cut: dict[str, Any]) -> dict[str, Any]:
    """Text, speaker and everything that may be a label, as one flat row."""
    supervisions = sorted(cut.get("supervisions") or [], key=lambda s: s.get("start", 0))
    row: dict[str, Any] = dict(cut.get("custom") or {})
    for supervision in reversed(supervisions):
        row |= {k: v for k, v in (supervision.get("custom") or {}).items() if v is not None}
    texts = [s["text"].strip() for s in supervisions if s.get("text")]
    speakers = {s["speaker"] for s in supervisions if s.get("speaker")}
    row = {k: v for k, v in row.items() if k not in ("text", "speaker", "id")}
    if texts:
        row["text"] = " ".join(texts)
    if len(speakers) == 1:
        row["speaker"] = speakers.pop()
    return row


def write(stream: IO[str], utterances: Iterable[Utterance], path: Path) -> None:
    """Write a ``MonoCut`` with one supervision each; label fields go to its ``custom``."""
    last: tuple[str, AudioInfo] | None = None
    for u in utterances:
        audio = absolute(u)
        if last is None or last[0] != audio:  # utterances of one recording stand together
            last = (audio, audio_info(audio))
        info = last[1]
        length = round(duration_of(u), 6)
        name = Path(audio).stem
        common = {"channel": 0, "duration": length}
        supervision = {"id": u.id, "recording_id": name, "start": 0.0, **common}
        supervision |= {k: v for k, v in (("text", u.text), ("speaker", u.speaker)) if v}
        custom = {n if n == "label" else f"label_{n}": v for n, v in u.labels.items()}
        if custom:
            supervision["custom"] = custom
        recording = {
            "id": name,
            "sources": [{"type": "file", "channels": list(range(info.channels)), "source": audio}],
            "sampling_rate": info.sample_rate,
            "num_samples": info.frames,
            "duration": info.duration,
            "channel_ids": list(range(info.channels)),
        }
        kind = "MonoCut" if info.channels == 1 else "MultiCut"
        cut = {"id": u.id, "start": u.start or 0.0, **common, "supervisions": [supervision]}
        if kind == "MultiCut":
            cut["channel"] = supervision["channel"] = recording["channel_ids"]
        cut |= {"recording": recording, "type": kind}
        stream.write(json.dumps(cut, ensure_ascii=False) + "\n")
