"""An exported model, run by onnxruntime: the same words and results as `Aligner`.

Its folder holds `model.onnx` and plain JSON, checked strictly: `config.json` names every
other file with its size and sha256. An ONNX file is a graph of known operators and runs no code of
its own; onnxruntime opens no file outside the folder for it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speechcwcl.errors import UserError
from speechcwcl.files import cache_folder, read_json, sha256_file
from speechcwcl.models import folders
from speechcwcl.models.audio_input import Audio, embed_all
from speechcwcl.models.folders import TextInfo
from speechcwcl.models.wordpiece import open_wordpiece
from speechcwcl.zeroshot import classifier, enrolment

if TYPE_CHECKING:
    from torch import Tensor

    from speechcwcl.models.text_side import TextSide

FORMAT = "speechcwcl-onnx"
VERSION = 1
MODEL = "model.onnx"
WINDOWS = "windows.onnx"  # embeds the windows of a stream
TEXT = "text.onnx"  # the text encoder, in exports that hold it
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

    `classify`, `encode_labels` and `enrol` are those of [`Aligner`][].
    """

    def __init__(self, session: Any, config: dict[str, Any], text: TextInfo):
        self._session = session
        self._windows: Callable[[], Any] | None = None
        self._mean = np.array(config["text_mean"], dtype=np.float32)
        self._text: tuple[Any, Any] | None = None
        self.config = config
        self.text_info = text
        self.dim: int = config["dim"]
        self.logit_scale: float = config["logit_scale"]
        self.precision: str = config["precision"]

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike, *, threads: int | None = None
    ) -> OnnxAligner:
        """Open a folder of `speechcwcl export`; runs no code of it.

        Args:
            threads: of the CPU; `None` leaves it to onnxruntime, that is, all cores.

        Raises:
            UserError: not an exported model, from a newer version, truncated, changed, or
                onnxruntime is not installed.
        """
        [runtime] = needs("onnxruntime")
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; make one: speechcwcl export")
        config = read(path)
        session = _session(runtime, path / MODEL, threads)
        taken = [*session.get_inputs(), *session.get_outputs()]
        if [tensor.name for tensor in taken] != ["wav", "lengths", "embeddings"]:
            raise UserError(f"{path / MODEL}: not the graph of `speechcwcl export`")
        try:
            model = cls(session, config, TextInfo(**config["text"]))
        except TypeError as error:
            raise UserError(f"{path / 'config.json'}: not as expected: {error}") from error
        if WINDOWS in config["files"]:  # opened when a stream comes
            model._windows = lru_cache(partial(_session, runtime, path / WINDOWS, threads))
        if TEXT in config["files"]:
            model._text = open_wordpiece(path), _session(runtime, path / TEXT, threads)
        return model

    @property
    def identity(self) -> str:
        """The `Aligner.identity` of the model that was exported."""
        return self.config["info"].get("model", self.config["files"][MODEL]["sha256"])

    @cached_property
    def text(self) -> TextSide:
        """The text encoder by its name, for exports that do not hold it."""
        from speechcwcl.models.text_side import TextSide

        return TextSide(self.text_info)

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
        """Embed recordings; as `Aligner.encode_speech`."""
        return embed_all(
            audio,
            self.dim,
            self.embed_speech,
            batch_seconds=batch_seconds,
            sample_rate=sample_rate,
            progress=progress,
        )

    def encode_windows(self, blocks: np.ndarray) -> np.ndarray:
        """Embed windows over blocks of sound; as `Aligner.encode_windows`."""
        if self._windows is None:
            raise UserError("this ONNX folder is of an older speechcwcl; export the model again")
        return self._windows().run(None, {"wav": blocks})[0]

    def transform_text(self, raw: Tensor | np.ndarray) -> Tensor:
        """(texts, dim) from the text encoder -> (texts, dim) unit-norm in the aligned space."""
        import torch

        from speechcwcl.models.text_side import centred

        return centred(raw, torch.from_numpy(self._mean))

    def encode_text(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Embed texts: (texts, dim) float32 unit norm, in the aligned space."""
        if self._text is None:
            import torch

            return self.text.encode(texts, torch.from_numpy(self._mean), batch_size=batch_size)
        tokenizer, session = self._text
        texts = [text.lower() for text in texts] if self.text_info.lower else list(texts)
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(texts), batch_size):
            feed = tokenizer.encode(texts[start : start + batch_size], self.text_info.max_tokens)
            rows[start : start + batch_size] = session.run(None, feed)[0]
        return classifier.unit_rows(rows - self._mean)

    encode_labels = classifier.encode_labels
    classify = classifier.classify
    enrol = enrolment.enrol
    open_keywords = enrolment.open_keywords


def _session(runtime: Any, path: Path, threads: int | None) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class
        why = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: onnxruntime refuses it: {why}") from error


def place_of(folder: Path, *, int8: bool = False) -> Path:
    """Where the ONNX form of a saved model is in the cache, or will be.

    Args:
        folder: of a saved model; one that is exported already is given back as it is.
        int8: with 8-bit weights.
    """
    path = folder / "config.json"
    if not path.is_file() or read_json(path, dict, limit=folders.MOST_JSON).get("format") == FORMAT:
        return folder
    # Its config.json has the hashes of the weights and of both encoders.
    kind = "int8" if int8 else "exact"
    return cache_folder() / "onnx" / f"{folder.name}-{kind}-{sha256_file(path)[:16]}"


ours = partial(folders.ours, form=FORMAT)  # for `speechcwcl.files.replace_folder`


def read(folder: Path) -> dict[str, Any]:
    """Check a folder and read its config.json.

    Raises:
        UserError: no exported model there, a newer version, an unknown key, a file that is
            missing, truncated, changed or a link.
    """
    kind = ("an exported model", FORMAT, VERSION, _KEYS, MODEL)
    config = folders.read_config(folder, *kind)
    numbers = [x for x in config["text_mean"] if isinstance(x, float)]
    if len(numbers) != config["dim"] or len(config["text_mean"]) != config["dim"]:
        path = folder / "config.json"
        raise UserError(f"{path}: key 'text_mean' is not {config['dim']} numbers")
    folders.refuse_links(folder)
    folders.check_files(folder, config["files"])
    return config


def needs(*names: str) -> list[Any]:
    """Import packages of the extra `onnx`."""
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise UserError(
            f"ONNX models need {error.name or names[0]}: pip install speechcwcl[onnx]"
        ) from error
