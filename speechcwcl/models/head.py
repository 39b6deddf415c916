"""From frames to one vector in the text space: context layers, pooling, projection."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechcwcl.errors import UserError, closest
from speechcwcl.models.encoders.frames import valid

_STATS = ("mean", "max", "std")


class Context(nn.Module):
    """A few pre-norm transformer layers over the true frames, each after a short convolution.

    A frozen recogniser's frames say which sounds are where; what a sentence means depends on which
    words stand together, and a weighted mean of frames cannot tell that.

    Args:
        dim: width of a frame, a multiple of `heads`.
        heads: of the attention.
        hidden: width of the feed-forward part.
        kernel: frames that the depthwise convolution sees (odd); 0 leaves it out.
        dropout: in the layers, not on the attention's weights.
    """

    def __init__(
        self,
        dim: int,
        layers: int = 1,
        heads: int = 6,
        hidden: int = 768,
        kernel: int = 5,
        dropout: float = 0.1,
    ):
        super().__init__()
        if layers < 1 or heads < 1 or dim % heads:
            raise UserError(f"context: {heads} heads do not divide {dim} channels evenly")
        if kernel < 0 or (kernel and kernel % 2 == 0):
            raise UserError(f"context: kernel {kernel} is not odd")
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, heads, hidden, dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        for block in self.blocks:  # dropout here would rule out the fused attention kernels
            block.get_submodule("self_attn").dropout = 0.0  # type: ignore[assignment]
        self.convs = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
            for _ in range(layers if kernel else 0)
        )

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, dim), (batch,) -> (batch, frames, dim); zeros beyond the lengths."""
        outside = ~valid(lengths, frames.shape[1])
        for number, block in enumerate(self.blocks):
            if len(self.convs):
                inside = frames.masked_fill(outside[:, :, None], 0.0)
                frames = frames + self.convs[number](inside.transpose(1, 2)).transpose(1, 2)
            frames = block(frames, src_key_padding_mask=outside)
        return frames.masked_fill(outside[:, :, None], 0.0)


