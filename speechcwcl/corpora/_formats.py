"""Manifests of other toolkits: csv, jsonl, SpeechBrain, lhotse. Here they are read; written and
converted they are in `speechcwcl.corpora._convert`.

| format | what it is |
|---|---|
| `csv` | a header and columns `audio`, `text`, `label`, ... (`.tsv`: tab-separated) |
| `jsonl` | NeMo (`audio_filepath`), Whisper fine-tuning (`audio.path`), our manifest |
| `speechbrain_csv` | `ID,duration,wav,...`; start and stop in samples |
| `speechbrain_json` | `{"utt1": {"wav": "{data_root}/a.wav", "length": 2.5, ...}, ...}` |
| `lhotse` | cuts, `.jsonl` or `.jsonl.gz` (`MonoCut`) |

A format is a function that makes entries of its lines; `_Maker` makes utterances of those.
Paths in a manifest start at its own folder, unless they are absolute. An audio file that is not
there, and a line that cannot be understood, is a problem with its line number; all are gathered.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from speechcwcl.corpora.base import Listing
from speechcwcl.data.audio import audio_info
from speechcwcl.data.rows import (
    one_text,
    one_word,
    read_head,
    read_json_lines,
    read_table,
    seconds,
    separator_of,
    suffix_of_list,
)
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest
from speechcwcl.files import read_json
from speechcwcl.jsons import parse_json

GUESSES = {
    "audio": ("audio", "speech", "audio_filepath", "audio_path", "wav", "path", "file", "filename",
              "file_name", "filepath"),
    "text": ("text", "sentence", "transcript", "transcription", "wrd", "words", "normalized_text",
             "utterance", "txt"),
    "speaker": ("speaker", "speaker_id", "spk_id", "spk", "client_id", "spkID"),
    "id": ("id", "ID", "utt_id", "utterance_id", "key", "segment_id"),
}  # fmt: skip
LABELS = (
    "label", "command", "keyword", "intent", "intent_class", "class", "cmd", "scenario", "action",
    "domain", "cls",
)  # fmt: skip
NO_ID = "none"
"""As the name of the column of ids: there is none, number the records."""

_EMPTY = (None, "")
_CLOSE = 1e-3


@dataclass(frozen=True)
class Options:
    """How to read a manifest.

    Attributes:
        audio, text, speaker, id: column or key names; guessed from the usual ones when empty. An
            id of `none` numbers the lines.
        labels: label field -> column; when empty, columns named `label`, `intent`,
            `command` and the like give the field `label`, and `label_X` the field X.
        root: stands for `{data_root}`; relative paths start there. The manifest's folder when
            empty.
    """

    audio: str = ""
    text: str = ""
    speaker: str = ""
    id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    root: str = ""

    @property
    def given(self) -> tuple[str, ...]:
        """The columns that are named."""
        key = "" if self.id == NO_ID else self.id
        names = (self.audio, self.text, self.speaker, key, *self.labels.values())
        return tuple(name for name in names if name)

    def value(self, row: Mapping[str, Any], role: str) -> Any:
        """The value of a role: of the named column, or of the first usual one that has any."""
        given = getattr(self, role)
        for column in (given,) if given else GUESSES[role]:
            if row.get(column) not in _EMPTY:
                return row[column]
        return None


class Entry(NamedTuple):
    """A line of a manifest, whatever its format."""

    where: str  # file and line, for messages
    number: int  # of the line
    row: dict[str, Any]  # column or key -> value
    audio: Any = None  # the path as it is written; None: the row has it in a column
    start: Any = None  # of the stretch that is meant
    end: Any = None
    length: Any = None
    samples: bool = False  # whether these are in samples of the file, not in seconds
    id: str = ""  # where the format has one of its own


def _csv(path: Path, options: Options, problems: Problems) -> Iterator[Entry]:
    for number, row in read_table(path, options.given, problems):
        yield Entry(f"{path}:{number}", number, row, None, row.get("start"), row.get("end"))


def _jsonl(path: Path, options: Options, problems: Problems) -> Iterator[Entry]:
    """`offset` with `duration` (NeMo), `start` with `end` (ours), or `audio.start_time`
    with `audio.end_time` (Whisper fine-tuning) choose a stretch."""
    for number, row in read_json_lines(path, problems):
        if isinstance(row.get("labels"), dict):  # ours
            given = row.pop("labels").items()
            row |= {k if k == "label" else f"label_{k}": v for k, v in given}
        entry = Entry(
            f"{path}:{number}", number, row, options.value(row, "audio"), row.get("start"),
            row.get("end"),
        )  # fmt: skip
        if isinstance(entry.audio, dict):
            audio = entry.audio
            entry = entry._replace(
                audio=audio.get("path"), start=audio.get("start_time"), end=audio.get("end_time")
            )
        if row.get("offset") not in _EMPTY:
            entry = entry._replace(start=row["offset"], end=None, length=row.get("duration"))
        yield entry


def _speechbrain_csv(path: Path, options: Options, problems: Problems) -> Iterator[Entry]:
    for number, row in read_table(path, ("ID", "wav", *options.given), problems):
        span = row.get("start"), row.get("stop")
        yield Entry(f"{path}:{number}", number, row, row["wav"], *span, samples=True, id=row["ID"])


def _speechbrain_json(path: Path, options: Options, problems: Problems) -> Iterator[Entry]:
    entries = read_json(path)
    if not isinstance(entries, dict):
        raise UserError(f"{path}:1: expected an object, utterance -> entry")
    for number, (key, row) in enumerate(entries.items(), 1):
        where = f"{path}: {key!r}"
        if not isinstance(row, dict):
            problems.add(f"{where}: not an entry")
            continue
        audio = options.value(row, "audio")
        span = audio if isinstance(audio, dict) else row
        audio = audio.get("file") if isinstance(audio, dict) else audio
        yield Entry(
            where, number, row, audio, span.get("start"), span.get("stop"), samples=True, id=key
        )


def _lhotse(path: Path, options: Options, problems: Problems) -> Iterator[Entry]:
    """Supervisions are joined in the order of their times; labels are looked for in the
    supervision, its `custom`, and the cut's `custom`.

    What does not come from one plain file is a problem: mixed or padded cuts, transforms (speed,
    volume; but a new sampling rate is none), audio that is a command or a URL, one channel of
    several.
    """
    for number, cut in read_json_lines(path, problems):
        where = f"{path}:{number}"
        try:
            audio = _audio_of_cut(cut)
            start, length = float(cut["start"]), float(cut["duration"])
            whole = start < _CLOSE and abs(length - float(cut["recording"]["duration"])) < _CLOSE
            span: dict[str, Any] = {} if whole else {"start": start, "length": length}
            entry = Entry(where, number, _row_of_cut(cut), audio, **span, id=str(cut.get("id", "")))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            problems.add(f"{where}: not a cut of one file: {error}")
            continue
        yield entry


def _audio_of_cut(cut: dict[str, Any]) -> str:
    """The path of the one plain file that a cut is of; a ValueError that says why not."""
    kind = cut.get("type", "MonoCut")
    if kind not in ("MonoCut", "MultiCut"):
        raise ValueError(f"a {kind}")
    recording = cut["recording"]
    for transform in recording.get("transforms") or []:
        # Only a new rate leaves the sound as it is: we choose the rate ourselves.
        rate = (transform.get("kwargs") or {}).get("target_sampling_rate", 16000)
        if transform.get("name") != "Resample" or rate < 16000:
            raise ValueError(
                f"its recording is changed as it is read, by transforms such as "
                f"{transform.get('name')} (save the audio first)"
            )
    sources = recording["sources"]
    if len(sources) != 1 or sources[0].get("type") != "file":
        raise ValueError("its audio is not one file")
    channels = sources[0].get("channels") or [0]
    taken = cut.get("channel", channels)
    if len(channels) > 1 and (kind == "MonoCut" or sorted(taken) != sorted(channels)):
        raise ValueError("some channels of several")
    return sources[0]["source"]


def _row_of_cut(cut: dict[str, Any]) -> dict[str, Any]:
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


_ENTRIES: dict[str, Callable[[Path, Options, Problems], Iterator[Entry]]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "speechbrain_csv": _speechbrain_csv,
    "speechbrain_json": _speechbrain_json,
    "lhotse": _lhotse,
}


FORMATS = tuple(_ENTRIES)
"""Names of the formats."""


class _Maker:
    """Turns entries into utterances."""

    def __init__(self, path: Path, options: Options) -> None:
        self.options = options
        self.root = Path(options.root or path.parent).resolve()
        self.listing = Listing()

    def utterance(self, entry: Entry) -> Utterance:
        """The utterance of an entry."""
        where, row = entry.where, entry.row
        audio = self.options.value(row, "audio") if entry.audio is None else entry.audio
        if not isinstance(audio, str) or not audio:
            raise UserError(f"{where}: no audio file is named")
        path = self._path(audio)
        if not self.listing.has(path):
            raise UserError(f"{where}: {self.listing.missing(path)}")
        start, end = self._stretch(entry, path)
        key = entry.id or f"{entry.number:08d}-{Path(path).stem}"
        if not entry.id and self.options.id != NO_ID:
            key = one_word(self.options.value(row, "id"), where, "id") or key
        key = "_".join(key.split())
        text = one_text(self.options.value(row, "text"), where, key)
        labels = self._labels(row, where)
        if text is None and not labels:
            raise UserError(f"{where}: neither text nor label")
        speaker = one_word(self.options.value(row, "speaker"), where, "speaker")
        return Utterance(key, path, text, "_".join(speaker.split()), start, end, labels=labels)

    def _path(self, text: str) -> str:
        """The absolute path that a manifest means."""
        for mark in ("{data_root}", "$data_root", "{data_folder}"):
            text = text.replace(mark, str(self.root))
        return os.path.normpath(os.path.join(self.root, text))

    def _stretch(self, entry: Entry, path: str) -> tuple[float | None, float | None]:
        """Start and end in seconds."""
        start = seconds(entry.start, entry.where, "start")
        end = seconds(entry.end, entry.where, "end")
        if entry.samples and (start is not None or end is not None):
            rate = audio_info(path).sample_rate
            return (start or 0.0) / rate, end / rate if end else None
        length = seconds(entry.length, entry.where, "duration")
        if length is not None:
            end = (start or 0.0) + length
        return start, end

    def _labels(self, row: Mapping[str, Any], where: str) -> dict[str, str]:
        """Label field -> value; see `Options`."""
        columns = dict(self.options.labels)
        if not columns:
            first = next((c for c in LABELS if row.get(c) not in _EMPTY), "")
            columns = {"label": first} if first else {}
            columns |= {
                name.removeprefix("label_"): name for name in row if name.startswith("label_")
            }
        found = {f: one_word(row.get(c), where, f"label {c!r}") for f, c in columns.items()}
        return {f: value for f, value in found.items() if value}


def detect(path: str | Path, audio: str = "") -> str:
    """The format of a manifest, from its name and its first line.

    Args:
        audio: name of the column of audio, if it has no usual one.

    Raises:
        UserError: the file is missing or fits none.
    """
    path, head = Path(path), read_head(path)
    line, suffix, names = head.split("\n")[0], suffix_of_list(path), {audio, *GUESSES["audio"]}
    columns = {name.strip().strip('"') for name in line.split(separator_of(path, line))}
    if suffix == ".jsonl" and '"supervisions"' in line and '"recording"' in line:
        return "lhotse"
    if suffix == ".json" and re.match(r'\s*\{\s*"[^"]+"\s*:\s*\{', head):
        return "speechbrain_json"
    if line.startswith("{") and names & set(json_object(line)):
        return "jsonl"
    if suffix == ".csv" and {"ID", "wav"} <= columns:
        return "speechbrain_csv"
    if suffix in (".csv", ".tsv") and (names & columns or line.lower().startswith("sep=")):
        return "csv"
    raise UserError(
        f"{path}: no format known here ({', '.join(FORMATS)}); it begins with {head[:60]!r}"
    )


def json_object(line: str) -> dict[str, Any]:
    """The object of a line of JSON; empty where it is none."""
    try:
        found = parse_json(line, "", line=False)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def read_manifest(
    path: str | Path, format: str = "", *, problems: Problems, options: Options | None = None
) -> Iterator[Utterance]:
    """Yield the utterances of a manifest in its order; what is wrong goes to `problems`.

    Args:
        problems: takes a line for every utterance that is not yielded.
    """
    path, options = Path(path), options or Options()
    entries = _ENTRIES[format or detect(path, options.audio)]
    if not options.id and entries in (_csv, _jsonl):
        options = _without_repeated_id(path, options, entries)
    maker, unseen = _Maker(path, options), set(options.given)
    seen: set[str] = set()
    for entry in entries(path, options, problems):
        unseen.difference_update(entry.row)
        seen = set(entry.row) if unseen else seen
        try:
            yield maker.utterance(entry)
        except UserError as error:
            text = str(error)
            problems.add(text if text.startswith(entry.where) else f"{entry.where}: {text}")
    for name in sorted(unseen):
        problems.add(f"{path}: no line has {name!r}{closest(name, seen)}")


def _without_repeated_id(path: Path, options: Options, entries: Any) -> Options:
    """The same options, or those that number the lines where a guessed column of ids repeats."""
    seen: set[bytes] = set()
    for entry in entries(path, options, Problems()):
        key = options.value(entry.row, "id")
        if key is None:
            continue
        digest = hashlib.blake2b(str(key).encode("utf-8", "replace"), digest_size=12).digest()
        if digest in seen:
            say_repeated(str(path), str(key))
            return replace(options, id=NO_ID)
        seen.add(digest)
    return options


def say_repeated(source: str, key: str) -> None:
    """Say that a guessed column of ids is none, and what is done instead."""
    print(
        f"{source}: the guessed column of ids repeats ({key[:40]!r}), so the records are "
        f"numbered (--id {NO_ID} says so from the start, --id COLUMN names another)",
        file=sys.stderr,
    )
