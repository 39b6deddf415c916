#!/usr/bin/env python3
"""Train an adapter on texts alone, put it behind a trained model, and validate.

The adapter is a small residual network over an embedding. It sees the texts of MANIFEST with
Gaussian noise and learns to take the noise away, in the hope that what speech does to an embedding
is like noise. One row for each amount of noise; the first row is the model as it is.

Example (from egs/release/cwcl1):
    ../../../recipes/cwcl/ablation/adapter.py en-tiny dump/train/manifest.jsonl \\
        --dump dump --valid valid_digits:digits_10 valid_read:retrieval valid_slurp:slurp_intent
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import trange

import speechcwcl
from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import UserError
from speechcwcl.evaluation.evals import make_validator, parse_evals


class Adapted(nn.Module):
    """A projection with the adapter behind it."""

    def __init__(self, projection: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.projection, self.net = projection, net

    def forward(self, pooled: Tensor) -> Tensor:
        """(batch, in_dim) -> (batch, 1, out_dim), unit norm."""
        return adapted(self.net, normalize(self.projection(pooled).mean(1), dim=-1))[:, None]


def adapted(net: nn.Module, rows: Tensor) -> Tensor:
    """(N, dim) unit norm -> the same, moved by the adapter."""
    return normalize(rows + net(rows), dim=-1)


def trained(texts: Tensor, noise: float, steps: int = 3000, batch: int = 512) -> nn.Module:
    """An adapter that takes noise of this length (texts have length 1) from (N, dim) texts."""
    torch.manual_seed(0)
    dim = texts.shape[1]
    net = nn.Sequential(nn.Linear(dim, 1024), nn.GELU(), nn.Linear(1024, dim))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in trange(steps, desc=f"noise {noise}"):
        clean = texts[torch.randint(len(texts), (batch,))]
        noisy = normalize(clean + noise * torch.randn_like(clean) / dim**0.5, dim=-1)
        loss = (1 - (adapted(net, noisy) * clean).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder or name of a trained model")
    parser.add_argument("manifest", type=Path, help="its texts train the adapter")
    parser.add_argument("--dump", type=Path, default=Path("dump"), help="default: %(default)s")
    parser.add_argument("--valid", nargs="+", required=True, metavar="SET:PROTOCOL")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.3, 0.7, 1.0, 2.0])
    args = parser.parse_args()
    try:
        pairs = parse_evals(args.valid)
        model = speechcwcl.load(args.model)
        texts = model.encode_text(sorted({u.text or "" for u in Manifest(args.manifest)}))
        validate = make_validator(pairs, args.dump)[0](model)
        plain = model.projection
        print("| noise | mean | " + " | ".join(name for name, _ in pairs) + " |")
        print("|" + "---|" * (len(pairs) + 2))
        for noise in (0.0, *args.noise):
            if noise:
                model.projection = Adapted(plain, trained(torch.from_numpy(texts), noise))
            scores = validate(model)
            cells = [scores["score"], *(v for key, v in scores.items() if key != "score")]
            print(f"| {noise or 'none'} | " + " | ".join(f"{100 * c:.1f}" for c in cells) + " |")
    except UserError as error:
        print(f"adapter: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
