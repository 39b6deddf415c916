"""An exported model, run by onnxruntime: the same words and results as :class:`Aligner`.

Its folder holds ``model.onnx`` and plain JSON, read with suspicion: ``config.json`` names every
other file with its size and sha256. An ONNX file is a graph of known operators and runs no code of
its own; onnxruntime opens no file outside the folder for it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechcwcl.errors import UserError
from speechcwcl.files import read_json
from speechcwcl.models import checkpoint
from speechcwcl.models.audio_input import Audio, embed_all
from speechcwcl.models.text_side import TextInfo, TextSide, centred
from speechcwcl.zeroshot import classifier

FORMAT = "speechcwcl-onnx"
VERSION = 1
MODEL = "model.onnx"
_KEYS = {
    "format": str,
    "version": int,
    "speechcwcl": str,
    "dim": int,
    "sample_rate": int,
    "logit_scale": float,
    "precision": str,
    "speech": dict,
    "text": dict,
    "text_mean": list,
    "files": dict,
    "info": dict,
}


class OnnxAligner:
    """Speech side in onnxruntime, text side the frozen encoder that the model was trained with.

    :meth:`classify` and :meth:`encode_labels` are those of :class:`Aligner`.

    Args:
        session: onnxruntime's session: ``wav``, ``lengths`` -> ``embeddings``.
        config: config.json of the folder.
        text: the text encoder.
    """

    def __init__(self, session: Any, config: dict[str, Any], text: TextInfo):
        self._session = session
        self._mean = torch.tensor(config["text_mean"], dtype=torch.float32)
        self.config = config
        self.text = TextSide(text)
        self.dim: int = config["dim"]
        self.logit_scale: float = config["logit_scale"]

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike, *, threads: int | None = None
    ) -> OnnxAligner:
        """Open a folder of `speechcwcl export`; runs no code of it.

        Args:
            folder: the folder.
            threads: of the CPU; ``None`` leaves it to onnxruntime, that is, all cores.

        Raises:
            UserError: not an exported model, from a newer version, truncated, changed, or
                onnxruntime is not installed.
        """
        [runtime] = needs("onnxruntime")
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; make one: speechcwcl export")
        config = read(path)
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = runtime.InferenceSession(
                path / MODEL, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no class
            why = str(error).strip().splitlines()[0]
            raise UserError(f"{path / MODEL}: onnxruntime refuses it: {why}") from error
        taken = [*session.get_inputs(), *session.get_outputs()]
        if [tensor.name for tensor in taken] != ["wav", "lengths", "embeddings"]:
            raise UserError(f"{path / MODEL}: not the graph of `speechcwcl export`")
        try:
            return cls(session, config, TextInfo(**config["text"]))
        except TypeError as error:
            raise UserError(f"{path / 'config.json'}: not as expected: {error}") from error

    def embed_speech(self, wav: Tensor | np.ndarray, lengths: Tensor | np.ndarray) -> np.ndarray:
        """Waveforms to the aligned space.

        Args:
            wav: (batch, samples) float32 at 16 kHz, zero-padded.
            lengths: (batch,) in samples.

        Returns:
            (batch, dim) float32 unit norm.
        """
        feed = {
            "wav": np.asarray(wav, dtype=np.float32),
            "lengths": np.asarray(lengths, dtype=np.int64),
        }
        return self._session.run(None, feed)[0]

    def encode_speech(
        self,
        audio: Sequence[Audio],
        *,
        batch_seconds: float = 60.0,
        sample_rate: int = 16000,
        progress: bool = False,
    ) -> np.ndarray:
        """Embed recordings; as :meth:`Aligner.encode_speech`."""
        return embed_all(
            audio,
            self.dim,
            self.embed_speech,
            batch_seconds=batch_seconds,
            sample_rate=sample_rate,
            progress=progress,
        )

    def transform_text(self, raw: Tensor | np.ndarray) -> Tensor:
        """(texts, dim) from the text encoder -> (texts, dim) unit-norm in the aligned space."""
        return centred(raw, self._mean)

    def encode_text(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Embed texts: (texts, dim) float32 unit norm, in the aligned space."""
        return self.text.encode(texts, self._mean, batch_size=batch_size)

    encode_labels = classifier.encode_labels
    classify = classifier.classify


def ours(folder: Path) -> set[str]:
    """The files of an exported model, for :func:`speechcwcl.files.replace_folder`."""
    return checkpoint.ours(folder, FORMAT)


def write(folder: Path, config: dict[str, Any]) -> None:
    """Write config.json with the size and hash of every file that is in the folder.

    Args:
        folder: holds the graph already.
        config: every key of the format but ``format, version, speechcwcl, files``.
    """
    checkpoint.write_config(folder, config, FORMAT, VERSION)


def read(folder: Path) -> dict[str, Any]:
    """Check a folder and read its config.json.

    Raises:
        UserError: no exported model there, a newer version, an unknown key, a file that is
            missing, truncated, changed or a link.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: not an exported model: it has no config.json")
    config = read_json(path, limit=checkpoint.MOST_JSON)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        saved = isinstance(config, dict) and config.get("format") == "speechcwcl-aligner"
        hint = "; export it first: speechcwcl export" if saved else ""
        raise UserError(f"{path}: not an exported model (format {FORMAT}){hint}")
    checkpoint.check_keys(path, config, VERSION, _KEYS, MODEL)
    numbers = [x for x in config["text_mean"] if isinstance(x, float)]
    if len(numbers) != config["dim"] or len(config["text_mean"]) != config["dim"]:
        raise UserError(f"{path}: key 'text_mean' is not {config['dim']} numbers")
    checkpoint.refuse_links(folder)
    checkpoint.check_files(folder, config["files"])
    return config


def needs(*names: str) -> list[Any]:
    """Import packages of the extra ``onnx``.

    Raises:
        UserError: one of them is not installed.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise UserError(
            f"ONNX models need {error.name or names[0]}: pip install speechcwcl[onnx]"
        ) from error
