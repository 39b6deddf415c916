"""Where sound to listen to comes from: a file, a microphone, raw samples on the standard input."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from speechcwcl.data.audio import SAMPLE_RATE, audio_blocks, audio_info
from speechcwcl.data.audio.resampling import BlockResampler
from speechcwcl.errors import UserError, first_line

_BLOCK = 0.1  # seconds
PATIENCE = 2.0  # seconds without sound from a device that make a gap
_NO_MICROPHONE = (
    "no microphone can be used ({reason}); give a file, or raw samples on the standard input: "
    "`arecord -q -f S16_LE -r 16000 -c 1 -t raw | speechcwcl listen - ...`"
)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Block:
    """A piece of sound."""

    wav: np.ndarray  # (samples,) float32 at 16 kHz
    gap: float = 0.0  # seconds without sound before it; 0: it follows the one before


def file_blocks(path: str) -> Iterator[Block]:
    """The blocks of a file, which is looked at at once."""
    audio_info(path)
    return (Block(wav) for wav in audio_blocks(path))


def microphone(device: int | str | None, say: Say) -> Iterator[Block]:
    """Open a microphone; when it stops, wait for it and open it again.

    Args:
        device: number or part of the name of an input device; the system's own when `None`.

    Raises:
        UserError: sounddevice or PortAudio is not installed, or there is no such device.
    """
    sounddevice = _sounddevice()
    try:
        rate = _rate(sounddevice, device)
    except (sounddevice.PortAudioError, ValueError) as error:
        raise UserError(_NO_MICROPHONE.format(reason=first_line(error))) from error
    return _recorded(sounddevice, device, rate, say)


def _rate(sounddevice: Any, device: int | str | None) -> int:
    info = sounddevice.query_devices(device, "input")
    try:
        sounddevice.check_input_settings(device, 1, "float32", samplerate=SAMPLE_RATE)
    except sounddevice.PortAudioError:  # not every device can be had at 16 kHz
        return round(info["default_samplerate"])
    return SAMPLE_RATE


def _recorded(sounddevice: Any, device: int | str | None, rate: int, say: Say) -> Iterator[Block]:
    waiting: queue.Queue[tuple[float, np.ndarray]] = queue.Queue()
    before: float | None = None  # when sound came last
    said = False

    def take(data: np.ndarray, frames: int, when: Any, status: Any) -> None:
        waiting.put((time.monotonic(), data[:, 0].copy()))

    while True:
        resampler = BlockResampler(rate, SAMPLE_RATE)
        try:
            with sounddevice.InputStream(
                device=device,
                channels=1,
                dtype="float32",
                samplerate=rate,
                blocksize=round(_BLOCK * rate),
                callback=take,
            ):
                while True:
                    came, data = waiting.get(timeout=PATIENCE)
                    gap = 0.0 if before is None else came - before
                    before, said = came, False
                    yield Block(resampler.push(data), gap if gap > PATIENCE else 0.0)
        except (sounddevice.PortAudioError, queue.Empty) as error:
            if before is None:
                none = isinstance(error, queue.Empty)
                reason = "it gives no sound" if none else first_line(error)
                raise UserError(_NO_MICROPHONE.format(reason=reason)) from error
            if not said:
                say("the microphone has stopped; waiting for it")
            said = True
            time.sleep(_BLOCK)


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise UserError(
            "a microphone needs the package sounddevice: pip install 'speechcwcl[mic]'; or give "
            "a file to listen to"
        ) from error
    except OSError as error:  # the package is there, the library it calls is not
        reason = f"{error}: apt install libportaudio2"
        raise UserError(_NO_MICROPHONE.format(reason=reason)) from error
    return sounddevice


def raw_samples(stream: BinaryIO, say: Say) -> Iterator[Block]:
    """Blocks from 16-bit little-endian mono samples at 16 kHz; what stops and goes on is a gap."""
    waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(maxsize=100)

    def read() -> None:
        size = round(_BLOCK * SAMPLE_RATE) * 2
        # Of a pipe, what is there; waiting for a whole block would hide where it stopped.
        take = getattr(stream, "read1", stream.read)
        data = b" "
        while data:
            began = time.monotonic()
            data = take(size)
            waiting.put((time.monotonic() - began, data))

    threading.Thread(target=read, daemon=True).start()
    rest, said, first = b"", False, True
    while True:
        try:
            waited, data = waiting.get(timeout=None if first else PATIENCE)
        except queue.Empty:
            if not said:
                say("the standard input has stopped; waiting for it")
            said = True
            continue
        if not data:
            return
        gap = waited if waited > PATIENCE and not first else 0.0
        data, said, first = rest + data, False, False
        even = len(data) // 2 * 2
        rest = data[even:]
        yield Block(np.frombuffer(data[:even], dtype="<i2").astype(np.float32) / 32768, gap)
