"""Text bank: exactness, independence of the batch, errors."""

import losses_reference as reference
import pytest
import torch
import torch.nn.functional as F

from speechcwcl.errors import UserError
from speechcwcl.losses import TextBank, Weighting, build_loss
from speechcwcl.losses.kernel import pair_sums


def _bank(count=300, dim=8, dtype=torch.float64, seed=5):
    return TextBank(reference.rows(count, dim, dtype, seed))


def _batch(bank, size=6, seed=0):
    ids = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))[:size]
    text = bank.matrix[ids]
    speech = F.normalize(text + 0.7 * reference.rows(size, bank.dim, seed=seed), dim=1)
    return speech.requires_grad_(), text, ids


def _small_blocks(monkeypatch):
    monkeypatch.setattr("speechcwcl.losses.bank._BLOCK_BYTES", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr("speechcwcl.losses.kernel._CHUNK_BYTES", {"cpu": 1, "cuda": 1})


@pytest.mark.parametrize("tau", [0.001, 0.01, 0.05, 1.0])
def test_log_sum_exp_and_gradient(tau, monkeypatch):
    """tau 0.001 takes the running maximum even in float64."""
    _small_blocks(monkeypatch)
    bank = _bank()
    speech, _, _ = _batch(bank)
    scale = torch.tensor(1 / tau, dtype=torch.float64, requires_grad=True)
    found, expected = (
        bank.logsumexp(speech, scale),
        (scale * speech @ bank.matrix.T).logsumexp(1),
    )
    assert torch.allclose(found, expected, atol=1e-10)
    weight = torch.randn(len(speech), dtype=torch.float64)
    pair = [torch.autograd.grad((v * weight).sum(), (speech, scale)) for v in (found, expected)]
    assert reference.worst(*pair) < 1e-10


def test_float32_needs_the_running_maximum_at_tau_001(monkeypatch):
    _small_blocks(monkeypatch)
    bank = _bank(dtype=torch.float32)
    speech = reference.rows(5, 8, torch.float32, seed=1)
    expected = (100 * speech.double() @ bank.matrix.double().T).logsumexp(1)
    assert torch.allclose(bank.logsumexp(speech, 100.0).double(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "weighting",
    [
        Weighting("linear"),
        Weighting("power", 3.0),
        Weighting("softmax", 0.1),
        Weighting("threshold", 0.1),
        Weighting("top_k", 7),
        Weighting("identity"),
    ],
    ids=lambda w: w.name,
)
def test_targets(weighting, monkeypatch):
    _small_blocks(monkeypatch)
    bank = _bank()
    _, text, ids = _batch(bank)
    w = reference.weights(bank.matrix, weighting.name, weighting.value)[ids]
    expected = (w / w.sum(1, keepdim=True)) @ bank.matrix
    assert torch.allclose(bank.targets(text, weighting), expected, atol=1e-12)


@pytest.mark.parametrize("weighting", ["linear", "softmax", "identity"])
def test_small_batches_have_the_expected_gradient_of_the_whole_set(weighting):
    """The mean gradient over all batches of 8 is that of one batch of everything: exactly."""
    bank = _bank(count=64)
    text = bank.matrix
    speech = F.normalize(text + 0.7 * reference.rows(64, 8), dim=1).requires_grad_()
    loss = build_loss({"cwcl": {"weighting": weighting}}, temperature=0.1, learnable=False)
    expected = reference.cwcl(speech, text, 10.0, w=reference.weights(text, weighting, 0.1))
    (whole,) = torch.autograd.grad(expected, speech)
    order = torch.randperm(64)
    parts = [loss(speech[part], text[part], bank=bank).total / 8 for part in order.split(8)]
    (found,) = torch.autograd.grad(sum(parts), speech)
    assert sum(parts).item() == pytest.approx(expected.item(), rel=1e-6)
    assert reference.worst((found,), (whole,)) < 1e-5  # the scale is stored in float32
    without = [loss(speech[part], text[part]).total / 8 for part in order.split(8)]
    (in_batch,) = torch.autograd.grad(sum(without), speech)
    assert float((in_batch - whole).norm() / whole.norm()) > 0.1  # which batches alone do not have


def test_contrastive_over_the_bank():
    bank = _bank()
    speech, text, ids = _batch(bank)
    loss = build_loss({"cl": {"direction": "speech_to_text"}}, scale=8.0)
    expected = F.cross_entropy(8.0 * speech @ bank.matrix.T, ids)
    assert loss(speech, text, ids, bank).total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_one_utterance_is_enough_with_a_bank():
    bank = _bank()
    speech, text, _ = _batch(bank, size=1)
    total = build_loss({"cwcl": 1})(speech, text, bank=bank).total
    total.backward()
    assert torch.isfinite(speech.grad).all()


def test_half_precision_bank():
    bank = _bank(dtype=torch.float32)
    half = TextBank(bank.matrix.half())
    speech = reference.rows(4, 8, torch.float32)
    assert torch.allclose(half.logsumexp(speech, 20.0), bank.logsumexp(speech, 20.0), atol=2e-2)


def test_bank_errors():
    with pytest.raises(UserError, match=r"bank: row 3 has norm 2, not 1"):
        matrix = reference.rows(6, 4)
        matrix[3] *= 2
        TextBank(matrix)
    bank = _bank()
    speech, text, ids = _batch(bank)
    loss = build_loss("cwcl")
    with pytest.raises(UserError, match="bank: width 4 does not match"):
        loss(speech, text, ids, _bank(dim=4))
    with pytest.raises(UserError, match="bank: expected a TextBank"):
        loss(speech, text, ids, bank.matrix)
    with pytest.raises(UserError, match="bank: term 'cwcl' has `bank: true`"):
        build_loss({"cwcl": {"bank": True}})(speech, text)


def test_a_term_may_decline_the_bank():
    bank = _bank(count=200)
    speech, text, ids = _batch(bank)
    over = build_loss({"cwcl": 1})(speech, text, ids, bank).total.item()
    within = build_loss({"cwcl": {"bank": False}})
    assert within(speech, text, ids, bank).total.item() == within(speech, text, ids).total.item()
    assert abs(over - within(speech, text, ids).total.item()) > 0.1


@pytest.mark.parametrize("memory", [0, 10**9])
def test_memory_of_the_bank_changes_nothing(memory, monkeypatch):
    """Exponentials that are not kept are computed again in the backward pass."""
    monkeypatch.setattr("speechcwcl.losses.kernel.chunk_rows", lambda *_: 64)
    bank = _bank()
    speech, _, _ = _batch(bank)
    found, _ = pair_sums(bank.matrix, speech, 20.0, wanted=["columns"], memory=memory)
    expected = (20.0 * speech @ bank.matrix.T).logsumexp(1)
    pair = [torch.autograd.grad(v.sum(), speech) for v in (found["columns"], expected)]
    assert torch.allclose(found["columns"], expected, atol=1e-10)
    assert reference.worst(*pair) < 1e-10
