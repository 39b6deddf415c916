"""Weightings: parsing, and the target distributions as operators."""

import losses_reference as reference
import pytest
import torch

from speechcwcl.errors import UserError
from speechcwcl.losses import WEIGHTINGS, Weighting, build_loss
from speechcwcl.losses.weighting import Targets, matched


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        (None, "linear", None),
        ("softmax", "softmax", 0.1),
        ({"softmax": 0.05}, "softmax", 0.05),
        ({"softmax": None}, "softmax", 0.1),
        ({"power": {"exponent": 3}}, "power", 3.0),
        ({"top_k": 5}, "top_k", 5),
        ({"threshold": -0.2}, "threshold", -0.2),
        ("same_text", "same_text", None),
    ],
)
def test_parse(given, name, value):
    found = Weighting.parse(given)
    assert (found.name, found.value) == (name, value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("sofmax", "closest: 'softmax'"),
        ({"softmax": 0}, "temperature above 0"),
        ({"softmax": "hot"}, "needs a number"),
        ({"softmax": {"tau": 1}}, "temperature"),
        ({"top_k": 2.5}, "whole k"),
        ({"top_k": 0}, "whole k"),
        ({"threshold": 2}, "[-1, 1]"),
        ({"linear": 3}, "takes no option"),
        ({"linear": 1, "power": 2}, "expected a name"),
        (7, "expected a name"),
    ],
)
def test_parse_refuses(given, says):
    with pytest.raises(UserError) as error:
        Weighting.parse(given)
    assert says in str(error.value)
    assert str(error.value).startswith("weighting:")


@pytest.mark.parametrize("count", [5, 40])  # dense and, for linear, closed form
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_targets_are_the_normalised_weights(name, count):
    text = reference.rows(count, 8)
    ids = torch.arange(count) // 2
    weighting = Weighting(name)
    w = reference.weights(text, name, weighting.value, ids)
    y = w / w.sum(1, keepdim=True)
    targets = Targets(text, weighting, ids, chunk=7)
    assert targets.closed == (name == "linear" and count == 40)
    x = torch.randn(count, 8, dtype=torch.float64)
    assert torch.allclose(targets.apply(x), y @ x, atol=1e-12)
    assert torch.allclose(targets.apply_transposed(x), y.T @ x, atol=1e-12)


@pytest.mark.parametrize("transposed", [False, True])
def test_matched_and_its_gradients(transposed):
    speech, text = reference.pairs(12, 5, text_grad=True)
    w = reference.weights(text, "softmax", 0.2)
    y = w / w.sum(1, keepdim=True)
    cosines = (text @ speech.T) if transposed else (speech @ text.T)
    expected = (y * cosines).sum() / 12
    targets = Targets(text, Weighting("softmax", 0.2))
    found = matched(speech, text, targets, transposed)
    assert found.item() == pytest.approx(expected.item(), abs=1e-13)
    pair = (
        reference.gradients(found, speech, text),
        reference.gradients(expected, speech, text),
    )
    assert reference.worst(*pair) < 1e-12


def test_top_k_and_threshold_keep_the_own_text_among_duplicates():
    text = torch.eye(3, dtype=torch.float64)[[0, 0, 0, 0, 1, 2]]
    for weighting in (Weighting("top_k", 1), Weighting("top_k", 2)):
        block = Targets(text, weighting).block(0, 6)
        assert bool((block.diagonal() > 0).all())
        assert torch.allclose(block.sum(1), torch.ones(6, dtype=torch.float64))


def test_half_precision_text_is_widened():
    text = reference.rows(6, 4, torch.float16)
    assert Targets(text, Weighting()).apply(text).dtype == torch.float32


def test_cwcl_matched_is_least_where_speech_is_text():
    _, text = reference.pairs(24, 8, torch.float64)
    speech = text.clone().requires_grad_()
    loss = build_loss("cwcl_matched")
    assert float(loss.scale()) == pytest.approx(20) and not list(loss.parameters())
    terms = loss.terms
    assert (terms["cwcl"].weighting, terms["cosine"].weight) == (Weighting("softmax", 0.05), 10)
    alone = build_loss(
        {"cwcl": {"weighting": {"softmax": 0.05}}, "cosine": 10}, temperature=0.05, learnable=False
    )
    alone(torch.nn.functional.normalize(speech, dim=1), text).total.backward()
    assert speech.grad.abs().max() < 1e-8
    paper = build_loss("cwcl", temperature=0.05)  # whose least value lies elsewhere
    speech.grad = None
    paper(torch.nn.functional.normalize(speech, dim=1), text).total.backward()
    assert speech.grad.abs().max() > 1e-3
    assert build_loss("cwcl_matched", temperature=0.1).scale().item() == pytest.approx(10)
