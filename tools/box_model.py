#!/usr/bin/env python3
"""Put a trained model into the package: its tensors in float16, its card beside them.

Example:
  tools/box_model.py --model egs/release/cwcl1/exp/en-tiny/model \\
      --card egs/release/cwcl1/CARD.md --name en-tiny
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from safetensors.torch import load_file

from speechcwcl.assets import boxed_models
from speechcwcl.errors import UserError, require
from speechcwcl.files import replace_folder
from speechcwcl.models import checkpoint, folders

MOST_BYTES = 12_000_000
ASSETS = Path(__file__).resolve().parents[1] / "speechcwcl/assets"


def box(model: Path, card: Path, target: Path, windows: list[float], longer_than: float) -> int:
    """Write the folder; its weights' size in bytes.

    Args:
        model: the folder of a trained model.
        card: the model card.
        target: the folder to write.
        windows: seconds of the windows over long recordings; none: they are looked at as a whole.
        longer_than: seconds above which a recording is long.

    Raises:
        UserError: no model, or one of more than `MOST_BYTES`.
    """
    config, _ = checkpoint.read(model)
    state = load_file(model / folders.WEIGHTS)
    require(not config["towers"], f"{model}: has its towers inside; box one without them")
    halves = {name: tensor.half() for name, tensor in state.items()}
    size = sum(2 * tensor.numel() for tensor in halves.values())
    require(size <= MOST_BYTES, f"{model}: {size} bytes in float16, more than {MOST_BYTES}")
    if windows:
        config["windows"] = {"seconds": windows, "longer_than": longer_than}
    with replace_folder(target, folders.ours) as scratch:
        checkpoint.write(scratch, config, halves, card=card.read_text(encoding="utf-8"))
    return size


def main(argv: list[str] | None = None) -> int:
    """Run; exit code 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="EXPDIR/model")
    parser.add_argument("--card", type=Path, required=True, help="the model card")
    parser.add_argument("--name", default="en-tiny", help="its name (default: %(default)s)")
    parser.add_argument("--windows", type=float, nargs="*", default=[], help="seconds each")
    parser.add_argument("--longer_than", type=float, default=5.0, help="seconds of a long clip")
    args = parser.parse_args(argv)
    try:
        target = ASSETS / args.name
        size = box(args.model, args.card, target, args.windows, args.longer_than)
        print(f"{boxed_models()[args.name]}: {size / 1e6:.1f} MB")
        return 0
    except UserError as error:
        print(f"box_model: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
