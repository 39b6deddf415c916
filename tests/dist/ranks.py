"""What every rank of `test_ranks.py` runs (see launch.py).

Each case computes the gradient of one batch that is spread unevenly over the ranks, and in the same
process that of the whole batch; rank 0 writes how far apart the two are.
"""

import contextlib
import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from speechcwcl.losses import TextBank, build_loss
from speechcwcl.training.cached_gradients import CachedGradients, split_batch

SHARES = {2: [0.6, 0.4], 4: [0.4, 0.3, 0.25, 0.05]}


class Encoder(nn.Module):
    """Two layers and unit-norm rows, the same weights on every rank."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(dim, 16), nn.Tanh(), nn.Linear(16, dim)).double()

    def forward(self, x):
        return normalize(self.layers(x), dim=1)


def rows(count, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, dim, dtype=torch.float64, generator=generator), dim=1)


def spans(count):
    """Where each rank's rows begin and end; the last rank of four holds one."""
    cuts = [0]
    for share in SHARES[dist.get_world_size()]:
        cuts.append(cuts[-1] + max(1, round(share * count)))
    cuts[-1] = count
    return list(zip(cuts, cuts[1:], strict=False))


def gradient(*modules):
    found = [p.grad.flatten().double() for m in modules for p in m.parameters()]
    return torch.cat(found) if found else torch.zeros(0)


def wrapped(module):
    return DistributedDataParallel(module) if any(True for _ in module.parameters()) else module


def error(spec, count=23, dim=8, ids=None, with_bank=False, chunk=None, **options):
    """Relative error of the gradient; `chunk` turns on cached gradients."""
    bank = TextBank(rows(60, dim, seed=7)) if with_bank else None
    text = rows(count, dim, seed=2) if bank is None else bank.matrix[:count]
    text = text if ids is None else text[ids]
    inputs = text + 0.5 * rows(count, dim, seed=3)
    numbers = torch.arange(count) if ids is None else ids

    encoder, loss = Encoder(dim), build_loss(spec, gather=False)
    loss(encoder(inputs), text, numbers, bank).total.backward()
    whole = gradient(encoder, loss)

    lo, hi = spans(count)[dist.get_rank()]
    encoder, loss = wrapped(Encoder(dim)), wrapped(build_loss(spec, **options))
    mine = text[lo:hi], numbers[lo:hi], bank
    if chunk is None:
        loss(encoder(inputs[lo:hi]), *mine).total.backward()
    else:

        @contextlib.contextmanager
        def no_sync():
            with encoder.no_sync(), loss.no_sync():
                yield

        CachedGradients(chunk).backward(
            split_batch(inputs[lo:hi], chunk),
            encoder,
            lambda e: loss(e, *mine).total,
            no_sync=no_sync,
        )
    return float((gradient(encoder, loss) - whole).norm() / whole.norm())


def cases():
    same = torch.arange(23) // 3
    mixed = {"cwcl": {"anchor": "both", "weighting": "softmax"}, "cosine": 2, "clip": 1}
    return {
        "closed form": error("cwcl"),
        "matrix of targets": error("cwcl", dim=16),
        "even": error("cwcl", count=20),
        "equal transcripts": error("cwcl", ids=same),
        "clip": error("clip"),
        "siglip": error("siglip"),
        "supcon": error("supcon", ids=same),
        "mixed": error(mixed),
        "bank": error("cwcl", with_bank=True),
        "bank, both anchors": error({"cwcl": {"anchor": "both"}}, with_bank=True),
        "cached gradients": error("cwcl", chunk=4),
        "cached gradients, bank": error("cwcl", chunk=5, with_bank=True),
        "wrong: nothing gathered": error("cwcl", count=40, gather=False),
    }


def main(folder):
    dist.init_process_group("gloo")
    found = cases()
    if dist.get_rank() == 0:
        out = Path(folder) / f"{dist.get_world_size()}.json"
        out.write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()
