#!/usr/bin/env python3
"""Embed texts for terms of terms.py: those of a training set, or those that nobody speaks in it.

Without --free, the unique texts of MANIFEST by another encoder, for the term `taught`; with it, the
texts of another manifest that MANIFEST lacks, centred as the training centres, for `free_texts`.

Examples:
    recipes/cwcl/ablation/teacher.py dump/train_6h/manifest.jsonl all-mpnet-base-v2 exp/teacher.npy
    recipes/cwcl/ablation/teacher.py dump/train_6h/manifest.jsonl all-MiniLM-L6-v2 exp/free.npy \\
        --free dump/train/manifest.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import UserError
from speechcwcl.files import atomic_path
from speechcwcl.models.text_side import TextEncoder, centred


def main() -> int:
    """Write (texts, dim) float32, unit norm, in the order of the sorted unique texts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("encoder", help="name or folder of a text encoder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--free", type=Path, metavar="MANIFEST", help="its texts are embedded")
    args = parser.parse_args()
    try:
        texts = {utterance.text or "" for utterance in Manifest(args.manifest)}
        encoder = TextEncoder.from_pretrained(args.encoder)
        found = encoder.encode(sorted(texts), progress=True)
        if args.free:
            free = sorted({utterance.text or "" for utterance in Manifest(args.free)} - texts)
            print(f"{len(free)} texts that are not in {args.manifest}")
            mean = torch.from_numpy(found).mean(dim=0)
            found = centred(encoder.encode(free, progress=True), mean).numpy()
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(args.out) as target, target.open("wb") as file:
            np.save(file, found)
    except UserError as error:
        print(f"teacher: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
