"""Writing a model as ONNX, exact or with 8-bit weights: the speech side, windows, the text side."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechcwcl.errors import UserError, first_line
from speechcwcl.export.onnx_graph import SpeechGraph, WindowGraph
from speechcwcl.export.onnx_model import FORMAT, MODEL, TEXT, VERSION, WINDOWS, needs, ours
from speechcwcl.files import lock, replace_folder
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.audio_input import embed_all
from speechcwcl.models.folders import write_config
from speechcwcl.models.text_side import TextEncoder
from speechcwcl.models.weights.sources import resolve
from speechcwcl.models.wordpiece import WordPiece
from speechcwcl.zeroshot.grid import GRID

OPSET = 18
# A protobuf file ends at 2 GiB; larger models get their tensors into a second file.
_INLINE = 1_800_000_000


def export(
    aligner: Aligner,
    folder: str | Path,
    *,
    int8: bool = False,
    info: dict[str, Any] | None = None,
) -> None:
    """Write a folder that `OnnxAligner` opens.

    The graph takes `wav` (batch, samples) float32 at 16 kHz and `lengths` (batch,) int64, of
    any batch and length, and gives `embeddings` (batch, dim) of unit norm. A second one embeds
    the windows of a stream (`encode_windows`). The text encoder goes in too, in float32, where it
    is a BERT in plain torch: labels then need no torch either. Other encoders are named.

    Args:
        folder: made, or replaced as a whole when it holds an exported model and nothing else.
        int8: keep the weights of all matrix products as 8-bit integers (activations are quantised
            as they come); convolutions, among them the front end, stay float32.
        info: anything worth knowing (JSON-able), kept under `info`.

    Raises:
        UserError: the speech encoder's family cannot be exported, or the extra is missing.
    """
    needs("onnx", "onnxscript", *(["onnxruntime"] if int8 else []))
    with replace_folder(folder, ours) as scratch:
        for name, graph in ((MODEL, SpeechGraph), (WINDOWS, WindowGraph)):
            exact = scratch / "exact" / name if int8 else scratch / name
            exact.parent.mkdir(exist_ok=True)
            external = _write_graph(aligner, graph, exact)
            if int8:
                _quantise(exact, scratch / name, external)
                shutil.rmtree(exact.parent)
        _write_text(aligner, scratch)
        config = {
            "dim": aligner.dim,
            "sample_rate": 16000,
            "logit_scale": float(aligner.logit_scale.detach()),
            "precision": "int8" if int8 else "float32",
            "speech": {
                "source": aligner.speech_encoder.source,
                "hash": aligner.speech_encoder.hash,
                "options": aligner.speech_encoder.options(),
            },
            "text": asdict(aligner.text.info),
            "text_mean": aligner.text_mean.tolist(),
            "info": {"model": aligner.identity, **(info or {})},
        }
        write_config(scratch, config, FORMAT, VERSION)


def export_once(folder: Path, target: Path, *, int8: bool = False) -> None:
    """Export a saved model to the cache, if nobody has yet."""
    needs("onnxruntime", "onnx", "onnxscript")
    print(f"{folder.name}: exporting to ONNX once, to {target}", file=sys.stderr, flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with lock(target.parent / f".{target.name}.lock"):
        if not (target / "config.json").is_file():
            export(Aligner.from_pretrained(folder), target, int8=int8)


# Largest difference of an entry of an embedding, and smallest cosine in int8.
_EXACT, _COSINE = 1e-4, 0.9


def compare(aligner: Aligner, exported: Any, int8: bool) -> None:
    """Print how near an exported model is to its original, on noise."""
    found = largest_difference(aligner, exported)
    worst = max(found["alone"], found["padded"], found["reversed"])
    print(
        f"checked: largest difference alone {found['alone']:.1e}, padded {found['padded']:.1e}, "
        f"reversed {found['reversed']:.1e}; smallest cosine {found['cosine']:.6f}"
    )
    if worst > _EXACT and not int8 or found["cosine"] < _COSINE:
        raise UserError("export: the exported model does not give the model's embeddings")


def largest_difference(aligner: Aligner, exported: Any) -> dict[str, float]:
    """How far an exported model is from its original on noise: alone, padded, in another order.

    Returns:
        `alone`, `padded`, `reversed`: largest absolute difference of an embedding's entries;
        `cosine`: the smallest between an embedding and its original.
    """
    draw, seconds = np.random.default_rng(0), (1.0, 0.3, 2.2, 0.05)
    clips = [(0.1 * draw.standard_normal(int(s * 16000))).astype(np.float32) for s in seconds]

    def batch(chosen: list[np.ndarray], size: float) -> np.ndarray:
        return embed_all(
            chosen, exported.dim, exported.embed_speech, batch_seconds=size, sample_rate=16000
        )

    wanted = aligner.encode_speech(clips)
    whole = max(seconds) * len(seconds)
    found = {
        "alone": batch(clips, 1e-9),
        "padded": batch(clips, whole),
        "reversed": batch(clips[::-1], whole)[::-1],
    }
    result = {name: float(np.abs(rows - wanted).max()) for name, rows in found.items()}
    cosine = min(float((rows * wanted).sum(axis=1).min()) for rows in found.values())
    return {**result, "cosine": cosine}


class _TextGraph(torch.nn.Module):
    """Token ids to the text encoder's unit-norm embeddings."""

    def __init__(self, encoder: TextEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: torch.Tensor, types: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        names = ("input_ids", "token_type_ids", "attention_mask")
        return self.encoder.embed_tokens(dict(zip(names, (ids, types, mask), strict=True)))


def _write_text(aligner: Aligner, scratch: Path) -> None:
    encoder = aligner.text.encoder("cpu")
    if not isinstance(encoder.tokenizer, WordPiece):
        return
    names = ["input_ids", "token_type_ids", "attention_mask"]
    example = tuple(torch.ones(2, 7, dtype=torch.int64) for _ in names)
    free = torch.export.Dim.DYNAMIC
    program = _traced(_TextGraph(encoder), example, names, ({0: free, 1: free},) * 3)
    program.save(scratch / TEXT)
    source = resolve(aligner.text.info.source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, scratch / name)


def _write_graph(aligner: Aligner, kind: type[SpeechGraph], target: Path) -> bool:
    """Write the exact graph; whether its tensors went into a file of their own."""
    device, training = aligner.device, aligner.training
    graph = kind(aligner.cpu())
    free = torch.export.Dim.DYNAMIC
    # Two clips of unlike lengths: the exporter must not take a size for a constant.
    example: tuple[Tensor, ...] = torch.zeros(2, 20000), torch.tensor([20000, 12000])
    names = ["wav", "lengths"]
    shapes: tuple[dict[int, Any], ...] = ({0: free, 1: free}, {0: free})
    if kind is WindowGraph:
        example, names, shapes = (torch.zeros(2, GRID.block_samples),), names[:1], ({0: free},)
    try:
        program = _traced(graph, example, names, shapes)
    except UserError:
        raise
    except Exception as error:  # of torch's exporter, and it has many
        model_type = aligner.speech_encoder.family.config.model_type
        why = first_line(error)
        raise UserError(f"export: torch cannot export this {model_type} encoder: {why}") from error
    finally:
        aligner.to(device).train(training)
    size = sum(t.numel() * t.element_size() for t in graph.state_dict().values())
    program.save(target, external_data=size > _INLINE)
    return size > _INLINE


def _traced(
    graph: torch.nn.Module, example: tuple[Tensor, ...], names: list[str], shapes: Any
) -> Any:
    # torch's own transformer layers have a fused inference path, which no exporter knows.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), _quiet():
            return torch.onnx.export(
                graph,
                example,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=names,
                output_names=["embeddings"],
                dynamic_shapes=shapes,
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _quantise(exact: Path, target: Path, external: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            exact,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            # Seven bits: on processors without VNNI, sums of products of eight overflow.
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=external,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' chatter off the terminal."""
    names = ["torch.onnx", "onnxscript", "onnx_ir", "root", "onnxruntime"]
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
