"""Gathering problems: all are counted and kept, the first ten are shown."""

from __future__ import annotations

from pathlib import Path

from speechcwcl.errors import UserError, summarise
from speechcwcl.files import atomic_write


class Problems:
    """Collects problems, one line each."""

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
