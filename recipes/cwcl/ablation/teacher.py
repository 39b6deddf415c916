#!/usr/bin/env python3
"""Embed texts for terms of terms.py: those of a training set, or those that nobody speaks in it.

Alone, the unique texts of MANIFEST by another text encoder, for the term `taught`. With --free, the
texts of another manifest, or the lines of a .txt, that MANIFEST lacks, centred as the training
centres, for `free_texts`.
With --heard, ENCODER is a trained model or several of the same training texts, and each text gets
the mean of what they make of the clips that say it, for `distilled`.

Examples:
    recipes/cwcl/ablation/teacher.py dump/train_6h/manifest.jsonl all-mpnet-base-v2 exp/teacher.npy
    recipes/cwcl/ablation/teacher.py dump/train_6h/manifest.jsonl all-MiniLM-L6-v2 exp/free.npy \\
        --free dump/train/manifest.jsonl
    recipes/cwcl/ablation/teacher.py dump/train_6h/manifest.jsonl en-tiny exp/heard.npy --heard
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

import speechcwcl
from speechcwcl.cache.embed import embed_manifest
from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import UserError, require
from speechcwcl.files import atomic_path, read_text
from speechcwcl.models.text_side import TextEncoder, centred


def heard(models: list[str], manifest: Manifest, texts: list[str]) -> np.ndarray:
    """(texts, dim) float32, unit norm: the mean of the models' embeddings of each text's clips."""
    rows = sum(embed_manifest(speechcwcl.load(m), manifest, progress=f"hear {m}") for m in models)
    at = {text: row for row, text in enumerate(texts)}
    found = np.zeros((len(texts), rows.shape[1]), dtype=np.float32)
    np.add.at(found, [at[utterance.text or ""] for utterance in manifest], rows)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def texts_of(path: Path) -> list[str]:
    """The texts of a manifest, or the lines of a .txt."""
    if path.suffix == ".txt":
        return [line for line in read_text(path).splitlines() if line.strip()]
    return [utterance.text or "" for utterance in Manifest(path)]


def main() -> int:
    """Write (texts, dim) float32, unit norm, in the order of the sorted unique texts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("encoder", nargs="+", help="name or folder of a text encoder, or of models")
    parser.add_argument("out", type=Path)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--free", type=Path, metavar="FILE", help="its texts are embedded")
    kind.add_argument("--heard", action="store_true", help="the clips are embedded by a model")
    args = parser.parse_args()
    try:
        manifest = Manifest(args.manifest)
        texts = sorted(set(texts_of(args.manifest)))
        if args.heard:
            found = heard(args.encoder, manifest, texts)
        else:
            require(len(args.encoder) == 1, f"one text encoder, not {len(args.encoder)}")
            encoder = TextEncoder.from_pretrained(args.encoder[0])
            found = encoder.encode(texts, progress=True)
        if args.free:
            free = sorted(set(texts_of(args.free)) - set(texts))
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
