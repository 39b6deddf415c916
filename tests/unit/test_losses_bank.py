"""Text bank: exactness, independence of the batch, sampling, files, errors."""

import losses_reference as reference
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechcwcl.errors import UserError
from speechcwcl.losses import TextBank, Weighting, build_loss, build_text_bank
from speechcwcl.losses.bank import draw


def _bank(count=300, dim=8, dtype=torch.float64, seed=5):
    return TextBank(reference.rows(count, dim, dtype, seed))


def _batch(bank, size=6, seed=0):
    ids = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))[:size]
    text = bank.matrix[ids]
    speech = F.normalize(text + 0.7 * reference.rows(size, bank.dim, seed=seed), dim=1)
    return speech.requires_grad_(), text, ids


def _small_blocks(monkeypatch):
    monkeypatch.setattr("speechcwcl.losses.bank._BLOCK_BYTES", {"cpu": 1, "cuda": 1})


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


def test_sampled_negatives_are_corrected():
    """The sum of exponentials is unbiased: its mean over draws meets the whole bank's."""
    bank = _bank(count=400)
    speech, text, ids = _batch(bank)
    speech = speech.detach()
    exact = bank.logsumexp(speech, 5.0).exp()
    generator = torch.Generator().manual_seed(3)
    draws = torch.stack(
        [bank.sampled_logsumexp(speech, text, 5.0, ids, 50, generator).exp() for _ in range(500)]
    )
    error = draws.std(0) / len(draws) ** 0.5
    assert bool(((draws.mean(0) - exact).abs() < 4.5 * error).all())
    # what is left out by not counting the own text once, or by not correcting at all, would show
    own = torch.exp(5.0 * (speech * text).sum(1))
    assert bool(((draws.mean(0) - exact).abs() < 0.1 * (exact - own)).all())


def test_sampled_gradient_is_that_of_the_estimate():
    bank = _bank(count=40)
    speech, text, ids = _batch(bank, size=4)
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)

    def estimate(raw, s):
        generator = torch.Generator().manual_seed(1)
        p = F.normalize(raw, dim=1)
        return bank.sampled_logsumexp(p, text, s, ids, 10, generator)

    assert torch.autograd.gradcheck(estimate, (speech.detach().requires_grad_(), scale))


@pytest.mark.parametrize("negatives", [20, 80])
def test_sampled_gradient_is_that_of_the_whole_bank_on_average(negatives):
    """The mean over draws meets the exact gradient up to the bias of the logarithm, of 1 / K.

    Without the correction it stays far off, whatever the number of draws.
    """
    bank = _bank(count=400)
    speech, text, ids = _batch(bank)
    scale = 5.0
    (exact,) = torch.autograd.grad(bank.logsumexp(speech, scale).sum(), speech)
    # of which the own text, which is always there, is no part of what is drawn
    generator, draws, plain = torch.Generator().manual_seed(4), 400, []
    total = 0.0
    for _ in range(draws):
        total += bank.sampled_logsumexp(speech, text, scale, ids, negatives, generator).sum()
        rows = bank.matrix[draw(len(bank), negatives, generator)]
        own = scale * (speech * text).sum(1)
        plain.append(torch.logaddexp(own, (scale * speech @ rows.T).logsumexp(1)).sum())
    (found,) = torch.autograd.grad(total / draws, speech)
    (uncorrected,) = torch.autograd.grad(sum(plain) / draws, speech)
    gap = float((found - exact).norm() / exact.norm())
    assert gap < 3.0 / negatives
    assert float((uncorrected - exact).norm() / exact.norm()) > 5 * gap


def test_sampling_everything_is_exact():
    bank = _bank(count=40)
    speech, text, ids = _batch(bank, size=4)
    found = bank.sampled_logsumexp(speech, text, 4.0, ids, 40)
    assert torch.allclose(found, bank.logsumexp(speech, 4.0))
    # all but a few rows: the estimate is close whatever was left out
    near = bank.sampled_logsumexp(speech, text, 4.0, ids, 38)
    assert torch.allclose(near, found, atol=0.3)


