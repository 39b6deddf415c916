"""Kaldi tables, `id value` a line: read, checked, and written as whole folders."""

from __future__ import annotations

import bisect
import hashlib
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest, summarise
from speechcwcl.files import atomic_write, read_json, refuse_foreign, replace_folder, write_json


class Problems:
    """Collects problems, one line each: all are counted and kept, the first ten are shown."""

    limit = 10

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def room(self) -> bool:
        """Whether the next problem will be shown, so that details are worth the search."""
        return len(self.lines) < self.limit

    def add(self, message: str) -> None:
        """Note one problem; line ends in it become spaces."""
        # a name on the disk may be of any bytes, what is saved and printed is UTF-8
        message = message.encode("utf-8", "backslashreplace").decode()
        self.lines.append(" ".join(message.splitlines()))

    def text(self) -> str:
        """The first ten problems, one a line, then how many there are in all."""
        return summarise(self.lines, self.limit)

    def save(self, path: str | Path) -> None:
        """Write every problem to `path`, one a line, atomically."""
        with atomic_write(path) as stream:
            stream.writelines(line + "\n" for line in self.lines)

    def raise_if_any(self, advice: str = "") -> None:
        """Raise a `UserError` that shows them, followed by `advice`."""
        if self.lines:
            raise UserError(self.text() + (f"\n{advice}" if advice else ""))


_BLANK = " \t\r\n"
_GAP = re.compile("[ \t]")
# Up to this many ids all are compared when the closest is wanted, beyond it the neighbours.
_CLOSEST_ALL = 5000
# Tables that other toolkits leave in a data folder and that are no labels.
_NO_LABELS = {"spk", "dur", "num_frames", "num_samples", "max_frames", "uniq", "warp"}


class Table:
    """The rows of a file, `id value` a line.

    Lines that are not UTF-8 and repeated ids become problems (`file:line: what`).

    Args:
        alike: values repeat (speakers, labels), so that equal ones can be kept once.

    Attributes:
        rows: id -> the rest of its line, in the order of the file.
    """

    def __init__(self, path: Path, problems: Problems, *, alike: bool = False) -> None:
        self.path = path
        self.rows: dict[str, str] = {}
        self._lines: dict[str, int] = {}
        self._sorted: list[str] = []
        for number, name, value in read_rows(path, problems):
            if name in self.rows:
                first = self.where(name).rpartition(":")[2]
                problems.add(f"{path}:{number}: id {name!r} again (first in line {first})")
            else:
                self.rows[sys.intern(name)] = sys.intern(value) if alike else value

    def where(self, key: str) -> str:
        """`file:line` of an id's first row; read again, since only messages need it."""
        if key not in self._lines:
            self._lines = {}
            for number, name, _ in read_rows(self.path, Problems()):
                self._lines.setdefault(name, number)
        return f"{self.path}:{self._lines.get(key, 0)}"

    def near(self, key: str) -> str:
        """`" (closest: 'x')"` among the ids; in a huge table among the neighbours in order."""
        if len(self.rows) <= _CLOSEST_ALL:
            return closest(key, self.rows)
        self._sorted = self._sorted or sorted(self.rows)
        at = bisect.bisect_left(self._sorted, key)
        return closest(key, self._sorted[max(0, at - 500) : at + 500])


def read_rows(path: Path, problems: Problems) -> Iterator[tuple[int, str, str]]:
    """Yield line number, id and value of a table's rows; blank lines are passed over."""
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise UserError(f"{path}:1: UTF-16; save the file as UTF-8")
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip(_BLANK)
                except UnicodeDecodeError:
                    problems.add(f"{path}:{number}: not UTF-8; save the file as UTF-8")
                    continue
                if "\0" in line:
                    problems.add(f"{path}:{number}: a NUL byte; is this a text file?")
                elif line:
                    name, value = (*_GAP.split(line, 1), "")[:2]
                    yield number, composed(name), value.strip(_BLANK)
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error


