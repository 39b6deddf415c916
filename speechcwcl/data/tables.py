"""Kaldi tables: ``id value`` a line, held in memory; and gathering what is wrong with them."""

from __future__ import annotations

import bisect
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from speechcwcl.errors import UserError, closest, summarise
from speechcwcl.files import atomic_write


class Problems:
    """Collects problems, one line each: all are counted and kept, the first ten are shown."""

    limit = 10

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def first(self) -> list[str]:
        """Those that a message shows."""
        return self.lines[: self.limit]

    @property
    def count(self) -> int:
        """How many there are in all."""
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
        """Write every problem to ``path``, one a line, atomically."""
        with atomic_write(path) as stream:
            stream.writelines(line + "\n" for line in self.lines)

    def raise_if_any(self, advice: str = "") -> None:
        """Raise a :class:`UserError` that shows them, followed by ``advice``."""
        if self.lines:
            raise UserError(self.text() + (f"\n{advice}" if advice else ""))


_BLANK = " \t\r\n"
_GAP = re.compile("[ \t]")
# Up to this many ids all are compared when the closest is wanted, beyond it the neighbours.
_CLOSEST_ALL = 5000
# Tables that other toolkits leave in a data folder and that are no labels.
_NO_LABELS = {"spk", "dur", "num_frames", "num_samples", "max_frames", "uniq", "warp"}


class Table:
    """The rows of a file, ``id value`` a line.

    Lines that are not UTF-8 and repeated ids become problems (``file:line: what``).

    Args:
        path: the file.
        problems: takes what is wrong.
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
        """``file:line`` of an id's first row; read again, since only messages need it."""
        if key not in self._lines:
            self._lines = {}
            for number, name, _ in read_rows(self.path, Problems()):
                self._lines.setdefault(name, number)
        return f"{self.path}:{self._lines.get(key, 0)}"

    def near(self, key: str) -> str:
        """``" (closest: 'x')"`` among the ids; in a huge table among the neighbours in order."""
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
    """Whether a file of a data folder holds a label field (``utt2label``, ``utt2scenario``)."""
    return re.fullmatch(r"utt2\w+", name) is not None and name[len("utt2") :] not in _NO_LABELS
