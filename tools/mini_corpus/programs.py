"""Voices of programs of the operating system: flite and espeak-ng, run once a clip."""

from __future__ import annotations

import io
import shutil
import subprocess

import numpy as np

from . import UserError

PROGRAMS = {"flite": "flite", "espeak": "espeak-ng"}
WORDS_PER_MINUTE = 165  # espeak-ng's speed at factor 1


def check_programs(engines: set[str]) -> None:
    """Refuses to start when a program is missing."""
    for engine in engines & set(PROGRAMS):
        if shutil.which(PROGRAMS[engine]) is None:
            raise UserError(f"{PROGRAMS[engine]} is missing: apt-get install {PROGRAMS[engine]}")


def command_of(engine: str, voice: str, text: str, speed: float) -> list[str]:
    """The command line that writes a WAV file to its standard output.

    Args:
        engine: ``flite`` or ``espeak``.
        voice: such as ``flite_slt`` or ``espeak_en-us+m3``.
        text: what to say.
        speed: a factor; 1.25 is a quarter faster.
    """
    name = voice.partition("_")[2]
    if engine == "flite":
        stretch = f"duration_stretch={1 / speed:.3f}"
        return ["flite", "-voice", name, "--setf", stretch, "-t", text, "-o", "/dev/stdout"]
    rate = str(round(WORDS_PER_MINUTE * speed))
    return ["espeak-ng", "-v", name, "-s", rate, "--stdout", "--", text]


def speak_by_program(engine: str, voice: str, text: str, speed: float) -> np.ndarray:
    """(samples,) float32 at 16 kHz; see :func:`command_of`."""
    import soundfile
    from scipy.signal import resample_poly

    command = command_of(engine, voice, text, speed)
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or len(done.stdout) < 64:
        raise UserError(f"{' '.join(command[:4])}: {done.stderr.decode(errors='replace')[:200]}")
    # what streams has no true length in its header: read the samples behind it
    header = io.BytesIO(done.stdout)
    with soundfile.SoundFile(header) as sound:
        rate = sound.samplerate
    samples = np.frombuffer(done.stdout[44 : 44 + (len(done.stdout) - 44) // 2 * 2], "<i2")
    audio = samples.astype(np.float32) / 32768
    return resample_poly(audio, 16000, rate).astype(np.float32) if rate != 16000 else audio
