"""Decoding audio: the only place that does it (soundfile: wav, flac, ogg/opus, mp3, ...).

A path is a file, or a member of a tar shard (see :mod:`speechcwcl.data.audio.members`).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from speechcwcl.data.audio.members import find_member
from speechcwcl.data.audio.mp3 import counted_samples
from speechcwcl.data.audio.resampling import BlockResampler, check_rate, resample
from speechcwcl.errors import UserError, closest
from speechcwcl.files import atomic_write

SAMPLE_RATE = 16000
"""The rate, in Hz, that everything behind this module works at."""

# Lossy decoders carry state from packet to packet, so a read that begins at a seek target differs
# from the same stretch of a full decode. Starting this much (s) earlier makes Vorbis and MP3 equal
# (below 1e-6) and Opus equal or nearly so (SILK at 16 kHz: below 1e-3 of full scale).
_PREROLL = 0.5
END_TOLERANCE = 0.5
"""Seconds by which an end time may overshoot the recording and is cut to it, as Kaldi does."""
# A WAV header may promise this many bytes more than there are: sloppy headers count themselves.
_SLOPPY_BYTES = 1024
# From here on a WAV length is a placeholder of a writer that could not seek (sox, ffmpeg pipes).
_PLACEHOLDER_BYTES = 0x7FFF0000
_MP3_TAIL = 4 * 1152
# Samples (of all channels) decoded at a time: headers may promise what is not there.
_BLOCK = 1 << 20
# More than so many hours at once are refused: a few kB of FLAC can hold a week of silence.
_MOST_HOURS = 6
_FAILURES = (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError)
_quiet_lock = threading.Lock()


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Attributes:
        sample_rate: in Hz.
        channels: number of channels.
        frames: samples per channel.
        duration: in seconds.
    """

    sample_rate: int
    channels: int
    frames: int
    duration: float


def audio_info(path: str | Path, data: bytes | None = None) -> AudioInfo:
    """Read a file's length without decoding all of it; cut-off files are noticed.

    Args:
        path: an audio file.
        data: its bytes, where there is no file; ``path`` is for messages then.

    Raises:
        UserError: the file is missing, empty, not audio, corrupt or truncated.
    """
    with _opened(path, None if data is None else io.BytesIO(data)) as stream:
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
        path: an audio file.
        start: first moment in seconds; None is the beginning.
        end: last moment in seconds; None is the end of the file. Up to 0.5 s beyond the
            end of the recording is cut to it.
        sample_rate: rate of the result in Hz; resampled when the file has another.

    Returns:
        ``(samples,)`` float32, the mean of the channels.

    Raises:
        UserError: the file is missing, empty, corrupt or truncated, has NaN or infinite samples,
            the stretch does not lie inside it, or more than six hours at once are wanted.
    """
    with _opened(path) as stream:
        return _decoded(path, stream, start, end, sample_rate)


def decode_audio(data: bytes, name: str, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Decode an audio file's bytes to mono, as :func:`load_audio` does a file.

    Args:
        data: the whole file.
        name: for messages.
        sample_rate: see :func:`load_audio`.
    """
    with _opened(name, io.BytesIO(data)) as stream:
        return _decoded(name, stream, None, None, sample_rate)


def _decoded(
    path: str | Path,
    stream: soundfile.SoundFile,
    start: float | None,
    end: float | None,
    sample_rate: int,
) -> np.ndarray:
    rate = stream.samplerate
    first, last = _stretch(path, start, end, stream.frames, rate)
    wav = _read(path, stream, first, last)
    if last == stream.frames and first == 0:
        _check_whole(path, stream, seek=False)
    _refuse_nan(path, wav, first, rate)
    return resample(wav, rate, sample_rate)


