#!/usr/bin/env python3
"""Embed the texts of a training set by another text encoder, for the term `taught` of terms.py.

Example:
    recipes/cwcl/ablation/teacher.py dump/train_6h/manifest.jsonl all-mpnet-base-v2 exp/teacher.npy
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import UserError
from speechcwcl.files import atomic_path
from speechcwcl.models.text_side import TextEncoder


def main() -> int:
    """Write (texts, dim) float32, unit norm, in the order of the sorted unique texts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("encoder", help="name or folder of a text encoder")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    try:
        texts = sorted({utterance.text or "" for utterance in Manifest(args.manifest)})
        encoder = TextEncoder.from_pretrained(args.encoder)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(args.out) as target, target.open("wb") as file:
            np.save(file, encoder.encode(texts, progress=True))
    except UserError as error:
        print(f"teacher: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
