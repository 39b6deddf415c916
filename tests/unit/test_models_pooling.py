"""Pooling, projection, and the small operations on frames."""

import re
from pathlib import Path

import pytest
import torch

from speechcwcl.errors import UserError
from speechcwcl.models import head as heads
from speechcwcl.models.encoders.frames import (
    LayerMix,
    Windows,
    by_length,
    stride_mean,
    zero_beyond,
)
from speechcwcl.models.head import AttentionPooling, build_pooling, build_projection

FRAMES = torch.randn(3, 11, 8, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([11, 1, 6])


def randomise(module):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.eval()


OPTIONS = [
    {},
    {"heads": 2, "queries": 3},
    {"heads": 1, "hidden": 0, "norm": False},
    {"stats": ["mean", "max", "std"]},
    {"context": {"layers": 2, "heads": 2, "hidden": 8, "kernel": 3}},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_attention_pooling_sees_true_frames_only(options):
    pooling = randomise(build_pooling("attention", 8, options))
    whole = pooling(FRAMES, LENGTHS)
    assert whole.shape == (3, pooling.out_dim)
    dirty = FRAMES.clone()
    for row, length in enumerate(LENGTHS):
        dirty[row, length:] = 1e4
        alone = pooling(FRAMES[row : row + 1, :length], LENGTHS[row : row + 1])
        assert torch.allclose(alone[0], whole[row], atol=1e-5)
    assert torch.allclose(pooling(dirty, LENGTHS), whole, atol=1e-5)


def test_the_pooling_of_contributing(monkeypatch):
    """The page is run literally, as if it stood in head.py."""
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = re.search(r"## Add a pooling.*?```python\n(.*?)```", page, re.DOTALL)[1]
    monkeypatch.setattr(heads, "POOLINGS", dict(heads.POOLINGS))
    exec(code, dict(vars(heads)))
    pooling = build_pooling("last", 8)
    expected = torch.stack([FRAMES[0, 10], FRAMES[1, 0], FRAMES[2, 5]])
    assert torch.equal(pooling(FRAMES, LENGTHS), expected) and pooling.out_dim == 8


def test_attention_pooling_by_hand():
    pooling = randomise(AttentionPooling(8, heads=2, queries=2, hidden=4, stats=["max"]))
    frames = torch.nn.functional.layer_norm(
        FRAMES[2, :6], (8,), pooling.norm.weight, pooling.norm.bias
    )
    scores = pooling.score(frames)  # (time, queries * heads)
    expected = []
    for query in range(2):
        for head in range(2):
            weights = scores[:, 2 * query + head].softmax(0)
            expected.append(weights @ frames[:, 4 * head : 4 * head + 4])
    expected.append(frames.max(0).values)
    assert torch.allclose(pooling(FRAMES, LENGTHS)[2], torch.cat(expected), atol=1e-5)


def test_mean_pooling():
    found = build_pooling("mean", 8)(FRAMES, LENGTHS)
    assert torch.allclose(found[2], FRAMES[2, :6].mean(0), atol=1e-6)
    assert torch.allclose(found[1], FRAMES[1, 0], atol=1e-6)


def test_attention_pooling_begins_as_the_mean_and_learns():
    pooling = AttentionPooling(8, norm=False)
    mean = build_pooling("mean", 8)(FRAMES, LENGTHS)
    assert torch.allclose(pooling(FRAMES, LENGTHS), mean, atol=1e-6)
    pooling(FRAMES, LENGTHS).square().sum().backward()
    assert pooling.score[-1].weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("spec", "linear_maps"), [("linear", 1), ("mlp", 2), ({"hidden": [5, 6]}, 3)]
)
def test_projection_depths(spec, linear_maps):
    projection = build_projection(spec, 8, 4)
    found = [m for m in projection.modules() if isinstance(m, torch.nn.Linear)]
    assert len(found) == linear_maps
    assert projection(torch.randn(2, 8)).shape == (2, 1, 4)


def test_projection_dropout_only_in_training():
    projection = build_projection({"hidden": [64], "dropout": 0.5}, 8, 4)
    x = torch.randn(2, 8)
    assert not torch.equal(projection.train()(x), projection(x))
    assert torch.equal(projection.eval()(x), projection(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: build_pooling("atention", 8), "no 'atention' .closest: 'attention'."),
        (lambda: build_pooling("attention", 8, {"head": 2}), "no option 'head' .closest: 'heads'"),
        (lambda: build_pooling("mean", 8, {"heads": 2}), "no option 'heads'"),
        (lambda: build_pooling("attention", 8, {"heads": 3}), "3 heads do not divide 8"),
        (lambda: build_pooling("attention", 8, {"stats": ["median"]}), "no statistic 'median'"),
        (lambda: build_projection("conv", 8, 4), "no 'conv'"),
        (lambda: build_projection({"depth": 2}, 8, 4), "no option 'depth'"),
        (lambda: build_projection({"hidden": 7}, 8, 4), "projection: "),
        (lambda: build_projection({"outputs": 0}, 8, 4), "outputs: 0 is not a number from 1"),
        (lambda: build_projection({"hidden": [], "rank": 2}, 8, 4), "rank: 2, and no hidden layer"),
        (
            lambda: build_projection({"hidden": [-5]}, 8, 4),
            "projection: hidden: .-5. is no list of",
        ),
    ],
)
def test_wrong_specs(make, words):
    with pytest.raises(UserError, match=words):
        make()


