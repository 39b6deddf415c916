"""Writing a data folder: streamed, sorted, checked, and there as a whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from speechcwcl.data import tables
from speechcwcl.data.problems import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.files import cannot_write, read_json, replace_folder, write_json

_TABLES = {"wav.scp", "text", "utt2spk", "segments", "utt2dur", "corpus.json", "spk2utt", "bad.tsv"}
_TABLES |= {"stream.json"}  # in the place of the tables, for a set that is read while training


def write_datadir(
    folder: str | Path,
    utterances: Iterable[Utterance],
    *,
    corpus: dict[str, Any],
    skipped: Problems | None = None,
) -> Path:
    """Write a data folder: made beside its place, sorted, checked, then renamed into it.

    Memory stays bounded whatever the number of utterances, which may come in any order. Runs of
    blanks in texts and labels become one space; empty labels are left out.

    Args:
        folder: replaced if it is a data folder; refused if it holds other files.
        utterances: each with a text, or none of them. ``start``/``end`` go to ``segments``, a
            known ``duration`` to ``utt2dur``, a label field X to ``utt2X``.
        corpus: JSON-able facts for ``corpus.json`` (name, version, licence, split, ...); the
            number of utterances is added.
        skipped: what the caller left out while the utterances were taken; listed in ``bad.tsv``.

    Returns:
        The folder.

    Raises:
        UserError: no utterances, a repeated id, blanks in an id, an empty text, a full disk.
    """
    folder = Path(folder)
    facts = dict(corpus)
    with replaced_datadir(folder, facts) as temporary:
        facts["utterances"] = _write_tables(folder, temporary, utterances)
        if skipped:
            facts["skipped"] = skipped.count
            skipped.save(temporary / "bad.tsv")
    return folder


def ours(folder: Path) -> set[str]:
    """The files of a data folder that this project wrote, for ``replace_folder``.

    ``corpus.json`` names them. Folders of before it did are known by the names alone.
    """
    try:
        facts = read_json(folder / "corpus.json", dict)
    except UserError:
        return set()
    if isinstance(facts.get("files"), list):
        return {"corpus.json", *map(str, facts["files"])}
    names = {name.name for name in folder.iterdir()}
    if "utterances" not in facts and "stream.json" not in names:
        return set()
    return {name for name in names if name in _TABLES or tables.is_field_file(name)}


@contextmanager
def replaced_datadir(folder: Path, corpus: dict[str, Any]) -> Iterator[Path]:
    """Give a neighbour of a data folder to write into, and put it in its place when all went well.

    Args:
        folder: made, or replaced as a whole when we wrote all that it holds.
        corpus: JSON-able facts for ``corpus.json``, which is written last; may grow meanwhile.

    Raises:
        UserError: the folder holds files that are none of ours; a full disk.
    """
    with replace_folder(folder, ours) as temporary:
        yield temporary
        write_json(temporary / "corpus.json", {**corpus, "files": sorted(os.listdir(temporary))})


def _write_tables(folder: Path, temporary: Path, utterances: Iterable[Utterance]) -> int:
    """Write tables as the utterances come, then sort each; return the number of utterances."""
    raw = temporary / "unsorted"
    raw.mkdir()
    problems = Problems()
    with ExitStack() as stack:
        writer = _Writer(folder, raw, stack, problems)
        for utterance in utterances:  # errors of the caller's own generator pass as they are
            try:
                writer.add(utterance)
            except OSError as error:
                raise UserError(cannot_write(folder, error)) from error
        writer.finish()
    if not writer.count:
        raise UserError(f"{folder}: zero utterances to write; is the source the right folder?")
    try:
        for name in sorted(os.listdir(raw)):
            # Every table repeats a repeated id; one of them has every utterance.
            note = problems if name in ("utt2spk", "wav.scp") and not problems else Problems()
            tables.write_sorted(raw / name, temporary / name, f"{folder}", note)
        problems.raise_if_any()
        shutil.rmtree(raw)
    except OSError as error:
        raise UserError(cannot_write(folder, error)) from error
    return writer.count


class _Writer:
    """Appends one utterance after the other to unsorted tables."""

    def __init__(self, folder: Path, raw: Path, stack: ExitStack, problems: Problems) -> None:
        self.folder, self.raw, self.stack, self.problems = folder, raw, stack, problems
        self.streams: dict[str, IO[str]] = {}
        self.recordings: set[str] = set()
        self.count = self.with_text = 0

    def add(self, utterance: Utterance) -> None:
        """Write one utterance's rows, or note what is wrong with it."""
        self.count += 1
        wrong = _fault(utterance)
        if wrong:
            self.problems.add(f"{self.folder}: utterance {utterance.id!r}: {wrong}")
            return
        self._put("utt2spk", utterance.id, utterance.speaker or utterance.id)
        if utterance.text is not None:
            self.with_text += 1
            self._put("text", utterance.id, " ".join(utterance.text.split()))
        if utterance.duration is not None:
            self._put("utt2dur", utterance.id, f"{utterance.duration:.6g}")
        for name, value in utterance.labels.items():
            if words := " ".join(value.split()):
                self._put(f"utt2{name}", utterance.id, words)
        if utterance.start is None and utterance.end is None:
            self._put("wav.scp", utterance.id, utterance.audio)
            return
        digest = hashlib.sha1(utterance.audio.encode("utf-8", "surrogateescape")).hexdigest()
        recording = re.sub(r"\s", "_", Path(utterance.audio).stem) + "-" + digest[:8]
        if recording not in self.recordings:
            self.recordings.add(recording)
            self._put("wav.scp", recording, utterance.audio)
        end = "-1" if utterance.end is None else f"{utterance.end:.6f}"
        self._put("segments", utterance.id, f"{recording} {utterance.start or 0:.6f} {end}")

    def finish(self) -> None:
        """Look at what concerns all utterances, and close the tables."""
        if 0 < self.with_text < self.count and not self.problems:
            without = self.count - self.with_text
            self.problems.add(
                f"{self.folder}: {without} of {self.count} utterances have no text; "
                "give all a text or none"
            )
        if "segments" in self.streams:
            self._list_whole()
        for stream in self.streams.values():
            stream.close()

    def _list_whole(self) -> None:
        """Once one utterance has a segment, Kaldi wants one for each: ``id id 0 -1``."""
        self.streams["wav.scp"].flush()
        rows = tables.read_rows(self.raw / "wav.scp", Problems())
        for row in rows:
            if row.id not in self.recordings:
                self._put("segments", row.id, f"{row.id} 0 -1")

    def _put(self, name: str, key: str, value: str) -> None:
        if name not in self.streams:
            self.streams[name] = self.stack.enter_context(
                (self.raw / name).open("w", encoding="utf-8", newline="\n")
            )
        self.streams[name].write(f"{key} {value}\n")


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
        if not re.fullmatch(r"\w+", name) or not tables.is_field_file(f"utt2{name}"):
            return f"{name!r} cannot name a label field"
    return ""