@pytest.mark.parametrize(("size", "count"), [(10, 9), (100_000, 50)])
def test_draw_is_uniform_without_replacement(size, count):
    found = torch.stack([draw(size, count) for _ in range(400)])
    assert all(len(row.unique()) == count for row in found)
    assert int(found.min()) >= 0
    assert int(found.max()) < size
    expected = (size - 1) / 2
    error = size / 12**0.5 / (400 * count) ** 0.5
    assert abs(float(found.double().mean()) - expected) < 5 * error


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


def test_save_and_load(tmp_path):
    bank = _bank(dtype=torch.float32)
    bank.save(tmp_path / "bank.npy")
    again = TextBank.load(tmp_path / "bank.npy")
    assert torch.equal(again.matrix, bank.matrix)
    speech = reference.rows(4, 8, torch.float32)
    assert torch.equal(again.logsumexp(speech, 9.0), bank.logsumexp(speech, 9.0))


def test_load_errors(tmp_path):
    with pytest.raises(UserError, match="cannot read a text bank"):
        TextBank.load(tmp_path / "none.npy")
    np.save(tmp_path / "int.npy", np.zeros((3, 3), dtype=np.int64))
    with pytest.raises(UserError, match=r"one \(M, dim\) floating-point matrix"):
        TextBank.load(tmp_path / "int.npy")
    np.save(tmp_path / "object.npy", np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(UserError, match="cannot read a text bank"):
        TextBank.load(tmp_path / "object.npy")


def test_bank_errors():
    with pytest.raises(UserError, match=r"bank: row 3 has norm 2, not 1"):
        matrix = reference.rows(6, 4)
        matrix[3] *= 2
        TextBank(matrix)
    bank = _bank()
    speech, text, ids = _batch(bank)
    sampled = build_loss("cwcl", negatives=20)
    with pytest.raises(UserError, match=r"text_ids: bank row .* is not text\[\d\]"):
        sampled(speech, text, (ids + 1) % 300, bank)
    with pytest.raises(UserError, match="text_ids: 300 is not a row of the bank"):
        sampled(speech, text, torch.full_like(ids, 300), bank)
    with pytest.raises(UserError, match="text_ids: .*bank row"):
        sampled(speech, text, None, bank)
    with pytest.raises(UserError, match="bank: width 4 does not match"):
        sampled(speech, text, ids, _bank(dim=4))
    with pytest.raises(UserError, match="bank: expected a TextBank"):
        sampled(speech, text, ids, bank.matrix)
    with pytest.raises(UserError, match="bank: term 'cwcl' has `bank: true`"):
        build_loss({"cwcl": {"bank": True}})(speech, text)


def test_build_from_yaml():
    matrix = reference.rows(20, 4)
    assert build_text_bank(None, matrix) is None
    assert build_text_bank(False, matrix) is None
    assert build_text_bank(True, matrix).sample is None
    assert build_text_bank({"sample": 5}, matrix).sample == 5
    for wrong in ({"sampl": 5}, "yes", {"sample": 1}, {"sample": "many"}):
        with pytest.raises(UserError, match="text_bank|bank: sample"):
            build_text_bank(wrong, matrix)


def test_the_bank_samples_by_itself():
    matrix = reference.rows(200, 8)
    bank = build_text_bank({"sample": 10}, matrix)
    speech, text, ids = _batch(bank)
    loss = build_loss({"cwcl": 1})
    values = {round(loss(speech, text, ids, bank).total.item(), 6) for _ in range(5)}
    assert len(values) > 1  # drawn anew each time
    whole = build_loss({"cwcl": {"bank": False}})  # and a term may decline it
    assert whole(speech, text, ids, bank).total.item() == pytest.approx(
        whole(speech, text, ids).total.item()
    )
