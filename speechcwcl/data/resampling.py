"""Resampling: a whole waveform, or a stream block by block to the same samples."""

from __future__ import annotations

import functools
import math
import os
from typing import Any

import numpy as np

_home = os.getpid()


def resample(wav: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample with torchaudio's windowed sinc.

    Args:
        wav: ``(samples,)`` float32.
        rate: its rate in Hz.
        new_rate: the wanted rate in Hz.

    Returns:
        ``(ceil(samples * new_rate / rate),)`` float32.
    """
    if rate == new_rate or len(wav) == 0:
        return np.ascontiguousarray(wav, dtype=np.float32)
    import torch  # here, because reading headers in many processes needs neither

    global _home
    if os.getpid() != _home:  # after a fork, OpenMP waits for threads that were not forked
        torch.set_num_threads(1)
        _home = os.getpid()
    with torch.no_grad():
        tensor = torch.from_numpy(np.ascontiguousarray(wav, dtype=np.float32))
        return _resampler(rate, new_rate)(tensor).numpy()


@functools.lru_cache(maxsize=32)
def _resampler(rate: int, new_rate: int) -> Any:
    import torchaudio

    return torchaudio.transforms.Resample(rate, new_rate)


class BlockResampler:
    """Feed blocks of any size with :meth:`push`, then call :meth:`finish` once.

    The joined result is that of :func:`resample` on the joined input.

    Args:
        rate: of the input, in Hz.
        new_rate: of the output, in Hz.
    """

    def __init__(self, rate: int, new_rate: int):
        common = math.gcd(rate, new_rate)
        self._rate, self._new_rate = rate, new_rate
        self._in, self._out = rate // common, new_rate // common
        # The windowed sinc reaches 6 zero crossings of the lower rate (0.99 rolloff) both ways.
        reach = math.ceil(6 * self._in / (min(self._in, self._out) * 0.99)) + 1
        self._context = -(-reach // self._in) * self._in
        self._buffer = np.zeros(0, dtype=np.float32)
        self._before = 0  # samples of the buffer that are context only
        self._whole = rate == new_rate

    def push(self, block: np.ndarray) -> np.ndarray:
        """The output samples that this block settles, ``(samples,)`` float32; may be none."""
        block = np.asarray(block, dtype=np.float32)
        if self._whole:
            return block
        self._buffer = np.concatenate([self._buffer, block])
        ready = (len(self._buffer) - self._before - self._context) // self._in * self._in
        return self._give(ready) if ready > 0 else np.zeros(0, dtype=np.float32)

    def finish(self) -> np.ndarray:
        """The samples that waited for what would come next."""
        left = len(self._buffer) - self._before
        if self._whole or left <= 0:
            return np.zeros(0, dtype=np.float32)
        return self._give(left)

    def _give(self, count: int) -> np.ndarray:
        """Resample ``count`` samples after the context; a multiple of the period, or all."""
        done = resample(self._buffer[: self._before + count + self._context], *self._rates)
        skip = self._before // self._in * self._out
        result = done[skip : skip + -(-count * self._out // self._in)]
        start = max(0, self._before + count - self._context)
        self._before = self._before + count - start
        self._buffer = self._buffer[start:]
        return result

    @property
    def _rates(self) -> tuple[int, int]:
        return self._rate, self._new_rate
