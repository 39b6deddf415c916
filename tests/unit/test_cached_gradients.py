"""Cached gradients: the gradient of one big batch, with and without randomness, AMP and Brain."""

import dataclasses
import random

import losses_reference as reference
import numpy as np
import pytest
import speechbrain as sb
import torch
from torch import nn
from torch.nn.functional import normalize

from speechcwcl.errors import UserError
from speechcwcl.losses import build_loss
from speechcwcl.training.cached_gradients import CachedGradients, split_batch

DIM = 12


class Encoder(nn.Module):
    """Draws from torch's, NumPy's and Python's generators while training, as real encoders do."""

    def __init__(self, dropout=0.0, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(DIM, 32).to(dtype), nn.Linear(32, DIM).to(dtype)
        self.dropout = dropout

    def forward(self, x):
        x = torch.tanh(self.first(x))
        if self.dropout and self.training:
            x = nn.functional.dropout(x, self.dropout)
            x = x * torch.from_numpy(np.random.uniform(0.5, 1.5, x.shape[1])).to(x)
            x = x * random.uniform(0.5, 1.5)
        return normalize(self.second(x), dim=1)


def _data(count=23, dtype=torch.float64):
    text = reference.rows(count, DIM, dtype)
    return text + 0.5 * reference.rows(count, DIM, dtype, seed=3), text


def _gradient(*modules):
    return torch.cat([p.grad.flatten().double() for m in modules for p in m.parameters()])


@pytest.mark.parametrize("size", [1, 5, 23, 100])
def test_gradient_of_one_big_batch(size):
    inputs, text = _data()
    encoder, loss = Encoder(), build_loss("cwcl")
    expected = loss(encoder(inputs), text).total
    expected.backward()
    whole = _gradient(encoder, loss)
    encoder.zero_grad(), loss.zero_grad()
    value, embeddings = CachedGradients(size).backward(
        split_batch(inputs, size), encoder, lambda e: loss(e, text).total
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(embeddings, encoder(inputs))
    assert not embeddings.requires_grad
    assert reference.worst((_gradient(encoder, loss),), (whole,)) < 1e-10


def test_randomness_is_replayed():
    """The same as one graph over chunks embedded in the same order; later draws agree too."""
    inputs, text = _data()
    chunks = split_batch(inputs, 5)
    encoder, loss = Encoder(dropout=0.3), build_loss("clip", learnable=False)

    def seed():
        torch.manual_seed(8), np.random.seed(8), random.seed(8)

    seed()
    loss(torch.cat([encoder(chunk) for chunk in chunks]), text).total.backward()
    whole, later = _gradient(encoder), (torch.rand(1), np.random.rand(), random.random())
    encoder.zero_grad()
    seed()
    CachedGradients(5).backward(chunks, encoder, lambda e: loss(e, text).total)
    assert reference.worst((_gradient(encoder),), (whole,)) < 1e-10
    assert (torch.rand(1), np.random.rand(), random.random()) == later
    encoder.zero_grad()
    loss(torch.cat([encoder(chunk) for chunk in chunks]), text).total.backward()
    assert reference.worst((_gradient(encoder),), (whole,)) > 0.01  # other draws, other gradient


def test_warns_where_randomness_cannot_be_replayed():
    generator = torch.Generator().manual_seed(0)
    encoder = Encoder()

    def embed(chunk):
        return encoder(chunk + torch.randn(chunk.shape, generator=generator).to(chunk))

    inputs, text = _data()
    loss = build_loss("clip")
    with pytest.warns(UserWarning, match="embedding a chunk twice"):
        CachedGradients(5).backward(split_batch(inputs, 5), embed, lambda e: loss(e, text).total)


def test_one_chunk_of_graph_at_a_time():
    """The largest number of items that are embedded with a graph at once is one chunk."""
    seen = []
    encoder, loss = Encoder(), build_loss("clip")
    inputs, text = _data()

    def embed(chunk):
        seen.append((torch.is_grad_enabled(), len(chunk)))
        return encoder(chunk)

    CachedGradients(6).backward(split_batch(inputs, 6), embed, lambda e: loss(e, text).total)
    assert seen == [(False, n) for n in (6, 6, 6, 5)] + [(True, n) for n in (6, 6, 6, 5)]


@dataclasses.dataclass
class Items:
    inputs: torch.Tensor
    text: torch.Tensor
    names: list
    cached: bool

    def to(self, *args, **options):
        return self


class Brain(sb.Brain):
    chunk = None

    def compute_forward(self, batch, stage):
        return self.modules["encoder"](batch.inputs)

    def compute_objectives(self, predictions, batch, stage):
        return self.modules["loss"](predictions.float(), batch.text).total

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        self.ended = getattr(self, "ended", []) + [(tuple(outputs.shape), should_step)]

    def fit_batch(self, batch):
        if self.chunk is None:
            return super().fit_batch(batch)
        return CachedGradients(self.chunk).fit_batch(self, batch)


def _fit(chunk, precision, accumulation):
    inputs, text = _data(24, torch.float32)
    batches = [Items(inputs[i::2], text[i::2], list("abcdefghijkl"), True) for i in range(2)]
    modules = {"encoder": Encoder(dtype=torch.float32), "loss": build_loss("cwcl")}
    brain = Brain(
        modules=modules,
        opt_class=lambda p: torch.optim.SGD(p, lr=0.05),
        run_opts={
            "device": "cpu",
            "precision": precision,
            "grad_accumulation_factor": accumulation,
            "noprogressbar": True,
        },
    )
    brain.chunk = chunk
    loader = torch.utils.data.DataLoader(batches, batch_size=1, collate_fn=lambda items: items[0])
    brain.fit(range(3), loader)
    weights = [p.detach().flatten() for p in brain.modules.parameters()]
    return brain, torch.cat(weights)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_in_a_speechbrain_brain(precision, accumulation):
    """Training ends at the same weights as with whole batches."""
    brain, found = _fit(5, precision, accumulation)
    plain, expected = _fit(None, precision, accumulation)
    start = torch.cat([p.flatten() for p in Encoder(dtype=torch.float32).parameters()])
    moved = float((expected[: len(start)] - start.detach()).norm())
    assert moved > 0.05
    bound = 1e-5 if precision == "fp32" else 2e-2
    assert float((found - expected).norm()) < bound * moved
    assert brain.optimizer_step == plain.optimizer_step
    assert brain.ended == plain.ended
    assert brain.avg_train_loss == pytest.approx(plain.avg_train_loss, rel=1e-5)


def test_loss_scaling():
    """What a GradScaler multiplies in reaches the parameters, and only once."""
    inputs, text = _data()
    encoder, loss = Encoder(), build_loss("clip", learnable=False)
    found = []
    for factor in (1.0, 1024.0):
        encoder.zero_grad()
        CachedGradients(5).backward(
            split_batch(inputs, 5),
            encoder,
            lambda e: loss(e, text).total,
            to_scaled=lambda value, factor=factor: value * factor,
        )
        found.append(_gradient(encoder))
    assert torch.allclose(found[1], 1024.0 * found[0])


def test_split_batch():
    batch = Items(torch.arange(5), torch.arange(10).view(5, 2), list("abcde"), True)
    parts = split_batch(batch, 2)
    assert [part.names for part in parts] == [["a", "b"], ["c", "d"], ["e"]]
    assert torch.equal(parts[1].text, batch.text[2:4])
    assert all(part.cached is True for part in parts)
    assert [len(part) for part in split_batch(torch.zeros(5, 2), 2)] == [2, 2, 1]
    with pytest.raises(UserError, match="different numbers of items"):
        split_batch(dataclasses.replace(batch, names=["a"]), 2)
