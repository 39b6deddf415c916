"""Write the speech side of a model as ONNX, to run without torch's speech encoder.

The folder holds model.onnx (waveforms in, unit-norm embeddings out, any batch and length) and
config.json. --int8 keeps the weights in 8 bits: smaller and usually faster, a little less exact.

Examples:
  speechcwcl export --model exp/cwcl/model --out exp/cwcl/onnx --check
  speechcwcl export --model exp/cwcl/model --out exp/cwcl/onnx_int8 --int8
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from speechcwcl.assets import DEFAULT_MODEL
from speechcwcl.errors import UserError
from speechcwcl.files import refuse_foreign

if TYPE_CHECKING:
    from speechcwcl.export.onnx_model import OnnxAligner
    from speechcwcl.models.aligner import Aligner

# Largest difference of an entry of an embedding, and smallest cosine in int8.
EXACT, COSINE = 1e-4, 0.9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's options to `parser`."""
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="a model folder, or a hub id (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--int8", action="store_true", help="8-bit weights in matrix products")
    parser.add_argument(
        "--check", action="store_true", help="open what was written and compare the embeddings"
    )


def run(args: argparse.Namespace) -> int:
    """Export; print the folder and its size, and with --check the differences."""
    from speechcwcl.export.onnx import export
    from speechcwcl.export.onnx_model import OnnxAligner, ours
    from speechcwcl.models.aligner import Aligner

    refuse_foreign(args.out, ours)  # before minutes of work
    aligner = Aligner.from_pretrained(args.model)
    export(aligner, args.out, int8=args.int8, info={"exported_from": Path(args.model).name})
    size = sum(path.stat().st_size for path in args.out.iterdir()) / 1e6
    print(f"exported: {args.out} ({size:.1f} MB, {'int8' if args.int8 else 'float32'})")
    if args.check:
        check(aligner, OnnxAligner.from_pretrained(args.out), args.int8)
    return 0


def check(aligner: Aligner, exported: OnnxAligner, int8: bool) -> None:
    """Compare the embeddings of noise; a `UserError` where they are too far apart."""
    from speechcwcl.export.onnx import largest_difference

    found = largest_difference(aligner, exported)
    worst = max(found["alone"], found["padded"], found["reversed"])
    print(
        f"checked: largest difference alone {found['alone']:.1e}, padded {found['padded']:.1e}, "
        f"reversed {found['reversed']:.1e}; smallest cosine {found['cosine']:.6f}"
    )
    if worst > EXACT and not int8 or found["cosine"] < COSINE:
        raise UserError("export: the exported model does not give the model's embeddings")
