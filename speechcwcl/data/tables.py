"""Kaldi tables (``id value`` a line), streamed in the order of their ids in bounded memory."""

from __future__ import annotations

import bisect
import heapq
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from speechcwcl.data.problems import Problems
from speechcwcl.errors import UserError, closest
from speechcwcl.files import cannot_write

# Lines sorted in memory at a time; a million-line table is merged from a few such runs.
_RUN_LINES = 100_000
_BLANK = " \t\r\n"
# Up to this many ids all are compared when the closest is wanted, beyond it the neighbours.
_CLOSEST_ALL = 5000


class Row(NamedTuple):
    """One line of a table: its id, its line number (from 1), and the rest of the line."""

    id: str
    line: int
    value: str


def read_rows(path: str | Path, problems: Problems) -> Iterator[Row]:
    """Yield the rows of a table in file order; blank lines are passed over.

    Lines that are not UTF-8 become problems (``file:line: what``).
    """
    try:
        with Path(path).open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip(_BLANK)
                except UnicodeDecodeError:
                    problems.add(f"{path}:{number}: not UTF-8; save the file as UTF-8")
                    continue
                if "\0" in line:
                    problems.add(f"{path}:{number}: a NUL byte; is this a text file?")
                elif line:
                    fields = line.replace("\t", " ", 1) if _tab_first(line) else line
                    name, _, value = fields.partition(" ")
                    yield Row(name, number, value.strip(_BLANK))
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error


def _tab_first(line: str) -> bool:
    tab, space = line.find("\t"), line.find(" ")
    return tab >= 0 and (space < 0 or tab < space)


def sorted_rows(path: str | Path, problems: Problems) -> Iterator[Row]:
    """Yield the rows in the order of their ids (code points), whatever their order in the file.

    A repeated id becomes a problem and only its first row is yielded.
    """
    previous: Row | None = None
    for row in _in_order(path, problems):
        if previous is not None and row.id == previous.id:
            problems.add(f"{path}:{row.line}: id {row.id!r} again (first in line {previous.line})")
            continue
        previous = row
        yield row


def _in_order(path: str | Path, problems: Problems) -> Iterator[Row]:
    if _is_sorted(path):
        return read_rows(path, problems)
    rows = read_rows(path, problems)
    first = sorted(itertools.islice(rows, _RUN_LINES))
    runs: list[Iterable[Row]] = [first]
    while run := sorted(itertools.islice(rows, _RUN_LINES)):
        runs.append(_spill(run))
    return heapq.merge(*runs)


def _is_sorted(path: str | Path) -> bool:
    # UTF-8 keeps the order of code points, so bytes can be compared; half the cost of decoding.
    previous = b""
    try:
        with Path(path).open("rb") as stream:
            for raw in stream:
                name = raw.split(None, 1)[:1]
                if name:
                    if name[0] < previous:
                        return False
                    previous = name[0]
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error
    return True


def _spill(run: list[Row]) -> Iterator[Row]:
    """Write a sorted run to a temporary file (unlinked at once) and return a reader of it."""
    try:
        # no context manager: the reader closes it after the last row
        stream = tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n")  # noqa: SIM115
        stream.writelines(f"{row.line} {row.id} {row.value}\n" for row in run)
        stream.seek(0)
    except OSError as error:
        raise UserError(cannot_write(tempfile.gettempdir(), error)) from error
    return _unspill(stream)


def _unspill(stream: IO[str]) -> Iterator[Row]:
    with stream:
        for line in stream:
            number, name, value = line.rstrip("\n").split(" ", 2)
            yield Row(name, int(number), value)


def write_sorted(source: str | Path, target: str | Path, where: str, problems: Problems) -> None:
    """Rewrite a table in the order of its ids; ids that occur again become problems."""
    previous = None
    with Path(target).open("w", encoding="utf-8", newline="\n") as stream:
        for row in _in_order(source, problems):
            if row.id == previous:
                problems.add(f"{where}: id {row.id!r} occurs more than once")
            previous = row.id
            stream.write(f"{row.id} {row.value}\n")


def closest_id(name: str, path: str | Path) -> str:
    """``" (closest: 'x')"`` among a table's ids; in a huge one among its neighbours in order."""
    ids = [row.id for row in read_rows(path, Problems())]
    if len(ids) > _CLOSEST_ALL:
        ids.sort()
        at = bisect.bisect_left(ids, name)
        ids = ids[max(0, at - 500) : at + 500]
    return closest(name, ids)


def line_count(path: str | Path) -> int:
    """Number of line ends in a file (for progress bars); 0 when it cannot be read."""
    count = 0
    try:
        with Path(path).open("rb") as stream:
            while block := stream.read(1 << 20):
                count += block.count(b"\n")
    except OSError:
        return 0
    return count


def is_field_file(name: str) -> bool:
    """Whether a file of a data folder holds a label field (``utt2label``, ``utt2scenario``)."""
    return name.startswith("utt2") and len(name) > 4 and name not in ("utt2spk", "utt2dur")


def field_files(folder: str | Path) -> list[str]:
    """Names of the label files of a data folder, in order."""
    return sorted(name for name in os.listdir(folder) if is_field_file(name))
