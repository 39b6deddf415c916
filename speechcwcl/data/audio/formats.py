"""Writing audio, and whether each format's decoder works."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile

from speechcwcl.data.audio.decode import SAMPLE_RATE, decode_audio
from speechcwcl.data.audio.opening import reason
from speechcwcl.errors import UserError, closest
from speechcwcl.files import atomic_write

_WRITABLE = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


def write_audio(path: str | Path, wav: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """Write mono audio atomically, in the format that the suffix names.

    Args:
        path: ends in ``.wav`` (16 bit), ``.flac`` (16 bit), ``.ogg`` (Vorbis), ``.opus`` or
            ``.mp3``.
        wav: ``(samples,)`` float, finite; values beyond -1..1 are clipped.
        sample_rate: in Hz.

    Raises:
        UserError: unknown suffix, samples that are not finite, or the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITABLE:
        known = closest(suffix, _WRITABLE)
        raise UserError(f"{path}: cannot write {suffix!r} files{known}; use {', '.join(_WRITABLE)}")
    with atomic_write(path, "wb") as stream:
        stream.write(encode_audio(wav, suffix, sample_rate, name=str(path)))


def encode_audio(
    wav: np.ndarray, suffix: str = ".flac", sample_rate: int = SAMPLE_RATE, name: str = "audio"
) -> bytes:
    """The bytes of an audio file; see :func:`write_audio`, whose suffixes it takes.

    Args:
        wav: ``(samples,)`` float, finite; values beyond -1..1 are clipped.
        suffix: the format.
        sample_rate: in Hz.
        name: for messages.
    """
    wav = np.asarray(wav, dtype=np.float32)
    if wav.ndim != 1 or not np.isfinite(wav).all():
        raise UserError(f"{name}: audio to be written must be one channel of finite samples")
    kind, subtype = _WRITABLE[suffix]
    stream = io.BytesIO()
    try:
        soundfile.write(stream, np.clip(wav, -1, 1), sample_rate, format=kind, subtype=subtype)
    except (soundfile.SoundFileError, ValueError) as error:
        raise UserError(f"{name}: cannot write at {sample_rate} Hz: {reason(error)}") from error
    return stream.getvalue()


def check_decoders() -> dict[str, str]:
    """Ending -> what is wrong with its decoder, empty where it works: each decodes a tone."""
    return {suffix[1:]: _check(suffix) for suffix in _WRITABLE}


def _check(suffix: str) -> str:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    try:
        heard = decode_audio(encode_audio(tone, suffix), f"a tone{suffix}")
    except Exception as error:  # a missing library is no less a finding than a missing format
        return (str(error).strip().splitlines() or [repr(error)])[0]
    half = heard[: SAMPLE_RATE // 2]
    peak = np.argmax(np.abs(np.fft.rfft(half))) * SAMPLE_RATE / len(half)
    if abs(len(heard) - SAMPLE_RATE) > 4000 or abs(peak - 440) > 5:
        return f"decodes wrongly: {len(heard)} samples, a tone of {peak:.0f} Hz"
    return ""
