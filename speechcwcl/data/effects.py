"""The effects behind augmentation: pure functions of a waveform and a random generator.

Everywhere `wav` is `(samples,)` float32 at 16 kHz and so is the result.
"""

from __future__ import annotations

import numpy as np
from scipy import fft, signal

from speechcwcl.data.audio import SAMPLE_RATE

_FRAME = SAMPLE_RATE // 50
_SILENT = 1e-10


def change_speed(wav: np.ndarray, factor: float) -> np.ndarray:
    """Play `factor` times as fast (to a hundredth) by resampling: the pitch moves along."""
    down = round(100 * factor)
    return wav if down == 100 else _float32(signal.resample_poly(wav, 100, down))


def pad(wav: np.ndarray, before: float, after: float) -> np.ndarray:
    """Add `before` and `after` seconds of silence."""
    return np.pad(wav, (round(before * SAMPLE_RATE), round(after * SAMPLE_RATE)))


def reverberate(
    wav: np.ndarray, rt60: float, direct_db: float, rng: np.random.Generator
) -> np.ndarray:
    """Convolve with a made room: the direct path, a gap, then exponentially decaying noise.

    Args:
        rt60: seconds in which the reverberation falls by 60 dB.
        direct_db: energy of the direct path above that of the reverberation, in dB.

    Returns:
        The same length and mean power.
    """
    samples = max(2, round(rt60 * SAMPLE_RATE))
    time = np.arange(samples) / SAMPLE_RATE
    tail = rng.standard_normal(samples) * np.exp(-np.log(1000.0) * time / rt60)
    tail[: int(rng.uniform(0.002, 0.015) * SAMPLE_RATE)] = 0  # the first wall is metres away
    dull = rng.uniform(0.2, 0.7)  # walls and air swallow high frequencies first
    tail = signal.lfilter([1 - dull], [1, -dull], tail)
    energy = float(np.sum(tail**2))
    room = tail * np.sqrt(10 ** (-direct_db / 10) / max(energy, _SILENT))
    room[0] = 1.0
    wet = signal.oaconvolve(wav, room.astype(np.float32))[: len(wav)]
    return _float32(wet * np.sqrt(_power(wav) / max(_power(wet), _SILENT)))


def tilt(wav: np.ndarray, db_per_octave: float) -> np.ndarray:
    """Turn the spectrum around 1 kHz, by 12 dB at most at either end."""
    size = fft.next_fast_len(len(wav), real=True)
    octaves = np.log2(np.maximum(_frequencies(size), 50.0) / 1000.0)
    gain = 10 ** (np.clip(db_per_octave * octaves, -12, 12) / 20)
    return _float32(fft.irfft(fft.rfft(wav, size) * gain.astype(np.float32), size)[: len(wav)])


def band(wav: np.ndarray, low: float, high: float) -> np.ndarray:
    """Keep `low` to `high` Hz, as a narrow channel does."""
    edges = [low, min(high, 0.49 * SAMPLE_RATE)]
    sections = signal.butter(4, edges, "bandpass", fs=SAMPLE_RATE, output="sos")
    return _float32(signal.sosfilt(sections, wav))


def mulaw(wav: np.ndarray) -> np.ndarray:
    """Send through an 8 kHz, 8-bit mu-law telephone channel."""
    narrow = signal.resample_poly(wav, 1, 2)
    peak = float(np.abs(narrow).max(initial=0.0)) or 1.0
    companded = np.sign(narrow) * np.log1p(255 * np.abs(narrow) / peak) / np.log(256)
    coded = np.round((companded + 1) * 127.5) / 127.5 - 1
    heard = np.sign(coded) * np.expm1(np.abs(coded) * np.log(256)) / 255 * peak
    return _float32(signal.resample_poly(heard, 2, 1)[: len(wav)])


def clip(wav: np.ndarray, level: float) -> np.ndarray:
    """Cut everything beyond `level` times the peak, as an overloaded input does."""
    limit = level * float(np.abs(wav).max(initial=0.0))
    return np.clip(wav, -limit, limit)


def set_peak(wav: np.ndarray, db: float) -> np.ndarray:
    """Scale so that the peak lies at `db` below (negative) full scale."""
    peak = float(np.abs(wav).max(initial=0.0))
    return wav if peak < 1e-6 else _float32(wav * (10 ** (db / 20) / peak))


def coloured_noise(samples: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls as `1 / f ** exponent` (0 white, 1 pink, 2 brown); unit power."""
    if exponent == 0:
        return _unit(rng.standard_normal(samples))
    size = fft.next_fast_len(max(samples, 2), real=True)
    spectrum = fft.rfft(rng.standard_normal(size).astype(np.float32))
    frequencies = np.maximum(_frequencies(size), 40.0)  # no microphone hears the rumble below
    return _unit(fft.irfft(spectrum * frequencies ** (-exponent / 2), size)[:samples])


def hum(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Mains hum, 50 or 60 Hz with falling harmonics, over a little hiss; unit power."""
    time = np.arange(samples) / SAMPLE_RATE
    mains = rng.choice([50.0, 60.0]) * rng.uniform(0.998, 1.002)
    wave = 0.05 * rng.standard_normal(samples)
    for harmonic in range(1, 9):
        strength = rng.uniform(0.2, 1.0) / harmonic
        wave += strength * np.sin(2 * np.pi * (harmonic * mains * time + rng.uniform()))
    return _unit(wave)


def excerpt(wav: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """`samples` from a random place, going round at the end."""
    if len(wav) == 0:
        return np.zeros(samples, dtype=np.float32)
    at = int(rng.integers(len(wav)))
    return np.take(wav, np.arange(at, at + samples), mode="wrap")


def add_noise(wav: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Add noise `snr` dB below the speech, measured where there is speech.

    Args:
        noise: `(samples,)`, as long as `wav`, of any level.
        snr: signal-to-noise ratio in dB.
    """
    speech, disturbance = active_power(wav), _power(noise)
    if speech < _SILENT or disturbance < _SILENT:
        return wav
    return _float32(wav + noise * np.sqrt(speech / disturbance * 10 ** (-snr / 10)))


def active_power(wav: np.ndarray) -> float:
    """Mean power of the 20 ms frames within 30 dB of the loudest: pauses do not count."""
    if len(wav) < _FRAME:
        return _power(wav)
    frames = wav[: len(wav) // _FRAME * _FRAME].reshape(-1, _FRAME).astype(np.float64)
    powers = np.mean(frames**2, axis=1)
    return float(powers[powers >= powers.max() * 1e-3].mean())


def _power(wav: np.ndarray) -> float:
    return float(np.mean(np.square(wav, dtype=np.float64))) if len(wav) else 0.0


def _unit(wav: np.ndarray) -> np.ndarray:
    return _float32(wav / np.sqrt(max(_power(wav), _SILENT)))


def _frequencies(size: int) -> np.ndarray:
    return fft.rfftfreq(size, 1 / SAMPLE_RATE)


def _float32(wav: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(wav, dtype=np.float32)