def audio_blocks(path: str | Path, seconds: float = 10.0) -> Iterator[np.ndarray]:
    """Decode a file of any length block by block, to mono at 16 kHz.

    The blocks joined are what :func:`load_audio` gives, with a block's memory.

    Args:
        path: an audio file.
        seconds: of audio in a block.

    Yields:
        ``(samples,)`` float32.

    Raises:
        UserError: as :func:`load_audio`; what comes before the fault has been given by then.
    """
    with _opened(path) as stream:
        rate, resampler = stream.samplerate, BlockResampler(stream.samplerate, SAMPLE_RATE)
        _check_whole(path, stream, seek=False)
        size, done = max(1, min(round(seconds * rate), _BLOCK // stream.channels)), 0
        while done < stream.frames:
            try:
                with _quiet(path, stream):
                    data = stream.read(size, dtype="float32", always_2d=True)
            except _FAILURES as error:
                raise UserError(f"{path}: corrupt or truncated: {_reason(error)}") from error
            if not len(data):
                break
            wav = data.mean(axis=1, dtype=np.float32)
            _refuse_nan(path, wav, done, rate)
            done += len(data)
            yield resampler.push(wav)
        yield resampler.finish()
        if stream.frames - done > (_MP3_TAIL if stream.format == "MP3" else 0):
            raise UserError(
                f"{path}: truncated: {stream.frames / rate:.3f} s announced, {done / rate:.3f} s "
                "there; fetch the file again"
            )


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
        reason = _reason(error)
        raise UserError(f"{name}: cannot write at {sample_rate} Hz: {reason}") from error
    return stream.getvalue()


_WRITABLE = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


@contextlib.contextmanager
def _opened(path: str | Path, data: io.BytesIO | None = None) -> Iterator[soundfile.SoundFile]:
    """Open a file (or its bytes) for reading, or say in one line why that cannot be done."""
    text = os.fspath(path)
    if text.rstrip().endswith("|"):
        raise UserError(f"{text}: a command, not an audio file; commands run in stage 2 only")
    member = None if data else find_member(text)
    try:
        data = io.BytesIO(member.read()) if member else data
        size = len(data.getbuffer()) if data else os.stat(text).st_size
        with _quiet(member.name if member else text):
            stream = soundfile.SoundFile(data or text)
    except FileNotFoundError:
        path = member.tar if member else text
        kind = "shard" if member else "audio file"
        raise UserError(f"{path}: no such {kind}{_neighbour(path)}") from None
    except EOFError as error:
        raise UserError(f"{text}: truncated shard: {error}; make or copy it again") from None
    except _FAILURES as error:
        if Path(text).is_dir():
            raise UserError(f"{text}: a folder, not an audio file") from None
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{text}: cannot read: {error.strerror}") from None
        if size == 0:
            raise UserError(f"{text}: empty file (0 bytes)") from None
        raise UserError(f"{text}: not audio that can be read: {_reason(error)}") from error
    with stream:
        if stream.frames <= 0:
            raise UserError(f"{text}: no samples in it (0 s)")
        try:
            check_rate(stream.samplerate)
        except UserError as error:
            raise UserError(f"{text}: {error}") from None
        if stream.format == "MP3":
            _check_mp3_length(text, stream, data)
        yield stream


def _check_mp3_length(path: str, stream: soundfile.SoundFile, data: io.BytesIO | None) -> None:
    counted = counted_samples(io.BytesIO(data.getbuffer()) if data else path)
    if counted and abs(counted - stream.frames) > 0.05 * counted + _MP3_TAIL:
        rate = stream.samplerate
        raise UserError(
            f"{path}: an MP3 of variable bit rate without a length header (decoders see "
            f"{stream.frames / rate:.1f} s of {counted / rate:.1f} s); convert it, say to FLAC"
        )


def _neighbour(path: str) -> str:
    """The closest name beside a missing file, or which part of its path is missing."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        return f"; its folder {folder} does not exist"
    with os.scandir(folder) as entries:  # the first few thousand: corpora have huge folders
        names = [entry.name for entry, _ in zip(entries, range(2000), strict=False)]
    return closest(os.path.basename(path), names)


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
    if min(stop, duration) - begin > _MOST_HOURS * 3600:
        raise UserError(
            f"{path}: {(min(stop, duration) - begin) / 3600:.1f} hours at once; "
            f"{_MOST_HOURS} are allowed: cut it, or give start and end"
        )
    first = round(begin * rate)
    return first, max(first + 1, min(frames, round(stop * rate)))


def _read(path: str | Path, stream: soundfile.SoundFile, first: int, last: int) -> np.ndarray:
    """Samples ``first:last`` as ``(samples,)`` float32, mean of the channels."""
    lossy = stream.format in ("OGG", "MP3")
    seek_to = max(0, first - int(_PREROLL * stream.samplerate)) if lossy else first
    try:
        with _quiet(path, stream):
            if seek_to:
                stream.seek(seek_to)
            data = _mono(stream, last - seek_to)
    except _FAILURES as error:
        raise UserError(f"{path}: corrupt or truncated: {_reason(error)}") from error
    missing = (last - seek_to) - len(data)
    # MP3 lengths may come from an estimate, and end with the encoder's padding.
    if missing > (_MP3_TAIL if stream.format == "MP3" else 0) or len(data) <= first - seek_to:
        read = (seek_to + len(data)) / stream.samplerate
        raise UserError(
            f"{path}: truncated: {stream.frames / stream.samplerate:.3f} s announced, "
            f"{read:.3f} s there; fetch the file again"
        )
    return data[first - seek_to :]


def _mono(stream: soundfile.SoundFile, frames: int) -> np.ndarray:
    """The next ``frames`` samples or what there is of them, ``(samples,)``: mean of the channels.

    Block by block, so that memory follows what is there and not what a header promises.
    """
    blocks, left = [np.zeros(0, dtype=np.float32)], frames
    size = max(1, _BLOCK // stream.channels)
    while left > 0:
        data = stream.read(min(left, size), dtype="float32", always_2d=True)
        if not len(data):
            break
        left -= len(data)
        blocks.append(data[:, 0] if stream.channels == 1 else data.mean(axis=1, dtype=np.float32))
    return np.concatenate(blocks[1:] or blocks)


def _check_whole(path: str | Path, stream: soundfile.SoundFile, seek: bool = True) -> None:
    """Raise a UserError for a file that ends before its header says; with ``seek`` look there."""
    notes = stream.extra_info
    found = re.search(r"^data\s*:\s*(\d+) \(should be (\d+)\)", notes, re.MULTILINE)
    if found:
        promised, there = int(found[1]), int(found[2])
        if promised < _PLACEHOLDER_BYTES and promised - there > _SLOPPY_BYTES:
            raise UserError(
                f"{path}: truncated: {promised} bytes of samples announced, {there} there; "
                "fetch the file again"
            )
    if "Junk after the last page" in notes and "lacks an end-of-stream" in notes:
        raise UserError(f"{path}: truncated: its last Ogg page is cut off; fetch the file again")
    if seek and stream.subtype in ("FLOAT", "DOUBLE"):
        _check_finite(path, stream)
    if seek and stream.format in ("FLAC", "MP3"):
        tail = _MP3_TAIL if stream.format == "MP3" else 1
        _read(path, stream, max(0, stream.frames - tail), stream.frames)


def _check_finite(path: str | Path, stream: soundfile.SoundFile) -> None:
    """Only floating-point files can hold NaN, and they are rare: read them whole."""
    at = 0
    try:
        while len(block := _mono(stream, _BLOCK // stream.channels)):
            _refuse_nan(path, block, at, stream.samplerate)
            at += len(block)
    except _FAILURES as error:
        raise UserError(f"{path}: corrupt or truncated: {_reason(error)}") from error


def _refuse_nan(path: str | Path, wav: np.ndarray, offset: int, rate: int) -> None:
    bad = np.flatnonzero(~np.isfinite(wav))
    if len(bad):
        raise UserError(
            f"{path}: {len(bad)} samples are NaN or infinite, the first at "
            f"{(offset + int(bad[0])) / rate:.3f} s; make the file again"
        )


@contextlib.contextmanager
def _quiet(path: str | Path, stream: soundfile.SoundFile | None = None) -> Iterator[None]:
    """Keep libmpg123's remarks, which are harmless after a seek, from the terminal.

    It writes straight to file descriptor 2, so that is where they must be caught.
    """
    is_mp3 = stream.format == "MP3" if stream else str(path).lower().endswith(".mp3")
    if not is_mp3:
        yield
        return
    with _quiet_lock:
        saved = os.dup(2)
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


if hasattr(os, "register_at_fork"):  # a child must not inherit the lock as another thread held it
    os.register_at_fork(after_in_child=lambda: globals().update(_quiet_lock=threading.Lock()))


def _reason(error: BaseException) -> str:
    text = getattr(error, "error_string", "") or str(error)
    text = text.strip().splitlines()[0] if text.strip() else "the decoder gives no reason"
    return text.rstrip(".")
