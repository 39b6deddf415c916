"""Opening a trained model for use, in torch or in ONNX."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--device`` and ``--onnx``."""
    parser.add_argument(
        "--model", required=True, help="a model folder (EXPDIR/model or a packed one), or a hub id"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, ...")
    parser.add_argument(
        "--onnx", action="store_true", help="MODEL is a folder of `speechcwcl export`"
    )


def open_model(folder: str | Path, device: str = "cpu", onnx: bool = False) -> Any:
    """An aligner, or its exported twin with the same methods.

    Raises:
        UserError: not a model, no such device, or the extra for ONNX is not installed.
    """
    if onnx:
        if device != "cpu":
            raise UserError(f"--device {device}: an ONNX model runs on the CPU; leave --device out")
        try:
            module = importlib.import_module("speechcwcl.export.onnx_model")
            return module.OnnxAligner.from_pretrained(folder)
        except ImportError as error:
            raise UserError(
                f"--onnx: {error}; install what it needs: pip install 'speechcwcl[onnx]'"
            ) from error
    model = Aligner.from_pretrained(folder)
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        why = (str(error).strip().splitlines() or [repr(error)])[0]
        raise UserError(f"--device {device}: {why}; use --device cpu") from error
