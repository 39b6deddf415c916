"""Voices of programs of the operating system: flite, espeak-ng, SVOX Pico and RHVoice."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from . import UserError
from .clips import resample
from .voices import pitch_factor

# engine: program, package of Debian (the last two are in its section non-free)
PROGRAMS = {
    "flite": ("flite", "flite"),
    "espeak": ("espeak-ng", "espeak-ng"),
    "pico": ("pico2wave", "libttspico-utils"),
    "rhvoice": ("RHVoice-test", "rhvoice rhvoice-english"),
}
WORDS_PER_MINUTE = 165  # espeak-ng's speed at factor 1
MBROLA = Path("/usr/share/mbrola")


def check_programs(voices: set[str]) -> None:
    """Refuses to start when the program of a voice, or its MBROLA data, is missing."""
    packages = set()
    for voice in voices:
        program, package = PROGRAMS.get(voice.partition("_")[0], ("", ""))
        if program and shutil.which(program) is None:
            packages.add(package)
        database = mbrola_database(voice)
        if database and not (MBROLA / database / database).is_file():
            packages |= {"mbrola", f"mbrola-{database}"}
    if packages:
        raise UserError(f"voices are missing: apt-get install {' '.join(sorted(packages))}")


def mbrola_database(voice: str) -> str:
    """`fr1` for `espeak_mb-fr1-en`; nothing for a voice that needs none."""
    head, _, rest = voice.partition("_mb-")
    return rest.partition("-")[0] if head == "espeak" else ""


def command_of(engine: str, voice: str, text: str, speed: float, path: str) -> list[str]:
    """The command line that writes a WAV file; RHVoice reads the text from its standard input.

    Args:
        engine: a key of PROGRAMS.
        voice: such as `flite_slt`, `espeak_en-us+m3`, `pico_en-US_p088` or `rhvoice_bdl`.
        text: what to say; no markup.
        speed: a factor; 1.25 is a quarter faster.
        path: the WAV file.
    """
    name = voice.split("_")[1]
    if engine == "flite":
        stretch = f"duration_stretch={1 / speed:.3f}"
        return ["flite", "-voice", name, "--setf", stretch, "-t", text, "-o", path]
    if engine == "pico":
        said = f'<speed level="{round(100 * speed)}">{text}</speed>'
        return ["pico2wave", "-l", name, "-w", path, said]
    if engine == "rhvoice":
        return ["RHVoice-test", "-p", name, "-r", str(round(100 * speed)), "-o", path]
    rate = str(round(WORDS_PER_MINUTE * speed))
    return ["espeak-ng", "-v", name, "-s", rate, "-w", path, "--", text]


def speak_by_program(engine: str, voice: str, text: str, speed: float) -> np.ndarray:
    """(samples,) float32 at 16 kHz; see `command_of`.

    A voice whose name ends in `_pNNN` is moved in pitch and formants, its speed kept.
    """
    import soundfile

    pitch = pitch_factor(voice)
    with TemporaryDirectory() as folder:
        path = f"{folder}/clip.wav"
        command = command_of(engine, voice, text, speed * 100 / pitch, path)
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
        if done.returncode or not Path(path).exists():
            raise UserError(
                f"{' '.join(command[:4])}: {done.stderr.decode(errors='replace')[:200]}"
            )
        audio, rate = soundfile.read(path, dtype="float32")
    return resample(audio, pitch, rate)
