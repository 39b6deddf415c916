"""Opening audio files of every kind, whole, joined or unfinished, and reading samples from them.

Audio inside a tar shard has an address, `shard-000012.tar::utt.flac@1536+32044`: 32,044 bytes
from 1,536 on. It says where the bytes are, so that a clip costs one read, in any order, with
nothing extracted and no index in memory. `speechcwcl.data.shards` writes such addresses.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import threading
import unicodedata
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from speechcwcl.data.audio.containers import (
    PLACEHOLDER_BYTES,
    TAIL,
    Buffer,
    is_container,
    untold_samples,
    whole_files,
)
from speechcwcl.data.audio.resampling import check_rate
from speechcwcl.errors import UserError, closest

_ADDRESS = re.compile(r"(.+?\.tar)::(.+)@(\d+)\+(\d+)", re.DOTALL)


class Member(NamedTuple):
    """A file in a tar."""

    tar: str  # path of the tar
    name: str  # of the file, as the tar has it
    offset: int  # first byte of its content in the tar
    size: int  # bytes

    def __str__(self) -> str:
        return f"{self.tar}::{self.name}@{self.offset}+{self.size}"

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            FileNotFoundError: there is no such tar.
            EOFError: the tar ends before its member does.
        """
        with Path(self.tar).open("rb", buffering=0) as stream:
            there = max(0, os.fstat(stream.fileno()).st_size - self.offset)
            data = os.pread(stream.fileno(), min(self.size, there), self.offset)
        if len(data) != self.size:
            raise EOFError(f"{self.size} bytes of {self.name} announced, {len(data)} there")
        return data


def find_member(audio: str) -> Member | None:
    """The member that an audio path means; None for the path of an ordinary file."""
    found = _ADDRESS.fullmatch(audio) if "::" in audio else None
    return Member(found[1], found[2], int(found[3]), int(found[4])) if found else None


def read_audio_file(audio: str) -> bytes:
    """The bytes of an audio file or member, as they are stored."""
    member = find_member(audio)
    return member.read() if member else Path(audio).read_bytes()


FAILURES = (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError)
# More than so many hours at once are refused: a few kB of FLAC can hold a week of silence.
MOST_HOURS = 6
# Samples (of all channels) decoded at a time: headers may promise what is not there.
BLOCK = 1 << 20
# Lossy decoders carry state from packet to packet, so a read that begins at a seek target differs
# from the same stretch of a full decode. Starting this much (s) earlier makes Vorbis and MP3 equal
# (below 1e-6) and Opus equal or nearly so (SILK at 16 kHz: below 1e-3 of full scale).
_PREROLL = 0.5
# A WAV header may promise this many bytes more than there are: sloppy headers count themselves.
_SLOPPY_BYTES = 1024
# What libsndfile says where a header has no length.
_UNKNOWN = 1 << 62
_quiet_lock = threading.Lock()


@contextlib.contextmanager
def opened(path: str | Path, data: bytes | None = None) -> Iterator[soundfile.SoundFile]:
    """Open a file (or its bytes) for reading, or say in one line why that cannot be done."""
    text = os.fspath(path)
    member = None if data is not None else find_member(text)
    if data is None and member is None:
        text = _found(text)
    try:
        data = member.read() if member else data
        if data is None:
            stream = _plain_or_mended(text)
        else:
            stream = _open_parts(text, _parts(text, data) or [data])
    except EOFError as error:
        raise UserError(f"{text}: truncated shard: {error}; make or copy it again") from None
    except FileNotFoundError:
        tar = member.tar if member else text
        raise UserError(f"{tar}: no such shard{_neighbour(tar)}") from None
    except OSError as error:
        if error.strerror is None:
            raise UserError(f"{text}: not audio that can be read: {reason(error)}") from error
        raise UserError(f"{text}: cannot read: {error.strerror}") from None
    with stream:
        yield stream


