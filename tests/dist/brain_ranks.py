"""Cached gradients in a SpeechBrain Brain under DDP (see launch.py).

Three steps on batches that two ranks share unevenly; then, in the same process, three steps of a
Brain on its own with whole batches. Rank 0 writes how far apart the weights end.
"""

import dataclasses
import json
import math
from pathlib import Path

import speechbrain as sb
import torch
import torch.distributed as dist
from ranks import Encoder, rows

from speechcwcl.losses import build_loss
from speechcwcl.training.cached_gradients import CachedGradients

DIM, COUNT, STEPS = 8, 20, 3


@dataclasses.dataclass
class Pairs:
    """A batch."""

    inputs: torch.Tensor
    text: torch.Tensor


class Brain(sb.Brain):
    """`chunk` turns on cached gradients."""

    chunk, embedded = None, 0

    def compute_forward(self, batch, stage):
        self.embedded += 1
        return self.modules["encoder"](batch.inputs)

    def compute_objectives(self, predictions, batch, stage):
        return self.modules["loss"](predictions, batch.text).total

    def fit_batch(self, batch):
        if self.chunk is None:
            return super().fit_batch(batch)
        return CachedGradients(self.chunk).fit_batch(self, batch)


def fit(part, chunk, distributed, accumulation):
    """The weights after training on `part` of every batch."""
    batches = []
    for step in range(STEPS):
        text = rows(COUNT, DIM, seed=10 + step)
        noise = rows(COUNT, DIM, seed=20 + step)[part]
        batches.append(Pairs(text[part] + 0.5 * noise, text[part]))
    run_opts = {
        "device": "cpu",
        "noprogressbar": True,
        "distributed_launch": distributed,
        "distributed_backend": "gloo",
        "grad_accumulation_factor": accumulation,
    }
    modules = {"encoder": Encoder(DIM), "loss": build_loss("cwcl", gather=distributed)}
    brain = Brain(modules, lambda p: torch.optim.SGD(p, lr=0.05), run_opts=run_opts)
    brain.chunk = chunk
    loader = torch.utils.data.DataLoader(batches, batch_size=1, collate_fn=lambda items: items[0])
    brain.fit(range(1), loader)
    assert brain.embedded == STEPS * (
        1 if chunk is None else 2 * math.ceil(len(text[part]) / chunk)
    )
    return torch.cat([p.detach().flatten().double() for p in brain.modules.parameters()])


def main(out):
    dist.init_process_group("gloo")
    part = [slice(0, 13), slice(13, COUNT)][dist.get_rank()]
    start = torch.cat([p.detach().flatten() for p in Encoder(DIM).parameters()])
    found = {}
    for accumulation in (1, 3):
        expected = fit(slice(None), None, False, accumulation)
        moved = float((expected[: len(start)] - start).norm())
        for name, chunk in (("whole", None), ("cached", 4)):
            gap = float((fit(part, chunk, True, accumulation) - expected).norm())
            found[f"{name}, accumulation {accumulation}"] = gap / moved
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()
