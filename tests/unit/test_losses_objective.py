"""build_loss and ContrastiveObjective: specs, sharing, diagnostics, errors."""

import math
import warnings

import losses_reference as reference
import pytest
import torch
import yaml

from speechcwcl.errors import UserError
from speechcwcl.losses import LogitScale, build_loss, cwcl, relational, siglip
from speechcwcl.losses import objective as objective_module
from speechcwcl.losses.diagnostics import matching_accuracy, target_statistics, text_spread
from speechcwcl.losses.inputs import check_pair
from speechcwcl.losses.weighting import Weighting


def _pair(count=24, dim=8, dtype=torch.float64, **options):
    return reference.pairs(count, dim, dtype, **options)


def test_cwcl_is_the_papers_total():
    speech, text = _pair()
    out = build_loss("cwcl", temperature=0.1)(speech, text)
    forward = reference.cwcl(speech, text, 10.0)
    backward = reference.contrastive(speech, text, 10.0, "text_to_speech")
    assert out.terms["cwcl"].item() == pytest.approx(forward.item(), rel=1e-6)
    assert out.terms["cl"].item() == pytest.approx(backward.item(), rel=1e-6)
    assert out.total.item() == pytest.approx((forward + backward).item(), rel=1e-6)
    found = reference.gradients(out.total, speech)
    assert reference.worst(found, reference.gradients(forward + backward, speech)) < 1e-5


@pytest.mark.parametrize("name", ["clip", "lit", "cl", "siglip", "cosine", "supcon", "relational"])
def test_presets(name):
    speech, text = _pair()
    ids = torch.arange(24)
    out = build_loss(name)(speech, text, ids)
    scale = 10.0 if name == "siglip" else 20.0
    expected = {
        "clip": reference.contrastive(speech, text, scale),
        "lit": reference.contrastive(speech, text, scale),
        "cl": reference.contrastive(speech, text, scale, "text_to_speech"),
        "siglip": siglip(speech, text, 10.0, -10.0),
        "cosine": 1 - (speech * text).sum() / 24,
        "supcon": reference.contrastive(speech, text, scale),
        "relational": relational(speech, text),
    }[name]
    assert out.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert list(out.terms) == ["clip" if name == "lit" else name]


def test_weights_and_terms():
    """Terms are logged without their weights; a term of weight 0 is left out."""
    speech, text = _pair()
    out = build_loss({"cwcl": 1, "cl": 0.5, "cosine": 10, "clip": 0})(speech, text)
    assert set(out.terms) == {"cwcl", "cl", "cosine"}
    expected = out.terms["cwcl"] + 0.5 * out.terms["cl"] + 10 * out.terms["cosine"]
    assert out.total.item() == pytest.approx(expected.item())
    assert not any(term.requires_grad for term in out.terms.values())


