"""Audio, decoded and written; the one room that does it (soundfile: wav, flac, ogg, mp3, ...).

A path is a file, or a member of a tar shard (see `speechcwcl.data.audio.opening`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from speechcwcl.data.audio.containers import TAIL
from speechcwcl.data.audio.opening import (
    BLOCK,
    MOST_HOURS,
    next_mono,
    opened,
    read_mono,
    reason,
    refuse_cut,
    refuse_missing,
)
from speechcwcl.data.audio.resampling import BlockResampler, resample
from speechcwcl.errors import UserError, closest, first_line
from speechcwcl.files import atomic_write

SAMPLE_RATE = 16000
"""The rate, in Hz, that everything behind this module works at."""

END_TOLERANCE = 0.5
"""Seconds by which an end time may overshoot the recording and is cut to it, as Kaldi does."""

# Samples beyond this are no audio at full scale 1, however loud; 16-bit numbers reach 32768.
_LOUDEST = 16.0


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    sample_rate: int  # in Hz
    channels: int
    frames: int  # samples per channel
    duration: float  # in seconds


def audio_info(path: str | Path, data: bytes | None = None) -> AudioInfo:
    """Read a file's length without decoding all of it; cut-off files are noticed.

    Args:
        data: its bytes, where there is no file; `path` is for messages then.

    Raises:
        UserError: the file is missing, empty, not audio, corrupt or truncated.
    """
    with opened(path, data) as stream:
        _check_whole(path, stream)
        return AudioInfo(
            stream.samplerate, stream.channels, stream.frames, stream.frames / stream.samplerate
        )


def load_audio(
    path: str | Path,
    start: float | None = None,
    end: float | None = None,
    sample_rate: int = SAMPLE_RATE,
) -> np.ndarray:
    """Decode a file, or a stretch of it, to mono.

    A stretch is sought, so a 30 s segment of a three-hour recording costs 30 s of decoding.

    Args:
        start: first moment in seconds; None is the beginning.
        end: last moment in seconds; None is the end of the file. Up to 0.5 s beyond the
            end of the recording is cut to it.
        sample_rate: rate of the result in Hz; resampled when the file has another.

    Returns:
        `(samples,)` float32, the mean of the channels.

    Raises:
        UserError: the file is missing, empty, corrupt or truncated, has NaN or infinite samples,
            the stretch does not lie inside it, or more than six hours at once are wanted.
    """
    with opened(path) as stream:
        return _decoded(path, stream, start, end, sample_rate)


def decode_audio(data: bytes, name: str) -> np.ndarray:
    """Decode an audio file's bytes to mono at 16 kHz; `name` is for messages."""
    with opened(name, data) as stream:
        return _decoded(name, stream, None, None, SAMPLE_RATE)


def _decoded(
    path: str | Path,
    stream: soundfile.SoundFile,
    start: float | None,
    end: float | None,
    sample_rate: int,
) -> np.ndarray:
    rate = stream.samplerate
    first, last = _stretch(path, start, end, stream.frames, rate)
    wav = read_mono(path, stream, first, last)
    if last == stream.frames and first == 0:
        _check_whole(path, stream, seek=False)
    check_samples(path, wav, first, rate)
    return resample(wav, rate, sample_rate)


