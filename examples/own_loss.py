#!/usr/bin/env python3
"""A loss of your own: a hinge over the hardest wrong text of the batch, added to CWCL.

  python examples/own_loss.py dump/train/manifest.jsonl --expdir exp/hinge

A training YAML names this file with `loss_file: own_loss.py` and the loss by its name; from
Python the configuration does the same. The package is not touched.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

import speechcwcl
from speechcwcl.losses import term


@term("hardest")
def hardest(speech: Tensor, text: Tensor, text_ids: Tensor | None = None, margin: float = 0.2):
    """The own text must be nearer than the nearest wrong one, by a margin.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm, row i the transcript of speech i.
        text_ids: (N,) equal where transcripts are equal: those are not wrong.
        margin: in cosine.
    """
    cosines = speech @ text.T
    own = cosines.diagonal()
    ids = text_ids.to(cosines.device) if text_ids is not None else own.new_tensor(range(len(own)))
    wrong = cosines.masked_fill(ids[:, None] == ids[None, :], -1.0)
    return (margin + wrong.max(dim=1).values - own).relu().mean()


def train(manifest: Path, expdir: Path, **config: object) -> list[dict]:
    """Train with both losses; returns what was measured in each epoch."""
    settings = {
        "loss_file": str(Path(__file__).resolve()),
        "loss": {"cwcl": 1, "hardest": {"weight": 5, "margin": 0.1}},
        "epochs": 8,
    }
    return speechcwcl.train(settings | config, train=manifest, expdir=expdir).metrics


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, help="dump/train/manifest.jsonl")
    parser.add_argument("--expdir", type=Path, required=True)
    options = parser.parse_args()
    for epoch in train(options.manifest, options.expdir):
        losses = epoch["train"]
        print(f"cwcl {losses['cwcl']:.3f}, hardest {losses['hardest']:.3f}")


if __name__ == "__main__":
    main()