def test_yaml_with_options_of_every_term():
    spec = yaml.safe_load("""
        cwcl: {weight: 2, weighting: {softmax: 0.1}, anchor: both, temperature: 0.1}
        near: {kind: cwcl, weighting: {top_k: 4}, scale: {init: 30, learnable: true, maximum: 40}}
        cl: {direction: both, mask_equal: false}
        siglip: {bias: -5, learnable_bias: false, scale: 12}
        relational: {source: speech_speech, temperature: 0.2, text_temperature: 0.1}
        cosine:
    """)
    speech, text = _pair()
    loss = build_loss(spec, temperature=0.05)
    out = loss(speech, text, torch.arange(24) // 2)
    w = reference.weights(text, "softmax", 0.1)
    near = reference.weights(text, "top_k", 4)
    expected = {
        "cwcl": reference.cwcl(speech, text, 10.0, "both", w),
        "near": reference.cwcl(speech, text, 30.0, "speech", near),
        "cl": reference.contrastive(speech, text, 20.0),
        "siglip": siglip(speech, text, 12.0, -5.0, text_ids=torch.arange(24) // 2),
        "relational": relational(
            speech, text, source="speech_speech", temperature=0.2, text_temperature=0.1
        ),
        "cosine": 1 - (speech * text).sum() / 24,
    }
    for name, value in expected.items():
        assert out.terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
    assert {n for n, _ in loss.named_parameters()} == {
        "scale.log_scale",
        "terms.near.scale.log_scale",
    }


def test_equal_transcripts_are_masked_in_cl_only():
    text = torch.eye(4, dtype=torch.float64)[[0, 0, 1, 2]]
    out = build_loss("cwcl", scale=50.0)(text, text, torch.tensor([0, 0, 1, 2]))
    unmasked = build_loss("cwcl", scale=50.0)(text, text)
    assert out.terms["cl"].item() == pytest.approx(0, abs=1e-9)
    assert unmasked.terms["cl"].item() > 0.3
    assert out.terms["cwcl"].item() == pytest.approx(unmasked.terms["cwcl"].item())


def test_options_reach_the_terms_that_take_them():
    loss = build_loss("cwcl", weighting={"softmax": 0.2}, anchor="both")
    assert loss.terms["cwcl"].options["weighting"] == Weighting("softmax", 0.2)
    assert loss.terms["cwcl"].options["anchor"] == "both"
    own = build_loss({"cwcl": {"anchor": "text"}, "cl": 1}, anchor="both")
    assert own.terms["cwcl"].options["anchor"] == "text"


def test_each_scale_is_computed_once(monkeypatch):
    calls = []
    real = objective_module.pair_sums

    def counted(*args, **options):
        calls.append(options["wanted"])
        return real(*args, **options)

    monkeypatch.setattr(objective_module, "pair_sums", counted)
    speech, text = _pair()
    build_loss({"cwcl": 1, "cl": 1, "clip": 1, "supcon": 1})(speech, text, torch.arange(24))
    assert len(calls) == 1
    assert set(calls[0]) == {"rows", "columns", "rows_masked", "columns_masked"}
    calls.clear()
    build_loss({"cwcl": 1, "clip": {"scale": 5}})(speech, text)
    assert len(calls) == 2
    calls.clear()
    build_loss("cosine")(speech, text)
    assert not calls


# ---- logit scale


def test_scale_fixed_and_learnable():
    speech, text = _pair()
    fixed = build_loss("clip", scale=20.0)
    assert not list(fixed.parameters())
    learnt = build_loss("clip", temperature=0.05)
    learnt(speech, text).total.backward()
    gradient = learnt.scale.log_scale.grad
    step = 1e-4
    values = [reference.contrastive(speech, text, 20.0 * math.exp(s)).item() for s in (step, -step)]
    assert gradient.item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3)


def test_scale_comes_back_from_its_bound():
    scale = LogitScale(init=99.0, maximum=100.0)
    with torch.no_grad():
        scale.log_scale.fill_(math.log(150.0))
    value = scale()
    assert value.item() == pytest.approx(100.0, rel=1e-5)
    value.backward()
    assert scale.log_scale.grad.item() > 0  # a clamp in the graph would give 0 here
    scale.eval()
    before = scale.log_scale.item()
    scale()
    assert scale.log_scale.item() == before


def test_scale_survives_a_checkpoint():
    first = build_loss("cwcl", temperature=0.05)
    with torch.no_grad():
        first.scale.log_scale.add_(0.3)
    second = build_loss("cwcl", temperature=0.1)
    second.load_state_dict(first.state_dict())
    assert second.scale().item() == first.scale().item()


def test_a_cosine_objective_has_no_scale():
    """A parameter that nothing uses would make DistributedDataParallel fail."""
    assert not list(build_loss("cosine").parameters())
    assert not list(build_loss("relational").parameters())


# ---- relational


@pytest.mark.parametrize("source", ["speech_text", "speech_speech"])
@pytest.mark.parametrize("chunk", [None, 7])
def test_relational(source, chunk):
    speech, text = _pair(text_grad=True)
    other = speech if source == "speech_speech" else text
    logits, wanted = speech @ other.T / 0.2, text.detach() @ text.detach().T / 0.1
    if source == "speech_speech":
        own = torch.eye(24, dtype=torch.bool)
        logits = logits[~own].view(24, 23)
        wanted = wanted[~own].view(24, 23)
    expected = torch.nn.functional.kl_div(
        logits.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean"
    )
    loss = relational(
        speech, text, source=source, temperature=0.2, text_temperature=0.1, chunk=chunk
    )
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    inputs = (speech, text) if source == "speech_text" else (speech,)
    found = reference.gradients(loss, *inputs)
    assert reference.worst(found, reference.gradients(expected, *inputs)) < 1e-10


def test_relational_is_softmax_cwcl_less_its_entropy():
    speech, text = _pair()
    low = relational(speech, text, temperature=0.1)
    high = cwcl(speech, text, 10.0, weighting={"softmax": 0.1})
    pair = (reference.gradients(low, speech), reference.gradients(high, speech))
    assert reference.worst(*pair) < 1e-10
    y = reference.weights(text, "softmax", 0.1)
    y = y / y.sum(1, keepdim=True)
    entropy = -(y * y.log()).sum() / 24
    assert (high - low).item() == pytest.approx(entropy.item(), abs=1e-10)


# ---- diagnostics


def test_text_spread_is_exact():
    for count, dim in ((30, 5), (5, 30)):
        text = reference.rows(count, dim)
        w = reference.weights(text)
        off = w[~torch.eye(count, dtype=torch.bool)]
        assert text_spread(text) == pytest.approx(off.std(correction=0).item(), abs=1e-12)


def test_target_statistics():
    text = reference.rows(20, 5)
    y = reference.weights(text, "softmax", 0.3)
    y = y / y.sum(1, keepdim=True)
    found = target_statistics(text, text, Weighting("softmax", 0.3))
    assert found["target_entropy"] == pytest.approx(-(y * y.log()).sum(1).mean().item(), rel=1e-5)
    assert found["effective_positives"] == pytest.approx(
        (1 / (y**2).sum(1)).mean().item(), rel=1e-5
    )


def test_target_entropy_is_the_least_value_of_the_term():
    """With speech = text and weights exp(s c), the softmax equals the target: the bound is met."""
    text = reference.rows(20, 5)
    loss = cwcl(text, text, 8.0, weighting={"softmax": 1 / 8})
    found = target_statistics(text, text, Weighting("softmax", 1 / 8))
    assert loss.item() == pytest.approx(found["target_entropy"], rel=1e-5)


def test_accuracy():
    text = reference.rows(6, 8)
    speech = text[[0, 1, 2, 3, 5, 4]]
    found = matching_accuracy(speech, text)
    assert found["accuracy_speech_to_text"] == pytest.approx(4 / 6)
    assert found["accuracy_text_to_speech"] == pytest.approx(4 / 6)
    twice = text[[0, 1, 2, 3, 4, 4]]
    same = matching_accuracy(twice, twice, torch.tensor([0, 1, 2, 3, 4, 4]))
    assert same["accuracy_speech_to_text"] == 1.0
    assert matching_accuracy(twice, twice)["accuracy_speech_to_text"] == pytest.approx(4 / 6)
    collapsed = matching_accuracy(text[:1].expand(6, -1), text[:1].expand(6, -1))
    assert collapsed["accuracy_speech_to_text"] == 0.0
    assert found["cosine"] == pytest.approx((speech * text).sum().item() / 6, rel=1e-5)


def test_diagnostics_in_training_and_evaluation():
    speech, text = _pair()
    loss = build_loss({"cwcl": 1, "siglip": {"scale": 7}}, diagnostics_every=3)
    first = loss(speech, text).diagnostics
    assert set(first) == {
        "scale",
        "scale_siglip",
        "bias_siglip",
        "cosine",
        "accuracy_speech_to_text",
        "accuracy_text_to_speech",
        "w_std",
        "target_entropy",
        "effective_positives",
    }
    assert all(isinstance(value, float) for value in first.values())
    other = reference.rows(24, 8, seed=9)
    assert loss(speech, other).diagnostics == first  # the latest ones that were taken
    loss(speech, other)
    assert loss(speech, other).diagnostics != first
    loss.eval()
    assert loss(speech, text).diagnostics["cosine"] == pytest.approx(first["cosine"])
    assert build_loss("cwcl", diagnostics_every=0)(speech, text).diagnostics == {}


def test_diagnostics_after_a_resume_are_those_of_an_unbroken_run():
    """When they are due follows from the number of the step, which a resumed run knows."""
    batches = [_pair(seed=seed) for seed in range(8)]
    whole, resumed = (build_loss("cwcl", diagnostics_every=3) for _ in range(2))
    expected = [whole(*batch, step=i) for i, batch in enumerate(batches)]
    found = [resumed(*batch, step=i) for i, batch in enumerate(batches) if i >= 4]
    taken = [(i, o.diagnostics) for i, o in enumerate(expected) if o.fresh]
    assert [i for i, _ in taken] == [0, 3, 6]
    assert [(i, o.diagnostics) for i, o in enumerate(found, 4) if o.fresh] == taken[2:]


def test_flat_text_space_warns_once():
    base = reference.rows(1, 64)
    flat = torch.nn.functional.normalize(base + 0.05 * reference.rows(40, 64, seed=3), dim=1)
    loss = build_loss("cwcl")
    with pytest.warns(UserWarning, match="the text space is flat"):
        loss(flat, flat)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(12):
            loss(flat, flat)
        build_loss("cwcl")(*(t.detach() for t in _pair()))  # a text space that is not flat
        build_loss("cwcl", weighting={"softmax": 0.1})(flat, flat)  # weights that do not suffer


# ---- errors


def _bad(name, value, speech, text, ids=None, **options):
    with pytest.raises(UserError) as error:
        build_loss("cwcl", **options)(speech, text, ids)
    message = str(error.value)
    assert message.startswith(name), message
    assert value in message, message
    assert "\n" not in message


def test_bad_inputs_name_the_argument():
    speech, text = (t.detach() for t in _pair())

    def changed(tensor, row, value):
        tensor = tensor.clone()
        tensor[row] = value
        return tensor

    _bad("speech", "row 3 holds NaN", changed(speech, 3, float("nan")), text)
    _bad("text", "row 2 holds NaN or infinity", speech, changed(text, 2, float("inf")))
    _bad("speech", "row 5 is a zero vector", changed(speech, 5, 0.0), text)
    _bad("text", "row 0 has norm 3, not 1", speech, text * 3)
    _bad("text", "shape (23, 8) does not match speech (24, 8)", speech, text[:23])
    _bad("text", "does not match", speech, reference.rows(24, 9))
    _bad("speech", "expected shape (batch, dim)", speech[0], text[0])
    _bad("speech", "expected a floating-point tensor", speech.long(), text)
    _bad("speech", "expected a tensor", speech.numpy(), text)
    _bad("speech", "has no rows", speech[:0], text[:0])
    _bad("speech", "this one has 1 row", speech[:1], text[:1])
    _bad("text_ids", "expected shape (24,)", speech, text, torch.arange(23))
    _bad("text_ids", "expected an int64 tensor", speech, text, torch.arange(24.0))


def test_other_device():
    speech, text = (t.detach() for t in _pair())
    elsewhere = text.to("meta")
    with pytest.raises(UserError, match="text: is on meta, speech on cpu"):
        check_pair(speech, elsewhere)
    with pytest.raises(UserError, match="text_ids: is on meta, speech on cpu"):
        build_loss("cwcl")(speech, text, torch.arange(24, device="meta"))


def test_one_row_is_enough_where_nothing_is_contrasted():
    speech, text = (t.detach()[:1] for t in _pair())
    assert build_loss("cosine")(speech, text).total.item() >= 0
    for name in ("clip", "siglip", "supcon"):
        with pytest.raises(UserError, match="speech: term"):
            build_loss(name)(speech, text, torch.zeros(1, dtype=torch.int64))


def test_supcon_needs_ids():
    with pytest.raises(UserError, match="text_ids: term 'supcon'"):
        build_loss("supcon")(*_pair())


@pytest.mark.parametrize(
    ("spec", "options", "says"),
    [
        ("cwlc", {}, "no loss 'cwlc' (closest: 'cwcl')"),
        ({"cwlc": 1}, {}, "no term 'cwlc' (closest: 'cwcl')"),
        ({"cwcl": {"weigting": "linear"}}, {}, "closest: 'weighting'"),
        ({"cwcl": {"weighting": "sofmax"}}, {}, "term 'cwcl': weighting: no weighting 'sofmax'"),
        ({"cwcl": {"anchor": "txt"}}, {}, "anchor: 'txt' is not one of speech, text, both"),
        ({"cl": {"direction": "both ways"}}, {}, "direction: 'both ways'"),
        ({"relational": {"source": "speech"}}, {}, "source: 'speech'"),
        ({"cwcl.bank": {"kind": "cwcl"}}, {}, "'cwcl.bank' cannot name a term"),
        ({"keys": {"kind": "cwcl"}}, {}, "'keys' cannot name a term"),
        ({"cwcl": -1}, {}, "a weight of at least 0, got -1"),
        ({"cwcl": "much"}, {}, "a weight of at least 0, got 'much'"),
        ({"cwcl": 0}, {}, "no term has a weight above 0"),
        ({}, {}, "expected a name or a dictionary"),
        (["cwcl"], {}, "expected a name or a dictionary"),
        ("cwcl", {"weightin": "linear"}, "no term here takes 'weightin' (closest: 'weighting')"),
        ("cosine", {"anchor": "text"}, "no term here takes 'anchor'"),
        ("cwcl", {"temperature": 0}, "temperature: must be a positive number"),
        ("cwcl", {"temperature": 0.1, "scale": 10}, "scale or temperature, not both"),
        ("cwcl", {"scale": {"intit": 3}}, "no option 'intit' (closest: 'init')"),
        ("cwcl", {"temperature": 0.001}, "outside its bounds [1.0, 100.0]"),
        ("cwcl", {"bank": "yes"}, "bank must be true, false or left out, got 'yes'"),
    ],
)
def test_bad_specs(spec, options, says):
    with pytest.raises(UserError) as error:
        build_loss(spec, **options)
    assert says in str(error.value)
