"""Gathering problems: all are counted and kept on disk, the first ten are shown."""

from __future__ import annotations

import tempfile
from pathlib import Path

from speechcwcl.errors import UserError
from speechcwcl.files import atomic_write


class Problems:
    """Collects one-line problems in bounded memory.

    Args:
        limit: how many of them a message shows.
    """

    def __init__(self, limit: int = 10) -> None:
        self.limit = limit
        self.count = 0
        self.first: list[str] = []
        self._all = tempfile.SpooledTemporaryFile(  # noqa: SIM115  (lives as long as this object)
            max_size=1 << 20, mode="w+", encoding="utf-8", newline="\n"
        )

    def __bool__(self) -> bool:
        return self.count > 0

    def __len__(self) -> int:
        return self.count

    @property
    def room(self) -> bool:
        """Whether the next problem will be shown, so that details are worth the search."""
        return len(self.first) < self.limit

    def add(self, message: str) -> None:
        """Note one problem; line ends in it become spaces."""
        message = " ".join(message.splitlines())
        self.count += 1
        if len(self.first) < self.limit:
            self.first.append(message)
        self._all.write(message + "\n")

    def text(self) -> str:
        """The first ``limit`` problems, one a line, then how many there are in all."""
        lines = list(self.first)
        if self.count > len(lines):
            lines.append(f"... and {self.count - len(lines)} more ({self.count} in all)")
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write every problem to ``path``, one a line, atomically."""
        self._all.seek(0)
        with atomic_write(path) as stream:
            while block := self._all.read(1 << 16):
                stream.write(block)
        self._all.seek(0, 2)

    def raise_if_any(self, advice: str = "") -> None:
        """Raise a :class:`UserError` that shows them, followed by ``advice``."""
        if self:
            raise UserError(self.text() + (f"\n{advice}" if advice else ""))
