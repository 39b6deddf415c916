"""From raw synthesis to a finished clip: trim, level, and refuse what went wrong."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

SAMPLE_RATE = 16000
SYNTHESIS_RATE = 24000
LEAD, TAIL = 0.08, 0.10  # seconds of silence kept before and after the speech
PEAK = 0.7
FLOOR_DB = -45.0  # what is this far below the loudest 20 ms counts as silence
WORD_SECONDS = (0.15, 1.6)
PHONEME_SECONDS = (0.025, 0.30)  # speech seconds for each phoneme, at any speed in use


def resample(audio: np.ndarray, pitch: int = 100, rate: int = SYNTHESIS_RATE) -> np.ndarray:
    """To 16 kHz; `pitch` other than 100 also shifts pitch and formants (percent).

    Args:
        audio: (samples,) float32.
        pitch: 80 makes the voice a fifth lower, and the audio longer by 1 / 0.8.
        rate: the audio's sampling rate in Hz.
    """
    from scipy.signal import resample_poly

    ratio = Fraction(SAMPLE_RATE, rate) * Fraction(100, pitch)
    if ratio == 1:
        return audio
    return resample_poly(audio, ratio.numerator, ratio.denominator).astype(np.float32)


def speech_span(audio: np.ndarray) -> tuple[int, int]:
    """First and one past the last sample of what is not silence, at 16 kHz; (0, 0) if nothing."""
    hop, window = SAMPLE_RATE // 200, SAMPLE_RATE // 50
    if audio.size < window or float(np.abs(audio).max()) < 1e-3:
        return 0, 0
    frames = np.lib.stride_tricks.sliding_window_view(audio, window)[::hop]
    level = 10 * np.log10((frames.astype(np.float64) ** 2).mean(axis=1) + 1e-12)
    loud = np.flatnonzero(level > level.max() + FLOOR_DB)
    return int(loud[0]) * hop, min(audio.size, int(loud[-1]) * hop + window)


def problem_with(seconds: float, kind: str, phonemes: int) -> str | None:
    """Why speech of this length cannot be right for its text, or None.

    Args:
        seconds: length of the speech without the silence around it.
        kind: word, phrase, sentence or intent.
        phonemes: number of phoneme symbols of the text.
    """
    if seconds <= 0:
        return "empty"
    low, high = PHONEME_SECONDS[0] * phonemes, PHONEME_SECONDS[1] * phonemes + 0.6
    if kind == "word":
        low, high = max(low, WORD_SECONDS[0]), min(high, WORD_SECONDS[1])
    if seconds < low:
        return f"too short: {seconds:.2f} s"
    return f"too long: {seconds:.2f} s" if seconds > high else None


def finish(audio: np.ndarray) -> tuple[np.ndarray, float]:
    """Trims to the speech plus its margins, fades the ends, and sets the peak level.

    Args:
        audio: (samples,) float32 at 16 kHz.

    Returns:
        (samples,) int16 at 16 kHz, a whole number of milliseconds long, and the speech seconds.
    """
    start, end = speech_span(audio)
    if end <= start:
        return np.zeros(0, np.int16), 0.0
    lead, tail = int(LEAD * SAMPLE_RATE), int(TAIL * SAMPLE_RATE)
    tail += -(lead + end - start + tail) % 16
    padded = np.pad(audio, (lead, tail))[start : end + lead + tail].copy()
    fade = np.linspace(0.0, 1.0, SAMPLE_RATE // 100, dtype=np.float32)
    padded[: fade.size] *= fade
    padded[-fade.size :] *= fade[::-1]
    padded *= PEAK / float(np.abs(padded).max())
    return np.round(padded * 32767).astype(np.int16), (end - start) / SAMPLE_RATE
