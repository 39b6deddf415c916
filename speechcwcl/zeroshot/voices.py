"""Words as they sound: spoken by the synthetic voices that are installed.

A text encoder knows what a word means and not how it is said, which is all that a name has. Two
engines are asked: hibari (`pip install 'speechcwcl[voices]'`; one American voice, here at several
pitches and speeds) and the program flite, where it is there (four voices). Both speak English.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.data.audio import SAMPLE_RATE, load_audio
from speechcwcl.errors import UserError, require

PITCHES = (80, 90, 100, 112)  # per cent of the voice's own; formants are moved along
SPEEDS = (0.8, 1.0, 1.25)
FLITE = ("slt", "awb", "rms", "kal16")


def speak(text: str) -> list[list[np.ndarray]]:
    """Say a word or a phrase.

    Returns:
        For each engine that is installed its clips, (samples,) float32 at 16 kHz.

    Raises:
        UserError: no engine is installed, or the text is not English.
    """
    if not re.search("[a-zA-Z0-9]", text):
        raise UserError(f"{text!r}: the synthetic voices cannot say it; they speak English")
    clips = [spoken for spoken in (_hibari(text), _flite(text)) if spoken]
    require(
        bool(clips),
        "no synthetic voice is installed: pip install 'speechcwcl[voices]', or install flite",
    )
    return clips


def _hibari(text: str) -> list[np.ndarray]:
    if importlib.util.find_spec("hibari") is None:
        return []
    from scipy.signal import resample_poly

    voice, clips = _voice(), []
    for pitch in PITCHES:
        for speed in SPEEDS:
            wav = np.asarray(voice(text, speed=speed * 100 / pitch, seed=1), dtype=np.float32)
            # Played at another rate it is higher or lower, and its speed is as asked again.
            clips.append(resample_poly(wav, SAMPLE_RATE, voice.sample_rate * pitch // 100))
    return clips


@functools.cache
def _voice() -> Any:
    import hibari

    return hibari.Hibari(threads=1)


def _flite(text: str) -> list[np.ndarray]:
    program = shutil.which("flite")
    if program is None:
        return []
    clips = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "said.wav"
        for voice in FLITE:
            words = [program, "-voice", voice, "-t", text, "-o", str(out)]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode or not out.exists():
                told = (done.stderr.strip() or f"code {done.returncode}").splitlines()[-1]
                raise UserError(f"flite cannot say {text!r} ({told})")
            clips.append(load_audio(str(out)))
            out.unlink()
    return clips
