#!/usr/bin/env python3
"""Put a trained model into the package: its tensors in float16, its card beside them.

With --rank the first layer of its projection becomes two thinner ones: those that change least of
what it makes of the --clips.

Example:
  tools/box_model.py --model egs/release/cwcl1/exp/en-tiny/model \\
      --card egs/release/cwcl1/CARD.md --rank 320 --clips dump/train/manifest.jsonl
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from speechcwcl.assets import boxed_models
from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import UserError, require
from speechcwcl.files import replace_folder
from speechcwcl.models import checkpoint, folders
from speechcwcl.models.aligner import Aligner

MOST_BYTES = 12_000_000
ASSETS = Path(__file__).resolve().parents[1] / "speechcwcl/assets"


def factorised(model: Path, state: dict[str, Tensor], rank: int, clips: Path) -> dict[str, Tensor]:
    """The state with the first layer of the projection as two, by the clips' covariance.

    Of all pairs of layers of this rank it is the one whose output over the clips is nearest in the
    mean square: a singular value decomposition of W C^(1/2), C the second moments of the input.
    """
    aligner, seen = Aligner.from_pretrained(model), []
    norm, layer = aligner.projection.steps[0], "projection.steps.1"
    require(f"{layer}.weight" in state, f"{model}: its projection has no layer that could be two")
    norm.register_forward_hook(lambda module, given, out: seen.append(out))
    found = list(Manifest(clips))
    chosen = random.Random(0).sample(found, min(1500, len(found)))
    aligner.encode_speech([clip.load() for clip in chosen], progress=True)
    rows = torch.cat(seen).double()
    moments = rows.T @ rows / len(rows)
    moments += 0.05 * moments.diagonal().mean() * torch.eye(len(moments))  # for what they lack
    values, vectors = torch.linalg.eigh(moments)
    root, back = (vectors * values**power @ vectors.T for power in (0.5, -0.5))
    left, size, right = torch.linalg.svd(state.pop(f"{layer}.weight").double() @ root, False)
    both = size[:rank].sqrt()
    return state | {
        f"{layer}.0.weight": (both[:, None] * right[:rank] @ back).float(),
        f"{layer}.1.weight": (left[:, :rank] * both).float(),
        f"{layer}.1.bias": state.pop(f"{layer}.bias"),
    }


def box(
    model: Path,
    card: Path,
    target: Path,
    windows: list[float],
    longer_than: float,
    thin: tuple[int, Path] | None = None,
) -> int:
    """Write the folder; its weights' size in bytes.

    Args:
        model: the folder of a trained model.
        card: the model card.
        target: the folder to write.
        windows: seconds of the windows over long recordings; none: they are looked at as a whole.
        longer_than: seconds above which a recording is long.
        thin: the rank of the projection's first layer, and the clips that choose it.

    Raises:
        UserError: no model, or one of more than `MOST_BYTES`.
    """
    config, _ = checkpoint.read(model)
    state = load_file(model / folders.WEIGHTS)
    require(not config["towers"], f"{model}: has its towers inside; box one without them")
    if thin:
        state = factorised(model, state, *thin)
        config["projection"]["rank"] = thin[0]
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
    parser.add_argument("--rank", type=int, help="of the projection's first layer (default: full)")
    parser.add_argument("--clips", type=Path, metavar="MANIFEST", help="what --rank is chosen by")
    args = parser.parse_args(argv)
    try:
        target = ASSETS / args.name
        require(not args.rank or args.clips is not None, "--rank: --clips MANIFEST is missing")
        thin = (args.rank, args.clips) if args.rank else None
        size = box(args.model, args.card, target, args.windows, args.longer_than, thin)
        print(f"{boxed_models()[args.name]}: {size / 1e6:.1f} MB")
        return 0
    except UserError as error:
        print(f"box_model: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