class MeanPooling(nn.Module):
    """Mean over the true frames."""

    def __init__(self, dim: int):
        super().__init__()
        self.out_dim = dim

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, dim), (batch,) -> (batch, dim)."""
        return _statistic("mean", frames, valid(lengths, frames.shape[1])[:, :, None])


class AttentionPooling(nn.Module):
    """Learned weighted means over the true frames, with several heads and queries.

    Each query gives every head (an equal share of the channels) its own softmax over time; plain
    statistics may be put beside them. A network with one head and one query is the attentive
    pooling of speaker recognition.

    Args:
        dim: width of a frame, a multiple of `heads`.
        heads: groups of channels with weights of their own.
        queries: weighted means per head.
        hidden: width of the scoring network; 0 scores by a single linear map.
        stats: any of `mean`, `max`, `std`, put beside the weighted means.
        norm: layer-normalise the frames first.
        dropout: on the frames.
        context: options of [`Context`][], layers over the frames
            before they are pooled; None for none.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 4,
        queries: int = 1,
        hidden: int = 128,
        stats: Sequence[str] = (),
        norm: bool = True,
        dropout: float = 0.0,
        context: dict[str, Any] | None = None,
    ):
        super().__init__()
        if heads < 1 or queries < 1 or dim % heads:
            raise UserError(f"pooling: {heads} heads do not divide {dim} channels evenly")
        for stat in stats:
            if stat not in _STATS:
                raise UserError(f"pooling: no statistic {stat!r}{closest(stat, _STATS)}")
        self.heads, self.queries, self.stats = heads, queries, tuple(stats)
        self.context = _build("context", Context, context, dim) if context else None
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        if hidden:
            self.score = nn.Sequential(
                nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, heads * queries)
            )
        else:
            self.score = nn.Sequential(nn.Linear(dim, heads * queries))
        # Zero: pooling starts as a plain mean, from which the queries part by the random hidden
        # layer; with no hidden layer or with several queries they need something to part by.
        if hidden and queries == 1:
            nn.init.zeros_(self.score.get_parameter(f"{len(self.score) - 1}.weight"))
        self.out_dim = dim * (queries + len(self.stats))

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, dim), (batch,) -> (batch, out_dim)."""
        mask = valid(lengths, frames.shape[1])[:, :, None]
        if self.context is not None:
            frames = self.context(frames, lengths)
        frames = self.dropout(self.norm(frames))
        scores = self.score(frames).float().masked_fill(~mask, -torch.inf)
        # Each query and head weighs all channels, and its own are kept: a few products more, but
        # none of the copies that turning the frames into heads would take. The mean is one more.
        rows = scores.softmax(dim=1)
        if "mean" in self.stats:
            rows = torch.cat([rows, mask / lengths.clamp(min=1)[:, None, None]], dim=2)
        means = torch.bmm(rows.to(frames.dtype).transpose(1, 2), frames)
        count = self.queries * self.heads
        parts = [self._own_channels(means[:, :count])]
        for name in self.stats:
            parts.append(means[:, count] if name == "mean" else _statistic(name, frames, mask))
        return torch.cat(parts, dim=-1)

    def _own_channels(self, means: Tensor) -> Tensor:
        """(batch, queries * heads, dim) -> (batch, queries * dim): of each head its channels."""
        own = means.unflatten(2, (self.heads, -1)).unflatten(1, (self.queries, self.heads))
        return own.diagonal(dim1=2, dim2=3).transpose(2, 3).flatten(1)


def _statistic(name: str, frames: Tensor, mask: Tensor) -> Tensor:
    if name == "max":  # not amax: its backward pass goes over all frames several times
        return frames.masked_fill(~mask, -torch.inf).max(dim=1).values
    count = mask.sum(dim=1).to(frames.dtype)
    mean = frames.masked_fill(~mask, 0.0).sum(dim=1) / count
    if name == "mean":
        return mean
    square = (frames - mean[:, None]).masked_fill(~mask, 0.0).square()
    return (square.sum(dim=1) / count + 1e-6).sqrt()


POOLINGS = {"mean": MeanPooling, "attention": AttentionPooling}


def build_pooling(name: str, dim: int, options: dict[str, Any] | None = None) -> Any:
    """The pooling `"mean"` or `"attention"`."""
    if name not in POOLINGS:
        near = closest(str(name), POOLINGS)
        raise UserError(f"pooling: no {name!r}{near}; there is {', '.join(POOLINGS)}")
    return _build(f"pooling {name}", POOLINGS[name], options or {}, dim)


class Projection(nn.Module):
    """From the pooled vector to the text encoder's space.

    Args:
        in_dim: width of the pooled vector.
        out_dim: width of the text space.
        hidden: widths of the hidden layers; none makes it linear.
        dropout: after each hidden layer.
        norm: layer-normalise the input, and each hidden layer.
        outputs: how many last layers stand side by side, each with a loss of its own in training;
            the embedding is their mean.
        rank: of the first hidden layer, which is then two thinner ones; None: a full one.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden: Sequence[int] = (1024,),
        dropout: float = 0.1,
        norm: bool = True,
        outputs: int = 1,
        rank: int | None = None,
    ):
        super().__init__()
        whole = isinstance(hidden, (list, tuple)) and all(type(n) is int for n in hidden)
        if not whole or not all(0 < size <= 1 << 16 for size in hidden):
            raise UserError(f"projection: hidden: {hidden!r} is no list of widths from 1 to 65536")
        for name, count in (("outputs", outputs), ("rank", 1 if rank is None else rank)):
            if type(count) is not int or not 0 < count <= 1 << 12:
                raise UserError(f"projection: {name}: {count!r} is not a number from 1 to 4096")
        if rank is not None and not hidden:
            raise UserError(f"projection: rank: {rank}, and no hidden layer that could have it")
        steps: list[nn.Module] = [nn.LayerNorm(in_dim)] if norm else []
        width = in_dim
        for place, size in enumerate(hidden):
            thin = [nn.Linear(width, rank, bias=False)] if rank and not place else []
            layer = nn.Linear(rank if rank and not place else width, size)
            steps.append(nn.Sequential(*thin, layer) if thin else layer)
            steps += [nn.LayerNorm(size)] if norm else []
            steps += [nn.GELU(), nn.Dropout(dropout)]
            width = size
        self.steps = nn.Sequential(*steps, nn.Linear(width, outputs * out_dim))
        self.outputs = outputs

    def forward(self, pooled: Tensor) -> Tensor:
        """(batch, in_dim) -> (batch, outputs, out_dim), unit norm."""
        projected = self.steps(pooled).float().unflatten(-1, (self.outputs, -1))
        return nn.functional.normalize(projected, dim=-1)


_PROJECTIONS: dict[str, dict[str, Any]] = {"linear": {"hidden": []}, "mlp": {}}


def build_projection(spec: str | dict[str, Any], in_dim: int, out_dim: int) -> Projection:
    """A projection from `"linear"`, `"mlp"` or options of [`Projection`][]."""
    if isinstance(spec, str):
        if spec not in _PROJECTIONS:
            near = closest(spec, _PROJECTIONS)
            raise UserError(f"projection: no {spec!r}{near}; there is {', '.join(_PROJECTIONS)}")
        spec = _PROJECTIONS[spec]
    return _build("projection", Projection, spec, in_dim, out_dim)


def _build(what: str, kind: type[nn.Module], options: dict[str, Any], *dims: int) -> Any:
    known = list(inspect.signature(kind).parameters)[len(dims) :]
    for key in options:
        if key not in known:
            near = closest(key, known)
            raise UserError(
                f"{what}: no option {key!r}{near}; there is {', '.join(known) or 'none'}"
            )
    try:
        return kind(*dims, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what}: {error}") from error
