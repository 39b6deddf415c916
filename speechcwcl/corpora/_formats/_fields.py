"""What the formats share: names of columns, paths, numbers."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from speechcwcl.corpora._layout import Listing
from speechcwcl.data.audio import audio_info
from speechcwcl.data.audio.members import find_member
from speechcwcl.data.problems import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError

GUESSES = {
    "audio": (
        "audio", "speech", "audio_filepath", "audio_path", "wav", "path", "file", "filename",
        "file_name", "filepath",
    ),
    "text": (
        "text", "sentence", "transcript", "transcription", "wrd", "words", "normalized_text",
        "utterance",
    ),
    "speaker": ("speaker", "speaker_id", "spk_id", "spk", "client_id", "spkID"),
    "id": ("id", "ID", "utt_id", "utterance_id", "key", "segment_id"),
}  # fmt: skip
LABELS = (
    "label", "command", "keyword", "intent", "intent_class", "class", "cmd", "scenario", "action",
    "domain",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """How to read a manifest.

    Attributes:
        audio, text, speaker, id: column or key names; guessed from the usual ones when empty.
        labels: label field -> column; when empty, columns named ``label``, ``intent``,
            ``command`` and the like give the field ``label``, and ``label_X`` the field X.
        root: stands for ``{data_root}``; relative paths start there. The manifest's folder when
            empty.
    """

    audio: str = ""
    text: str = ""
    speaker: str = ""
    id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    root: str = ""


class Spool:
    """Utterances that were put on the disk until the header of a table was known.

    Attributes:
        fields: names of all label fields, sorted.
        cut: whether any utterance is a stretch of its file.
    """

    def __init__(self, file: IO[str], utterances: Iterable[Utterance]) -> None:
        self._file = file
        fields: set[str] = set()
        self.cut = False
        for utterance in utterances:
            fields.update(utterance.labels)
            self.cut |= utterance.start is not None or utterance.end is not None
            file.write(json.dumps(asdict(utterance)) + "\n")
        self.fields = sorted(fields)

    def __iter__(self) -> Iterator[Utterance]:
        self._file.seek(0)
        for line in self._file:
            yield Utterance(**json.loads(line))


@contextmanager
def spooled(utterances: Iterable[Utterance]) -> Iterator[Spool]:
    """Take utterances one by one, so that a table of any length is written in little memory."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        yield Spool(file, utterances)


class Reader:
    """Turns rows (column -> value) into utterances."""

    def __init__(self, path: Path, problems: Problems, options: Options) -> None:
        self.path, self.problems, self.options = path, problems, options
        self.root = Path(options.root or path.parent).resolve()
        self.listing = Listing()

    def value(self, row: Mapping[str, Any], role: str) -> Any:
        """The value of a role: of the named column, or of the first usual one that has any."""
        given = getattr(self.options, role)
        for column in (given,) if given else GUESSES[role]:
            if row.get(column) not in (None, ""):
                return row[column]
        return None

    def labels(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Label field -> value; see :class:`Options`."""
        if self.options.labels:
            pairs = self.options.labels.items()
            return {f: str(row[c]) for f, c in pairs if row.get(c) not in (None, "")}
        found = {
            name.removeprefix("label_"): str(value)
            for name, value in row.items()
            if isinstance(name, str) and name.startswith("label_") and value not in (None, "")
        }
        first = next((c for c in LABELS if isinstance(row.get(c), (str, int)) and row[c] != ""), "")
        return {"label": str(row[first]), **found} if first else found

    def audio(self, value: Any) -> str:
        """The absolute path that a manifest means."""
        text = str(value)
        for mark in ("{data_root}", "$data_root", "{data_folder}"):
            text = text.replace(mark, str(self.root))
        return os.path.normpath(os.path.join(self.root, text))

    def utterance(
        self,
        where: str,
        number: int,
        row: Mapping[str, Any],
        *,
        start: float | None = None,
        end: float | None = None,
        key: str = "",
        audio: Any = None,
    ) -> Utterance | None:
        """An utterance of a row, or None and a problem. ``number`` makes an id where none is."""
        audio = self.value(row, "audio") if audio is None else audio
        if not isinstance(audio, str):
            self.problems.add(f"{where}: no audio file is named")
            return None
        path = self.audio(audio)
        if not self.listing.has(path):
            self.problems.add(f"{where}: {self.listing.missing(path)}")
            return None
        text, labels = self.value(row, "text"), self.labels(row)
        if text is None and not labels:
            self.problems.add(f"{where}: neither text nor label")
            return None
        key = key or str(self.value(row, "id") or f"{number:08d}-{Path(path).stem}")
        speaker = "_".join(str(self.value(row, "speaker") or "").split())
        text = None if text is None else str(text)
        return Utterance("_".join(key.split()), path, text, speaker, start, end, labels=labels)


def seconds(value: Any, where: str, name: str) -> float | None:
    """A time in seconds; None for an empty one; a UserError for what is not a time."""
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise UserError(f"{where}: {name} {value!r} is not a time")
    return number


def duration_of(utterance: Utterance) -> float:
    """Length in seconds: known, or from start and end, or measured."""
    if utterance.duration is not None:
        return utterance.duration
    start = utterance.start or 0.0
    end = utterance.end if utterance.end is not None else audio_info(utterance.audio).duration
    return end - start


def absolute(utterance: Utterance) -> str:
    """Its audio as an absolute path; a command, or a clip in a shard, is refused."""
    if utterance.audio.rstrip().endswith("|"):
        raise UserError(f"{utterance.id}: its audio is a command, which no other format takes")
    if find_member(utterance.audio):
        raise UserError(
            f"{utterance.id}: its audio lies in a shard, which no other format takes; "
            "export the manifest that the shards were made from"
        )
    return os.path.abspath(utterance.audio)