@pytest.mark.parametrize("stride", [1, 2, 4, 20])
def test_stride_mean_by_hand(stride):
    frames = zero_beyond(FRAMES, LENGTHS)
    found, lengths = stride_mean(frames, LENGTHS, stride)
    for row, length in enumerate(LENGTHS):
        groups = FRAMES[row, :length].split(stride)
        assert lengths[row] == len(groups)
        expected = torch.stack([group.mean(0) for group in groups])
        assert torch.allclose(found[row, : len(groups)], expected, atol=1e-6)
        assert found[row, len(groups) :].abs().sum() == 0


@pytest.mark.parametrize("size", [None, 3, 4, 11, 50])
def test_windows_come_together_again(size):
    frames = zero_beyond(FRAMES, LENGTHS)
    windows = Windows(LENGTHS, 11, size)
    parts = windows.split(frames)
    assert torch.equal(windows.merge(parts), frames)
    assert len(parts) == len(windows.lengths)
    assert int(windows.lengths.sum()) == int(LENGTHS.sum())
    assert windows.lengths.min() > 0


def test_layer_mix_begins_as_the_plain_mean():
    mix = LayerMix(3)
    states = torch.randn(2, 5, 3, 4)
    assert torch.allclose(mix(states), states.mean(2), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heads": 3}, "3 heads do not divide 8"), ({"kernel": 4, "heads": 2}, "kernel 4 is not odd"),
     ({"depth": 2}, "there is layers, heads")],
)  # fmt: skip
def test_a_wrong_context_is_named(options, message):
    with pytest.raises(UserError, match=message):
        AttentionPooling(8, context=options)


def test_context_lets_frames_see_one_another():
    from speechcwcl.models.head import Context

    torch.manual_seed(0)
    context = Context(8, heads=2, hidden=8).eval()
    changed = FRAMES.clone()
    changed[0, 9] += 1
    before, after = context(FRAMES, LENGTHS), context(changed, LENGTHS)
    assert (before[0, 0] - after[0, 0]).abs().max() > 1e-4  # through attention
    assert torch.allclose(before[1:], after[1:], atol=1e-6)


def test_by_length_saves_padding_and_changes_nothing():
    torch.manual_seed(0)
    lengths = torch.tensor([3, 90, 40, 5, 88, 7, 60, 91, 2, 41])
    frames = torch.randn(10, 91, 8)
    for row, length in zip(frames, lengths, strict=True):
        row[length:] = 1e9  # padding that would be noticed
    pooling = AttentionPooling(8, heads=2, queries=2, stats=["mean", "max"])
    computed = []

    def embed(part, part_lengths):
        computed.append(part.shape[0] * part.shape[1])
        return pooling(part, part_lengths)

    for least, most in ((2, 500), (10, 910)):
        computed.clear()
        found = by_length(embed, frames, lengths, least=least)
        assert torch.allclose(found, pooling(frames, lengths), atol=1e-6)
        assert sum(computed) <= most
    assert by_length(embed, frames[:1], lengths[:1]).shape == (1, 32)
