"""Put a trained model into one folder to share: safetensors, plain JSON, model card."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechcwcl.models.aligner import Aligner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("expdir", type=Path, help="experiment folder")
    parser.add_argument("--out", type=Path, help="the folder to write; left out: EXPDIR/packed")
    parser.add_argument(
        "--with_towers",
        action="store_true",
        help="put the frozen encoders in too, so that nothing is fetched",
    )


def run(args: argparse.Namespace) -> int:
    aligner = Aligner.from_pretrained(args.expdir / "model")
    out = args.out or args.expdir / "packed"
    aligner.save_pretrained(out, with_towers=args.with_towers)
    for name in ("RESULTS.md",):
        source = args.expdir / name
        if source.exists():
            (out / name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    print(f"packed: {out}")
    return 0