def composed(name: str) -> str:
    """A name with its letters composed (NFC), as the ids of all tables are compared."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_label_file(name: str) -> bool:
    """Whether a file of a data folder holds a label field (`utt2label`, `utt2scenario`)."""
    return re.fullmatch(r"utt2\w+", name) is not None and name[len("utt2") :] not in _NO_LABELS


def write_datadir(
    folder: str | Path,
    utterances: Iterable[Utterance],
    *,
    corpus: dict[str, Any],
    skipped: Problems | None = None,
) -> Path:
    """Write a data folder: made beside its place, sorted, checked, then renamed into it.

    The utterances may come in any order. Runs of blanks in texts and labels become one space; empty
    labels are left out.

    Args:
        folder: replaced if it is a data folder; refused if it holds other files.
        utterances: each with a text, or none of them. `start`/`end` go to `segments`, a
            known `duration` to `utt2dur`, a label field X to `utt2X`.
        corpus: JSON-able facts for `corpus.json` (name, version, licence, split, ...); the
            number of utterances is added.
        skipped: what the caller left out while the utterances were taken; listed in `bad.tsv`.

    Raises:
        UserError: no utterances, a repeated id, blanks in an id, an empty text, a full disk.
    """
    folder = Path(folder)
    refuse_foreign(folder, ours)  # before what may take hours
    found = list(utterances)
    _checked(folder, found)
    facts = {**corpus, "utterances": len(found)}
    with replaced_datadir(folder, facts) as temporary:
        _write_tables(temporary, found)
        if skipped:
            facts["skipped"] = len(skipped)
            skipped.save(temporary / "bad.tsv")
    return folder


def ours(folder: Path) -> set[str]:
    """The files of a data folder that this project wrote, as its `corpus.json` names them."""
    try:
        files = read_json(folder / "corpus.json", dict).get("files")
    except UserError:
        return set()
    return {"corpus.json", *map(str, files)} if isinstance(files, list) else set()


@contextmanager
def replaced_datadir(folder: Path, corpus: dict[str, Any]) -> Iterator[Path]:
    """Give a neighbour of a data folder to write into, and put it in its place when all went well.

    Args:
        folder: made, or replaced as a whole when we wrote all that it holds.
        corpus: JSON-able facts for `corpus.json`, which is written last; may grow meanwhile.

    Raises:
        UserError: the folder holds files that are none of ours; a full disk.
    """
    with replace_folder(folder, ours) as temporary:
        yield temporary
        write_json(temporary / "corpus.json", {**corpus, "files": sorted(os.listdir(temporary))})


def _checked(folder: Path, utterances: list[Utterance]) -> None:
    """Refuse utterances that would not come back from the tables as they are."""
    problems, seen = Problems(), set()
    if not utterances:
        raise UserError(f"{folder}: zero utterances to write; is the source the right folder?")
    for utterance in utterances:
        wrong = _fault(utterance)
        if wrong:
            problems.add(f"{folder}: utterance {utterance.id!r}: {wrong}")
        if utterance.id in seen:
            problems.add(f"{folder}: id {utterance.id!r} occurs more than once")
        seen.add(utterance.id)
    problems.raise_if_any()
    without = sum(utterance.text is None for utterance in utterances)
    if 0 < without < len(utterances):
        raise UserError(
            f"{folder}: {without} of {len(utterances)} utterances have no text; "
            "give all a text or none"
        )


def _write_tables(folder: Path, utterances: list[Utterance]) -> None:
    """Write the tables, each in the order of its ids."""
    cut = any(u.start is not None or u.end is not None for u in utterances)
    recordings: dict[str, str] = {}
    with ExitStack() as stack:
        streams: dict[str, IO[str]] = {}

        def put(name: str, key: str, value: str) -> None:
            if name not in streams:
                opened = (folder / name).open("w", encoding="utf-8", newline="\n")
                streams[name] = stack.enter_context(opened)
            streams[name].write(f"{key} {value}\n")

        for utterance in sorted(utterances, key=lambda u: u.id):
            recording = _recording(utterance)
            recordings[recording] = utterance.audio
            put("utt2spk", utterance.id, utterance.speaker or utterance.id)
            if utterance.text is not None:
                put("text", utterance.id, " ".join(utterance.text.split()))
            if utterance.duration is not None:
                put("utt2dur", utterance.id, f"{utterance.duration:.6g}")
            for name, value in utterance.labels.items():
                if words := " ".join(value.split()):
                    put(f"utt2{name}", utterance.id, words)
            if cut:  # once one utterance has a segment, Kaldi wants one for each
                end = "-1" if utterance.end is None else f"{utterance.end:.6f}"
                start = f"{utterance.start:.6f}" if utterance.start else "0"
                put("segments", utterance.id, f"{recording} {start} {end}")
        for recording in sorted(recordings):
            put("wav.scp", recording, recordings[recording])


def _recording(utterance: Utterance) -> str:
    """The id of an utterance's recording: its own, or that of the file it is cut from."""
    if utterance.start is None and utterance.end is None:
        return utterance.id
    digest = hashlib.sha1(utterance.audio.encode("utf-8", "surrogateescape")).hexdigest()
    return re.sub(r"\s", "_", Path(utterance.audio).stem) + "-" + digest[:8]


def _fault(utterance: Utterance) -> str:
    """What makes an utterance unfit for a Kaldi table; empty when nothing does."""
    if len(utterance.id.split()) != 1 or utterance.id.split()[0] != utterance.id:
        return "an id must be one word without blanks"
    if not utterance.audio.strip() or "\n" in utterance.audio or "\r" in utterance.audio:
        return "its audio must be a path in one line"
    if utterance.speaker and len(utterance.speaker.split()) != 1:
        return f"its speaker {utterance.speaker!r} must be one word without blanks"
    if utterance.text is not None and not utterance.text.strip():
        return "empty text"
    start = utterance.start or 0.0
    if start < 0 or (utterance.end is not None and utterance.end <= start):
        return f"no stretch from {start:g} s to {utterance.end} s"
    for name in utterance.labels:
        if not re.fullmatch(r"\w+", name) or not is_label_file(f"utt2{name}"):
            return f"{name!r} cannot name a label field"
    return ""
