"""No step asks a device for a value: a GPU would have to be waited for.

A stand-in for a GPU: tensors of the `meta` device hold no values, so whatever asks for one fails.
"""

import contextlib

import pytest
import torch

from speechcwcl.losses import TextBank, build_loss

SPECS = [
    ("cwcl", {"scale": 20.0}),
    ("cwcl", {}),  # a learnable scale, whose value is not known either
    ("cwcl_matched", {}),
    ("cwcl", {"weighting": {"top_k": 3}, "anchor": "both"}),
    ("clip", {"memory": 0}),
    ("supcon", {}),
    ("siglip", {}),
    ("relational", {}),
]


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """There is no autocast for meta tensors."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def _step(loss, rows=48, **options):
    speech = torch.empty(rows, 16, device="meta", requires_grad=True)
    text = torch.empty(rows, 16, device="meta")
    out = loss(speech, text, torch.arange(rows) // 2, **options)
    out.total.backward()
    assert speech.grad.shape == speech.shape
    return out


@pytest.mark.parametrize(("spec", "options"), SPECS)
@pytest.mark.parametrize("rows", [24, 48])  # with a matrix of targets, and in closed form
def test_a_step_waits_for_nothing(spec, options, rows):
    loss = build_loss(spec, diagnostics_every=3, **options).to("meta")
    loss.looked_at = True
    _step(loss, rows, step=1)
    _step(loss, rows, step=2)
    with pytest.raises(RuntimeError):  # the stand-in notices when a value is asked for
        _step(loss, rows, step=3)


def test_the_first_batch_is_looked_at():
    with pytest.raises(RuntimeError):
        _step(build_loss("cwcl", diagnostics_every=0).to("meta"))


def test_a_bank_waits_once():
    bank = TextBank(torch.nn.functional.normalize(torch.randn(90, 16), dim=1))
    bank.matrix = bank.matrix.to("meta")
    loss = build_loss({"cwcl": {"weighting": "softmax"}, "cl": 1}, diagnostics_every=0).to("meta")
    loss.looked_at = True
    _step(loss, bank=bank)