def audio_blocks(path: str | Path, seconds: float = 10.0) -> Iterator[np.ndarray]:
    """Decode a file of any length block by block, to mono at 16 kHz.

    The blocks joined are what `load_audio` gives, with a block's memory.

    Yields:
        `(samples,)` float32.

    Raises:
        UserError: as `load_audio`; what comes before the fault has been given by then.
    """
    with opened(path) as stream:
        rate, resampler = stream.samplerate, BlockResampler(stream.samplerate, SAMPLE_RATE)
        _check_whole(path, stream, seek=False)
        size, done = max(1, min(round(seconds * rate), BLOCK // stream.channels)), 0
        while done < stream.frames and len(wav := next_mono(path, stream, size)):
            check_samples(path, wav, done, rate)
            done += len(wav)
            yield resampler.push(wav)
        yield resampler.finish()
        refuse_missing(path, stream, done, stream.frames)


def _stretch(
    path: str | Path, start: float | None, end: float | None, frames: int, rate: int
) -> tuple[int, int]:
    """First and one-past-last sample of a stretch given in seconds."""
    duration = frames / rate
    begin = 0.0 if start is None else float(start)
    stop = duration if end is None else float(end)
    if not (0 <= begin < stop):  # also refuses NaN
        raise UserError(f"{path}: no stretch from {begin:g} s to {stop:g} s (of {duration:.3f} s)")
    if stop > duration + END_TOLERANCE or round(begin * rate) >= frames:
        raise UserError(
            f"{path}: the stretch {begin:g} s to {stop:g} s is outside the recording, "
            f"which has {duration:.3f} s"
        )
    if min(stop, duration) - begin > MOST_HOURS * 3600:
        raise UserError(
            f"{path}: {(min(stop, duration) - begin) / 3600:.1f} hours at once; "
            f"{MOST_HOURS} are allowed: cut it, or give start and end"
        )
    first = round(begin * rate)
    return first, max(first + 1, min(frames, round(stop * rate)))


def _check_whole(path: str | Path, stream: soundfile.SoundFile, seek: bool = True) -> None:
    """Raise a UserError for a file that ends before its header says; with `seek` look there."""
    refuse_cut(path, stream)
    if seek and stream.subtype in ("FLOAT", "DOUBLE"):
        _check_finite(path, stream)
    if seek and stream.format in ("FLAC", "MP3"):
        tail = TAIL if stream.format == "MP3" else 1
        read_mono(path, stream, max(0, stream.frames - tail), stream.frames)


def _check_finite(path: str | Path, stream: soundfile.SoundFile) -> None:
    """Only floating-point files can hold NaN, and they are rare: read them whole."""
    at = 0
    while len(block := next_mono(path, stream, BLOCK // stream.channels)):
        check_samples(path, block, at, stream.samplerate)
        at += len(block)


def check_samples(name: str | Path, wav: np.ndarray, offset: int = 0, rate: int = 0) -> None:
    """Refuse `(samples,)` that are no audio; where they lie, `offset` and `rate`, is for messages.

    Raises:
        UserError: NaN or infinite samples, or some far beyond -1..1.
    """
    bad = np.flatnonzero(~np.isfinite(wav))
    if len(bad):
        when = f", the first at {(offset + int(bad[0])) / rate:.3f} s" if rate else ""
        raise UserError(f"{name}: {len(bad)} samples are NaN or infinite{when}; make it again")
    peak = float(np.abs(wav).max(initial=0.0))
    if peak > _LOUDEST:
        raise UserError(
            f"{name}: samples up to {peak:g}, where floats must lie within -1..1: divide 16-bit "
            "numbers by 32768 (24-bit by 8388608, 32-bit by 2147483648)"
        )


_WRITABLE = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


_PART = 1 << 18  # samples


def write_audio(path: str | Path, wav: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """Write mono audio atomically, in the format that the suffix names.

    Args:
        path: ends in `.wav` (16 bit), `.flac` (16 bit), `.ogg` (Vorbis), `.opus` or `.mp3`.
        wav: `(samples,)` float, finite; values beyond -1..1 are clipped.
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
    """The bytes of an audio file; see `write_audio`, whose suffixes it takes.

    Args:
        wav: `(samples,)` float, finite; values beyond -1..1 are clipped.
        sample_rate: in Hz.
    """
    wav = np.asarray(wav, dtype=np.float32)
    if wav.ndim != 1 or not np.isfinite(wav).all():
        raise UserError(f"{name}: audio to be written must be one channel of finite samples")
    kind, subtype = _WRITABLE[suffix]
    stream = io.BytesIO()
    try:
        options = {"samplerate": sample_rate, "channels": 1, "format": kind, "subtype": subtype}
        with soundfile.SoundFile(stream, "w", **options) as file:
            for at in range(0, len(wav), _PART):  # libsndfile's Ogg dies of minutes at once
                file.write(np.clip(wav[at : at + _PART], -1, 1))
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
        return first_line(error)
    half = heard[: SAMPLE_RATE // 2]
    peak = np.argmax(np.abs(np.fft.rfft(half))) * SAMPLE_RATE / len(half)
    if abs(len(heard) - SAMPLE_RATE) > 4000 or abs(peak - 440) > 5:
        return f"decodes wrongly: {len(heard)} samples, a tone of {peak:.0f} Hz"
    return ""
