"""Resampling: a whole waveform, or a stream block by block to the same samples."""

from __future__ import annotations

import functools
import math
import os
from typing import Any

import numpy as np

from speechcwcl.errors import require

RATES = (1_000, 1_000_000)
"""Lowest and highest rate, in Hz, that is believed."""

# torchaudio's kernel has rate * new_rate / gcd**2 taps and more: 282,240 from 11,025 to 16,000 Hz,
# but 178 million (6 GB) from 11,127 Hz. Beyond this the taps are computed as they are needed.
_MOST_TAPS = 300_000
# Width (zero crossings) and roll-off of torchaudio's sinc, so that both ways give the same.
_CROSSINGS, _ROLLOFF = 6, 0.99
_home = os.getpid()


def resample(wav: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample with torchaudio's windowed sinc; exact, and in bounded memory, for every rate.

    Args:
        wav: `(samples,)` float32.
        rate: its rate in Hz, from 1 kHz to 1 MHz.
        new_rate: the wanted rate in Hz, likewise.

    Returns:
        `(ceil(samples * new_rate / rate),)` float32.

    Raises:
        UserError: a rate outside these limits.
    """
    check_rate(rate)
    check_rate(new_rate)
    if rate == new_rate or len(wav) == 0:
        return np.ascontiguousarray(wav, dtype=np.float32)
    common = math.gcd(rate, new_rate)
    if rate // common * (new_rate // common) > _MOST_TAPS:
        return _sinc(wav, rate // common, new_rate // common)
    import torch  # here, because reading headers in many processes needs neither

    global _home
    if os.getpid() != _home:  # after a fork, OpenMP waits for threads that were not forked
        torch.set_num_threads(1)
        _home = os.getpid()
    with torch.no_grad():
        tensor = torch.from_numpy(np.ascontiguousarray(wav, dtype=np.float32))
        return _resampler(rate, new_rate)(tensor).numpy()


def check_rate(rate: int) -> None:
    """Refuse a rate that no recording of speech has."""
    require(
        RATES[0] <= rate <= RATES[1],
        f"a sample rate of {rate} Hz; {RATES[0]:,} to {RATES[1]:,} Hz can be read",
    )


def _sinc(wav: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """The same sum as torchaudio's, the taps of each output computed where they are used."""
    base = _ROLLOFF * min(rate, new_rate) / rate
    reach = math.ceil(_CROSSINGS / base)
    taps = np.arange(-reach, reach + 2)
    padded = np.pad(np.asarray(wav, dtype=np.float32), (reach, reach + 2))
    result = np.empty(-(-len(wav) * new_rate // rate), dtype=np.float32)
    size = max(1, (1 << 18) // len(taps))
    for first in range(0, len(result), size):
        place = np.arange(first, min(first + size, len(result)), dtype=np.int64) * rate
        whole, part = place // new_rate, place % new_rate / new_rate
        at = np.clip((taps - part[:, None]) * base, -_CROSSINGS, _CROSSINGS)
        weights = np.sinc(at) * np.cos(at * (np.pi / 2 / _CROSSINGS)) ** 2 * base
        heard = padded[whole[:, None] + taps + reach]
        result[first : first + size] = np.einsum("ij,ij->i", weights, heard)
    return result


@functools.lru_cache(maxsize=8)
def _resampler(rate: int, new_rate: int) -> Any:
    import torchaudio

    return torchaudio.transforms.Resample(rate, new_rate)


class BlockResampler:
    """Feed blocks of any size with `push`, then call `finish` once.

    The joined result is that of `resample` on the joined input.

    Args:
        rate: of the input, in Hz.
        new_rate: of the output, in Hz.
    """

    def __init__(self, rate: int, new_rate: int):
        check_rate(rate)
        common = math.gcd(rate, new_rate)
        self._rate, self._new_rate = rate, new_rate
        self._in, self._out = rate // common, new_rate // common
        # The windowed sinc reaches so many zero crossings of the lower rate both ways.
        reach = math.ceil(_CROSSINGS * self._in / (min(self._in, self._out) * _ROLLOFF)) + 1
        self._context = -(-reach // self._in) * self._in
        self._buffer = np.zeros(0, dtype=np.float32)
        self._before = 0  # samples of the buffer that are context only
        self._whole = rate == new_rate

    def push(self, block: np.ndarray) -> np.ndarray:
        """The output samples that this block settles, `(samples,)` float32; may be none."""
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
        """Resample `count` samples after the context; a multiple of the period, or all."""
        done = resample(
            self._buffer[: self._before + count + self._context], self._rate, self._new_rate
        )
        skip = self._before // self._in * self._out
        result = done[skip : skip + -(-count * self._out // self._in)]
        start = max(0, self._before + count - self._context)
        self._before = self._before + count - start
        self._buffer = self._buffer[start:]
        return result