def _plain_or_mended(path: str) -> soundfile.SoundFile:
    """Open a file of the disk, from the disk where it is one whole file."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: a folder, not an audio file")
    if status.st_size == 0:
        raise UserError(f"{path}: empty file (0 bytes)")
    with Path(path).open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
        _refuse_compressed(path, mapped[:1024])
        parts = _parts(path, mapped)
        if parts is not None:
            return _open_parts(path, parts)
        return _sound(path, _open_one(path, os.fsencode(path), mapped[:64]), mapped)


def _parts(path: str, data: Buffer) -> list[bytes] | None:
    try:
        return whole_files(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _open_parts(path: str, parts: list[bytes]) -> soundfile.SoundFile:
    """Open the whole files of a file: as it is, or decoded and joined where there are several."""
    if not parts[0]:
        raise UserError(f"{path}: empty file (0 bytes)")
    _refuse_compressed(path, parts[0][:1024])
    opened = [_sound(path, _open_one(path, _Bytes(part), part[:64]), part) for part in parts]
    if len(opened) == 1:
        return opened[0]
    return _joined(path, opened)


class _Forward(soundfile.SoundFile):
    """Without a length there is no seeking, and soundfile must not try it after each block."""

    def seekable(self) -> bool:
        return False


class _Bytes(io.BytesIO):
    """Damaged headers make libsndfile seek to places before the first byte."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return -1


def _open_one(path: str, source: bytes | io.BytesIO, head: bytes) -> soundfile.SoundFile:
    try:
        with quiet(head=head):
            stream = soundfile.SoundFile(source)
            if stream.frames < _UNKNOWN:
                return stream
            stream.close()
            if isinstance(source, io.BytesIO):
                source.seek(0)
            return _Forward(source)
    except FAILURES as error:
        hint = _hint(path, head)
        raise UserError(f"{path}: not audio that can be read: {hint or reason(error)}") from error


