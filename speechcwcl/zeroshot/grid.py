"""Where the windows of a stream lie in which keywords are looked for."""

from __future__ import annotations

from dataclasses import dataclass

RATE = 16000


@dataclass(frozen=True)
class Grid:
    """Windows over blocks of a stream. A block is encoded once; its windows are over its frames.

    A window that begins in the first `hop` seconds of a block lies wholly in that block, so each
    window is in exactly one block, with what stands before and after it as its context.

    The length was chosen on validation streams among 0.64, 0.96, 1.28 and 1.6 s, and several of
    them at once (docs/keywords.md).

    Attributes:
        hop: seconds from one block to the next.
        step: seconds from one window to the next.
        length: seconds of a window.
    """

    hop: float = 0.8
    step: float = 0.16
    length: float = 1.28

    @property
    def places(self) -> int:
        """Windows that begin in a block."""
        return round(self.hop / self.step)

    @property
    def step_samples(self) -> int:
        """Samples from one window to the next."""
        return round(self.step * RATE)

    @property
    def hop_samples(self) -> int:
        """Samples from one block to the next."""
        return round(self.hop * RATE)

    @property
    def block_samples(self) -> int:
        """Samples of a block."""
        return round((self.hop + self.length) * RATE)


GRID = Grid()
