"""Kaldi data folders: reading, checking, writing.

A folder ``data/<set>/`` holds ``wav.scp`` (``id path``), ``text`` (``id words``), ``utt2spk``
(``id speaker``; without it each utterance is its own speaker), perhaps ``segments``
(``id recording start end``, seconds; an end of -1 is the end of the recording), perhaps label files
(``utt2label`` is the field ``label``, ``utt2scenario`` the field ``scenario``), perhaps ``utt2dur``
(seconds; spares probing), and ``corpus.json``. ``text`` may be absent where there is a label file.
The files may be in any order; relative audio paths start at the current directory, as in Kaldi.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from speechcwcl.data.problems import Problems
from speechcwcl.data.reading import read_corpus, scan_datadir
from speechcwcl.data.utterance import Utterance
from speechcwcl.data.writing import write_datadir
from speechcwcl.errors import UserError

__all__ = [
    "Report",
    "Utterance",
    "check_datadir",
    "iter_datadir",
    "read_corpus",
    "read_datadir",
    "scan_datadir",
    "write_datadir",
]


@dataclass
class Report:
    """What :func:`check_datadir` found.

    Attributes:
        folder: the data folder.
        utterances: how many are sound.
        speakers: how many different speakers.
        with_text: how many utterances have a text.
        fields: label field -> (different values, utterances that have one).
        problems: the first ten, one line each.
        problem_count: how many there are in all.
    """

    folder: str
    utterances: int
    speakers: int
    with_text: int
    fields: dict[str, tuple[int, int]]
    problems: list[str]
    problem_count: int

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return self.problem_count == 0

    def raise_if_bad(self) -> None:
        """Raise a :class:`UserError` naming the first ten problems and their number."""
        if not self.ok:
            raise UserError(str(self))

    def __str__(self) -> str:
        if not self.ok:
            more = self.problem_count - len(self.problems)
            tail = [f"... and {more} more ({self.problem_count} in all)"] if more else []
            return "\n".join([*self.problems, *tail])
        parts = [f"{self.utterances} utterances", f"{self.speakers} speakers"]
        parts.append(f"{self.with_text} with text")
        for name, (values, count) in self.fields.items():
            parts.append(f"{name}: {values} values in {count} utterances")
        return f"{self.folder}: " + ", ".join(parts)


def read_datadir(folder: str | Path, *, allow_pipe: bool = False) -> list[Utterance]:
    """Read a data folder into a list, ordered by id.

    Raises:
        UserError: anything is wrong; the message has the first ten problems and their number.
    """
    return list(_checked(folder, allow_pipe))


def iter_datadir(folder: str | Path, *, allow_pipe: bool = False) -> Iterator[Utterance]:
    """Check a whole data folder, then yield its utterances ordered by id, in bounded memory."""
    for _ in _checked(folder, allow_pipe):
        pass
    return _checked(folder, allow_pipe)


def _checked(folder: str | Path, allow_pipe: bool) -> Iterator[Utterance]:
    problems = Problems()
    yield from scan_datadir(folder, problems, allow_pipe=allow_pipe)
    problems.raise_if_any()


def check_datadir(folder: str | Path, *, allow_pipe: bool = False) -> Report:
    """Check a data folder's files (its audio: ``manifest.check_audio``) and count what they hold.

    Raises:
        UserError: there is no such folder, or no ``wav.scp`` in it.
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
    return Report(
        str(folder), count, len(speakers), with_text, fields, problems.first, problems.count
    )
