"""The options by which verbs are told a trained model."""

from __future__ import annotations

import argparse


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--device`` and ``--onnx``."""
    parser.add_argument(
        "--model", required=True, help="a model folder (EXPDIR/model or a packed one), or a hub id"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, ...")
    parser.add_argument(
        "--onnx", action="store_true", help="MODEL is a folder of `speechcwcl export`"
    )
