"""An exported model, run by onnxruntime: the same words and results as :class:`Aligner`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechcwcl.errors import UserError
from speechcwcl.export import onnx_folder
from speechcwcl.export.onnx_extra import needs
from speechcwcl.models.audio_input import Audio, embed_all
from speechcwcl.models.text_side import TextInfo, TextSide, centred
from speechcwcl.zeroshot import classifier


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
        config = onnx_folder.read(path)
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = runtime.InferenceSession(
                path / onnx_folder.MODEL, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no class
            why = str(error).strip().splitlines()[0]
            raise UserError(f"{path / onnx_folder.MODEL}: onnxruntime refuses it: {why}") from error
        taken = [*session.get_inputs(), *session.get_outputs()]
        if [tensor.name for tensor in taken] != ["wav", "lengths", "embeddings"]:
            raise UserError(f"{path / onnx_folder.MODEL}: not the graph of `speechcwcl export`")
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
