"""An energy gate: which 20 ms frames of a stream stand out of its noise."""

from __future__ import annotations

import numpy as np

FRAME = 320
"""Samples at 16 kHz in a frame: 20 ms."""
_MEMORY = 500  # frames (10 s) over which the noise is looked for
_QUANTILE = 10  # percent of them that are taken to be noise alone
_LOUDEST_FLOOR = -35.0  # dB re full scale: a stream that begins with speech has no noise to show
_QUIETEST = -65.0  # dB: below that there is nothing to hear


class EnergyGate:
    """Tracks the noise floor; causal, so that a stream and a file give the same.

    Args:
        margin: dB over the noise floor.
    """

    def __init__(self, margin: float = 6.0):
        self._margin = margin
        self._levels = np.zeros(0)
        self._rest = np.zeros(0, dtype=np.float32)

    def push(self, wav: np.ndarray) -> np.ndarray:
        """Judge the frames that ``wav`` completes.

        Args:
            wav: (samples,) float32 at 16 kHz, any number of them.

        Returns:
            (frames,) bool.
        """
        wav = np.concatenate([self._rest, wav])
        count = len(wav) // FRAME
        self._rest = wav[count * FRAME :]
        if not count:
            return np.zeros(0, dtype=bool)
        frames = wav[: count * FRAME].reshape(count, FRAME).astype(np.float64)
        power = frames.var(axis=1)  # a constant offset is no sound
        new = 10 * np.log10(power + 1e-12)
        before = len(self._levels)
        levels = np.concatenate([self._levels, new])
        active = np.zeros(count, dtype=bool)
        for index in range(count):
            here = before + index
            recent = levels[max(0, here + 1 - _MEMORY) : here + 1]
            place = len(recent) * _QUANTILE // 100
            floor = min(np.partition(recent, place)[place], _LOUDEST_FLOOR)
            active[index] = levels[here] > max(floor + self._margin, _QUIETEST)
        self._levels = levels[-(_MEMORY - 1) :]
        return active
