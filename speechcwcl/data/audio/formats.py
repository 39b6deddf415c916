"""Do the audio decoders work? Each decodes a tone that was encoded in memory."""

from __future__ import annotations

import io

import numpy as np

_RATE = 16000
_FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def check_decoders() -> dict[str, str]:
    """Format -> what is wrong with its decoder, empty where it works."""
    return {name: _check(*kind) for name, kind in _FORMATS.items()}


def _check(kind: str, subtype: str) -> str:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(_RATE) / _RATE)
    stream = io.BytesIO()
    try:
        import soundfile

        soundfile.write(stream, tone, _RATE, format=kind, subtype=subtype)
        stream.seek(0)
        heard, rate = soundfile.read(stream)
    except Exception as error:  # a missing library is no less a finding than a missing format
        return (str(error).strip().splitlines() or [repr(error)])[0]
    spectrum = np.abs(np.fft.rfft(heard[: _RATE // 2]))
    peak = np.argmax(spectrum) * rate / len(heard[: _RATE // 2])
    if rate != _RATE or abs(len(heard) - _RATE) > 4000 or abs(peak - 440) > 5:
        return f"decodes wrongly: {len(heard)} samples at {rate} Hz, a tone of {peak:.0f} Hz"
    return ""
