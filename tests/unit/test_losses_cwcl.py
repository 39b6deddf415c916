"""CWCL in closed form and streamed, against its definition."""

import losses_reference as reference
import pytest
import torch

from speechcwcl.losses import clip, contrastive, cosine, cwcl, cwcl_plain, siglip, supcon, weighting
from speechcwcl.losses.kernel import pair_sums

ANCHORS = ("speech", "text", "both")
TAUS = (0.01, 0.05, 0.3, 1.0)
KINDS = [
    ("linear", None),
    ("power", 3.0),
    ("softmax", 0.1),
    ("threshold", 0.1),
    ("top_k", 4),
    ("identity", None),
    ("same_text", None),
]


def _spec(name, value):
    return name if value is None else {name: value}


def _compare(count, dim, tau, dtype, anchor="speech", **options):
    speech, text = reference.pairs(count, dim, dtype)
    scale = torch.tensor(1 / tau, dtype=dtype, requires_grad=True)
    loss = cwcl(speech, text, scale, anchor=anchor, **options)
    expected = reference.cwcl(speech, text, scale, anchor)
    value = abs((loss - expected).item()) / max(1.0, abs(expected.item()))
    if count == 1:  # nothing to contrast: both are 0, and so is the gradient
        assert abs(loss.item()) < 1e-6 / tau
        return value, float(reference.gradients(loss, speech)[0].abs().max())
    found = reference.gradients(loss, speech, scale)
    return value, reference.worst(found, reference.gradients(expected, speech, scale))


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("count", [1, 2, 3, 17, 300])
def test_float64_equals_the_definition(count, anchor, tau):
    value, gradient = _compare(count, 12, tau, torch.float64, anchor)
    assert value < 1e-10
    assert gradient < 1e-10


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("count", [2, 17, 300])
def test_float32_equals_the_definition(count, tau):
    """Against float64: 1e-5 in value, and in the gradient relative to its largest entry."""
    speech, text = reference.pairs(count, 32, torch.float32)
    wide, frozen = speech.detach().double().requires_grad_(), text.double()
    loss = cwcl(speech, text, 1 / tau, anchor="both")
    expected = reference.cwcl(wide, frozen, 1 / tau, "both")
    assert abs((loss - expected).item()) < 1e-5 * max(1.0, expected.item())
    found = reference.gradients(loss, speech)
    assert reference.worst(found, reference.gradients(expected, wide)) < 1e-5


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_large_batch_equals_the_definition(dtype, bound):
    value, gradient = _compare(4096, 16, 0.05, dtype)
    assert value < bound
    assert gradient < bound


@pytest.mark.parametrize("memory", [0, 10**9])
@pytest.mark.parametrize("tau", [0.01, 0.05])
def test_chunks_and_recomputation_change_nothing(tau, memory):
    value, gradient = _compare(67, 9, tau, torch.float64, "both", chunk=10, memory=memory)
    assert value < 1e-12
    assert gradient < 1e-10


def test_partly_kept_exponentials():
    """Room for two of seven chunks: some are reused in the backward pass, some recomputed."""
    value, gradient = _compare(67, 9, 0.05, torch.float64, "both", chunk=10, memory=67 * 8 * 25)
    assert value < 1e-12
    assert gradient < 1e-10


def test_backward_twice_through_a_retained_graph():
    speech, text = reference.pairs(20, 6)
    loss = cwcl(speech, text, 20.0)
    first = torch.autograd.grad(loss, speech, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, speech)[0])


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize(("name", "value"), KINDS)
@pytest.mark.parametrize("chunk", [None, 7])
def test_every_weighting(name, value, anchor, chunk):
    """Also the gradient of a trained text side, through the logits (weights are constants)."""
    speech, text = reference.pairs(40, 10, text_grad=True)
    ids = torch.arange(40) // 3
    loss = cwcl(
        speech, text, 15.0, anchor=anchor, weighting=_spec(name, value), text_ids=ids, chunk=chunk
    )
    w = reference.weights(text, name, value, ids)
    expected = reference.cwcl(speech, text, 15.0, anchor, w)
    assert (loss - expected).item() == pytest.approx(0, abs=1e-11)
    found = reference.gradients(loss, speech, text)
    assert reference.worst(found, reference.gradients(expected, speech, text)) < 1e-10
    plain = cwcl_plain(
        speech, text, 15.0, anchor=anchor, weighting=_spec(name, value), text_ids=ids
    )
    assert float(plain - expected) == pytest.approx(0, abs=1e-11)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_closed_form_gradient_of_a_trained_text_side(anchor):
    """More rows than columns, so the closed form is taken on both sides."""
    speech, text = reference.pairs(90, 8, text_grad=True)
    loss = cwcl(speech, text, 15.0, anchor=anchor)
    expected = reference.cwcl(speech, text, 15.0, anchor)
    found = reference.gradients(loss, speech, text)
    assert reference.worst(found, reference.gradients(expected, speech, text)) < 1e-10


