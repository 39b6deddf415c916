"""Where live audio comes from: a microphone, or raw samples on the standard input."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from speechcwcl.data.audio import SAMPLE_RATE
from speechcwcl.data.audio.resampling import BlockResampler
from speechcwcl.errors import UserError, first_line

_BLOCK = 0.1  # seconds
_NO_MICROPHONE = (
    "no microphone can be used ({reason}); give a file, or raw samples on the standard input: "
    "`arecord -q -f S16_LE -r 16000 -c 1 -t raw | speechcwcl listen - ...`"
)


def microphone(device: int | str | None = None) -> Iterator[np.ndarray]:
    """Open a microphone.

    Args:
        device: number or part of the name of an input device; the system's own when `None`.

    Returns:
        Blocks of (samples,) float32 at 16 kHz, without end.

    Raises:
        UserError: sounddevice or PortAudio is not installed, or there is no such device.
    """
    sounddevice = _sounddevice()
    try:
        info = sounddevice.query_devices(device, "input")
        rate = SAMPLE_RATE
        try:
            sounddevice.check_input_settings(device, 1, "float32", samplerate=rate)
        except sounddevice.PortAudioError:  # not every device can be had at 16 kHz
            rate = round(info["default_samplerate"])
    except (sounddevice.PortAudioError, ValueError) as error:
        raise UserError(_NO_MICROPHONE.format(reason=first_line(error))) from error
    return _recorded(sounddevice, device, rate)


def _recorded(sounddevice: Any, device: int | str | None, rate: int) -> Iterator[np.ndarray]:
    waiting: queue.Queue[np.ndarray] = queue.Queue()

    def take(data: np.ndarray, frames: int, when: Any, status: Any) -> None:
        waiting.put(data[:, 0].copy())

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
                yield resampler.push(waiting.get())
    except sounddevice.PortAudioError as error:
        raise UserError(_NO_MICROPHONE.format(reason=first_line(error))) from error


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


def raw_samples(stream: BinaryIO) -> Iterator[np.ndarray]:
    """Blocks of (samples,) float32 from 16-bit little-endian mono samples at 16 kHz."""
    rest = b""
    while data := stream.read(round(_BLOCK * SAMPLE_RATE) * 2):
        data = rest + data
        even = len(data) // 2 * 2
        rest = data[even:]
        yield np.frombuffer(data[:even], dtype="<i2").astype(np.float32) / 32768