def _hint(path: str, head: bytes) -> str:
    """What to do about a file that is no audio, or of a kind that libsndfile does not read."""
    if head.startswith(b"version https://git-lfs"):
        return "the pointer of Git LFS; fetch the file: git lfs pull"
    if head.lstrip().startswith(b"<"):
        return "a web page; fetch the file again"
    if head.startswith((b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ")):
        return "a packed file; unpack it"
    if head[4:8] == b"ftyp" or head.startswith((b"\x1aE\xdf\xa3", b"0&\xb2u", b"#!AMR", b"ADIF")):
        return f"convert it: ffmpeg -i {path} out.wav"
    return ""


def _sound(path: str, stream: soundfile.SoundFile, data: Buffer) -> soundfile.SoundFile:
    """The stream, if its header is sound; read to its end where that says no length."""
    if stream.frames >= _UNKNOWN:
        return _joined(path, [stream])
    if stream.frames <= 0:
        raise UserError(f"{path}: no samples in it (0 s)")
    try:
        check_rate(stream.samplerate)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if stream.format == "MP3":
        counted, rate = untold_samples(data), stream.samplerate
        if counted and abs(counted - stream.frames) > 0.05 * counted + TAIL:
            raise UserError(
                f"{path}: an MP3 of variable bit rate without a length header (decoders see "
                f"{stream.frames / rate:.1f} s of {counted / rate:.1f} s); convert it, say to FLAC"
            )
    return stream


def _joined(path: str, streams: list[soundfile.SoundFile]) -> soundfile.SoundFile:
    """Several streams, or one of unknown length, as one of known length in memory."""
    rate, blocks, left = streams[0].samplerate, [], MOST_HOURS * 3600 * streams[0].samplerate
    for stream in streams:
        if stream.samplerate != rate:
            raise UserError(
                f"{path}: several recordings in one file, at {rate} and {stream.samplerate} Hz; "
                "take them apart"
            )
        refuse_cut(path, stream)
        known = stream.frames < _UNKNOWN
        part = read_mono(path, stream, 0, stream.frames) if known else next_mono(path, stream, left)
        left -= len(part)
        if left <= 0:
            raise UserError(f"{path}: more than {MOST_HOURS} hours at once; cut it")
        blocks.append(part)
        stream.close()
    data = io.BytesIO()
    soundfile.write(data, np.concatenate(blocks), rate, format="WAV", subtype="FLOAT")
    data.seek(0)
    return soundfile.SoundFile(data)


def refuse_cut(path: str | Path, stream: soundfile.SoundFile) -> None:
    """Raise a UserError where libsndfile has noted that a file ends before its header says."""
    notes = stream.extra_info
    found = re.search(r"^data\s*:\s*(\d+) \(should be (\d+)\)", notes, re.MULTILINE)
    if found:
        promised, there = int(found[1]), int(found[2])
        if promised < PLACEHOLDER_BYTES and promised - there > _SLOPPY_BYTES:
            raise UserError(
                f"{path}: truncated: {promised} bytes of samples announced, {there} there; "
                "fetch the file again"
            )
    if "Junk after the last page" in notes and "lacks an end-of-stream" in notes:
        raise UserError(f"{path}: truncated: its last Ogg page is cut off; fetch the file again")


def _refuse_compressed(path: str, head: bytes) -> None:
    if head.startswith(b"NIST_1A") and b"shorten" in head:
        raise UserError(
            f"{path}: a .sph compressed with shorten; unpack it: sph2pipe -f wav {path} out.wav"
        )


def _found(path: str) -> str:
    """The path of a file that is there; names of other letters composed alike (NFC, NFD) count."""
    if os.path.exists(path):
        return path
    if path.rstrip().endswith("|"):
        raise UserError(f"{path}: a command, not an audio file; commands run in stage 2 only")
    if re.fullmatch(r".*\.ark(:\d+)?(\[.*\])?", path):
        raise UserError(f"{path}: a place in a Kaldi archive, and arks are not read; write files")
    if "\0" in path:
        raise UserError(f"{path!r}: a NUL byte in a path")
    folder, name = os.path.split(path)
    if not path.isascii() and os.path.isdir(folder or "."):
        for other in os.listdir(folder or "."):
            if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name):
                return os.path.join(folder, other)
    raise UserError(f"{path}: no such audio file{_neighbour(path)}")


def _neighbour(path: str) -> str:
    """The closest name beside a missing file, or which part of its path is missing."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        return f"; its folder {folder} does not exist"
    with os.scandir(folder) as entries:  # the first few thousand: corpora have huge folders
        names = [entry.name for entry, _ in zip(entries, range(2000), strict=False)]
    return closest(os.path.basename(path), names)


def read_mono(path: str | Path, stream: soundfile.SoundFile, first: int, last: int) -> np.ndarray:
    """Samples `first:last` as `(samples,)` float32, mean of the channels."""
    lossy = stream.format in ("OGG", "MP3")
    seek_to = max(0, first - int(_PREROLL * stream.samplerate)) if lossy else first
    data = next_mono(path, stream, last - seek_to, seek_to)
    refuse_missing(path, stream, seek_to + len(data), last if len(data) > first - seek_to else None)
    return data[first - seek_to :]


def refuse_missing(
    path: str | Path, stream: soundfile.SoundFile, there: int, last: int | None
) -> None:
    """Raise a UserError where samples end at `there`, before `last` (None: in any case)."""
    # MP3 lengths may come from an estimate, and end with the encoder's padding.
    if last is None or last - there > (TAIL if stream.format == "MP3" else 0):
        rate = stream.samplerate
        raise UserError(
            f"{path}: truncated: {stream.frames / rate:.3f} s announced, {there / rate:.3f} s "
            "there; fetch the file again"
        )


def next_mono(
    path: str | Path, stream: soundfile.SoundFile, frames: int, seek_to: int = 0
) -> np.ndarray:
    """The next `frames` samples or what there is of them, `(samples,)`: mean of the channels.

    Block by block, so that memory follows what is there and not what a header promises.
    """
    blocks, left = [np.zeros(0, dtype=np.float32)], frames
    size, one = max(1, BLOCK // stream.channels), stream.channels == 1
    try:
        with quiet(stream):
            if seek_to:
                stream.seek(seek_to)
            while left > 0:
                data = stream.read(min(left, size), dtype="float32", always_2d=True)
                if not len(data):
                    break
                left -= len(data)
                blocks.append(data[:, 0] if one else data.mean(axis=1, dtype=np.float32))
    except FAILURES as error:
        raise UserError(f"{path}: corrupt or truncated: {reason(error)}") from error
    return np.concatenate(blocks[1:] or blocks)


@contextlib.contextmanager
def quiet(stream: soundfile.SoundFile | None = None, head: bytes = b"") -> Iterator[None]:
    """Keep libmpg123's remarks, which are harmless after a seek, from the terminal.

    It writes straight to file descriptor 2, so that is where they must be caught. It is asked about
    MP3 and, before a stream is open, about whatever no other decoder knows by its first bytes.
    """
    if stream.format != "MP3" if stream else is_container(head):
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


def reason(error: BaseException) -> str:
    """What a decoder says is wrong, in one line."""
    text = getattr(error, "error_string", "") or str(error)
    text = text.strip().splitlines()[0] if text.strip() else "the decoder gives no reason"
    return text.rstrip(".")