def test_duplicate_rows():
    speech, text = reference.pairs(60, 8)
    text = text[torch.arange(60) // 4].contiguous()
    speech = speech.detach()[torch.arange(60) // 2].requires_grad_()
    for anchor in ANCHORS:
        loss = cwcl(speech, text, 20.0, anchor=anchor)
        expected = reference.cwcl(speech, text, 20.0, anchor)
        assert (loss - expected).item() == pytest.approx(0, abs=1e-11)
        found = reference.gradients(loss, speech)
        assert reference.worst(found, reference.gradients(expected, speech)) < 1e-10


def test_opposite_and_equal_rows():
    """Weights of exactly 0 (opposite texts) and a text space of one point."""
    text = torch.eye(4, dtype=torch.float64)
    text = torch.cat([text, -text])
    speech = text.clone().requires_grad_()
    assert float(cwcl(speech, text, 30.0)) == pytest.approx(
        float(reference.cwcl(speech, text, 30.0)), abs=1e-11
    )
    one = text[:1].expand(8, -1).contiguous()
    assert float(cwcl(one, one, 30.0)) == pytest.approx(float(torch.tensor(8.0).log()), abs=1e-6)


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("tau", [0.01, 0.2])
def test_gradcheck(anchor, tau):
    speech, text = reference.pairs(7, 5)
    scale = torch.tensor(1 / tau, dtype=torch.float64, requires_grad=True)

    def loss(raw, s):
        return cwcl(torch.nn.functional.normalize(raw, dim=1), text, s, anchor=anchor)

    assert torch.autograd.gradcheck(loss, (speech.detach().requires_grad_(), scale))


@pytest.mark.parametrize("memory", [0, 10**6])
def test_gradcheck_of_the_log_sum_exp(memory):
    speech, text = reference.pairs(6, 4, text_grad=True)
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    names = ("rows", "columns", "rows_masked", "columns_masked")
    ids = torch.tensor([0, 0, 1, 2, 2, 2])

    def every(p, q, s):
        found, _ = pair_sums(p, q, s, wanted=names, ids=ids, chunk=4, memory=memory)
        return tuple(found[name] for name in names)

    assert torch.autograd.gradcheck(every, (speech, text, scale))


@pytest.mark.parametrize("memory", [0, 10**6])
@pytest.mark.parametrize("scale", [9.0, 400.0])  # without and with the shift by the maximum
def test_gradcheck_of_weighted_sums(memory, scale):
    """Sums with a matrix and with the identity, beside log-sum-exps in the same pass."""
    speech, text = reference.pairs(6, 4, text_grad=True)
    scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    matrix = torch.rand(6, 6, dtype=torch.float64)

    def every(p, q, s):
        lse, weighted = pair_sums(p, q, s, weights=[matrix, None], chunk=4, memory=memory)
        return lse["rows"], lse["columns"], *weighted

    logits = scale * speech @ text.T
    found = every(speech, text, scale)[2:]
    assert found[0].item() == pytest.approx((matrix * logits).sum().item(), rel=1e-12)
    assert found[1].item() == pytest.approx(logits.trace().item(), rel=1e-12)
    assert torch.autograd.gradcheck(every, (speech, text, scale))


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize(("name", "value"), KINDS)
def test_with_and_without_memory_for_the_targets(name, value, anchor, monkeypatch):
    """The matrix of targets joins the logits, or there is none: the same loss and gradient."""
    speech, text = reference.pairs(20, 12, text_grad=True)
    ids = torch.arange(20) // 3
    options = {"anchor": anchor, "weighting": _spec(name, value), "text_ids": ids, "chunk": 6}
    folded, applied = [], []
    real = weighting.Targets.apply
    monkeypatch.setattr(weighting.Targets, "apply", lambda *a: applied.append(1) or real(*a))
    for memory in (10**6, 0):
        applied.clear()
        loss = cwcl(speech, text, 15.0, memory=memory, **options)
        folded.append((loss, *reference.gradients(loss, speech, text)))
        assert bool(applied) == (memory == 0 or name == "identity") or anchor == "text"
    assert (folded[0][0] - folded[1][0]).item() == pytest.approx(0, abs=1e-12)
    assert reference.worst(folded[0][1:], folded[1][1:]) < 1e-10


def test_rectangular_log_sum_exp():
    speech, text = reference.rows(5, 4), reference.rows(9, 4, seed=1)
    found, _ = pair_sums(speech, text, 10.0)
    logits = 10.0 * speech @ text.T
    assert torch.allclose(found["rows"], logits.logsumexp(1), atol=1e-12)
    assert torch.allclose(found["columns"], logits.logsumexp(0), atol=1e-12)


@pytest.mark.parametrize("tau", TAUS)
def test_bf16_autocast(tau):
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 24)
    inputs, text = torch.randn(64, 24), reference.rows(64, 24, torch.float32)

    def total(dtype):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            speech = torch.nn.functional.normalize(layer(inputs), dim=1)
            loss = cwcl(speech.to(dtype), text, 1 / tau) + clip(speech.to(dtype), text, 1 / tau)
        loss.backward()
        return float(loss), layer.weight.grad.clone()

    value, gradient = total(torch.bfloat16)
    expected, exact = total(torch.float32)
    assert torch.isfinite(gradient).all()
    assert value == pytest.approx(expected, rel=1e-2)
    assert float((gradient - exact).norm() / exact.norm()) < 5e-2


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("loss", [cwcl, clip])
@pytest.mark.parametrize("count", [64, 160])  # with a matrix of targets, and in closed form
def test_bf16_embeddings(count, loss, tau):
    """Half-precision embeddings as they come out of autocast: 1e-2 in value and in gradient."""
    speech, text = reference.pairs(count, 48, torch.bfloat16, noise=2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(speech, text, 1 / tau)
    (gradient,) = reference.gradients(found, speech)
    wide = speech.detach().double().requires_grad_()
    expected = loss(wide, text.double(), 1 / tau)
    (exact,) = reference.gradients(expected, wide)
    assert torch.isfinite(gradient).all()
    assert abs((found - expected).item()) < 1e-2 * max(1.0, expected.item())
    assert float((gradient.double() - exact).norm() / exact.norm()) < 1e-2


@pytest.mark.parametrize("direction", ["speech_to_text", "text_to_speech", "both"])
@pytest.mark.parametrize("ids", [None, torch.arange(30), torch.arange(30) // 4])
def test_contrastive(direction, ids):
    speech, text = reference.pairs(30, 8, text_grad=True)
    if ids is not None:
        text = text.detach()[ids].requires_grad_()
    loss = contrastive(speech, text, 20.0, direction=direction, text_ids=ids, chunk=8)
    expected = reference.contrastive(speech, text, 20.0, direction, ids)
    assert (loss - expected).item() == pytest.approx(0, abs=1e-12)
    found = reference.gradients(loss, speech, text)
    assert reference.worst(found, reference.gradients(expected, speech, text)) < 1e-10


def test_masking_removes_the_push_between_equal_transcripts():
    """Two items with one text: unmasked they push each other, masked the loss can reach 0."""
    text = torch.eye(4, dtype=torch.float64)[[0, 0, 1, 2]]
    ids = torch.tensor([0, 0, 1, 2])
    assert float(contrastive(text, text, 60.0, text_ids=ids)) < 1e-12
    assert float(contrastive(text, text, 60.0)) > 0.3


def test_identity_is_clip_and_same_text_is_supcon():
    speech, text = reference.pairs(24, 8)
    same = cwcl(speech, text, 10.0, weighting="identity", anchor="both")
    assert float(same) == pytest.approx(float(clip(speech, text, 10.0)), abs=1e-12)
    ids = torch.arange(24) // 2
    expected = reference.cwcl(
        speech, text, 10.0, "both", reference.weights(text, "same_text", ids=ids)
    )
    assert float(supcon(speech, text, 10.0, ids)) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("ids", [None, torch.arange(24) // 2])
def test_siglip(chunk, ids):
    speech, text = reference.pairs(24, 8, text_grad=True)
    scale = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-5.0, dtype=torch.float64, requires_grad=True)
    logits = scale * speech @ text.T + bias
    own = torch.eye(24, dtype=torch.bool)
    each = torch.nn.functional.logsigmoid(torch.where(own, logits, -logits))
    if ids is not None:
        each = each.masked_fill((ids[:, None] == ids[None, :]) & ~own, 0.0)
    expected = -each.sum() / 24
    loss = siglip(speech, text, scale, bias, text_ids=ids, chunk=chunk)
    assert (loss - expected).item() == pytest.approx(0, abs=1e-12)
    inputs = (speech, text, scale, bias)
    found = reference.gradients(loss, *inputs)
    assert reference.worst(found, reference.gradients(expected, *inputs)) < 1e-10


def test_cosine():
    speech, text = reference.pairs(10, 4)
    expected = 1 - torch.nn.functional.cosine_similarity(speech, text).mean()
    assert float(cosine(speech, text)) == pytest.approx(float(expected), abs=1e-12)
