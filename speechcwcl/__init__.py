"""speechcwcl: align a speech encoder to a frozen text encoder (CWCL, arXiv 2309.14580).

Example:

    import speechcwcl

    model = speechcwcl.load("exp/cwcl/model")
    model.classify(["clip.wav"], ["turn on the light", "play music"])

    run = speechcwcl.train("conf/cwcl.yaml", train="dump/train/manifest.jsonl",
                           valid=["test:my_words"], expdir="exp/mine")
    run.model().encode_speech(["clip.wav"])

What stands in `__all__` is the public interface. Importing the package imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from speechcwcl.models.aligner import Aligner
    from speechcwcl.training.run import Experiment

__version__ = "0.1.0"
__all__ = ["classify", "load", "register", "train"]


def load(
    model: str | os.PathLike = "en-tiny",
    *,
    device: str | None = "cpu",
    onnx: bool = False,
    int8: bool = False,
    threads: int | None = None,
) -> Aligner | Any:
    """Open a trained model.

    Args:
        model: a folder (`EXPDIR/model`, a packed or an exported one), a hub id, or
            `en-tiny`, which comes with the package.
        device: `cpu`, `cuda:0`, ...; `None`: a GPU when there is one.
        onnx: onnxruntime runs it, with the same methods: a folder of `speechcwcl export`, or any
            model, which is exported to the cache when it is first opened so.
        int8: with `onnx`: export with 8-bit weights.
        threads: with `onnx`: of the CPU; `None`: all cores.

    Raises:
        UserError: not a model, no such device, or the extra for ONNX is not installed.
    """
    if onnx:
        from speechcwcl.errors import require
        from speechcwcl.export.onnx_model import OnnxAligner, place_of
        from speechcwcl.models.weights.sources import locate

        cpu = device in (None, "cpu")
        require(cpu, f"--device {device}: an ONNX model runs on the CPU; leave --device out")
        folder = locate(model)
        place = place_of(folder, int8=int8)
        if place != folder and not (place / "config.json").is_file():
            from speechcwcl.export.onnx import export_once

            export_once(folder, place, int8=int8)
        return OnnxAligner.from_pretrained(place, threads=threads)
    from speechcwcl.models.aligner import Aligner

    return Aligner.from_pretrained(model, device=device)


def classify(
    model: str | os.PathLike | Any,
    audio: Sequence[Any],
    labels: Sequence[str] | Mapping[str, str | Sequence[str]],
    **options: Any,
) -> list[list[dict[str, Any]]]:
    """Classify recordings by labels written in words, with no training.

    Args:
        model: what [`load`][] takes, or what it gave.
        audio: files, or one-dimensional arrays or tensors at 16 kHz.
        labels: the texts, or `{label: text or texts}`.
        **options: those of [`zeroshot.classify`][speechcwcl.zeroshot.classifier.classify].

    Returns:
        For each recording `[{"label", "score", "cosine"}, ...]`, the best first.
    """
    opened: Any = model if hasattr(model, "encode_speech") else load(model)
    return opened.classify(audio, labels, **options)


def train(
    config: str | os.PathLike | Mapping[str, Any] | Any,
    *,
    train: str | os.PathLike,
    valid: Sequence[str] = (),
    expdir: str | os.PathLike,
    **options: Any,
) -> Experiment:
    """Train the speech side, or go on with a run that was interrupted.

    Args:
        config: a training YAML, its keys as a dictionary, or a `TrainConfig`.
        train: the training set: a `manifest.jsonl`, or a `stream.json`.
        valid: `SET:PROTOCOL` pairs that choose the checkpoints, such as `"test:retrieval"`.
        **options: those of [`training.run.train`][speechcwcl.training.run.train].

    Returns:
        The experiment: its folder, its metrics and `model()`.
    """
    from speechcwcl.training.run import train as run

    return run(config, train=train, valid=valid, expdir=expdir, **options)


def register() -> None:
    """Let transformers' pipelines and Auto classes open our model folders."""
    from speechcwcl.export.pipeline import register as register_classes

    register_classes()
