"""Log-sum-exp over all pairs of a batch, chunk by chunk, with a hand-written backward.

Every contrastive term here is ``mean_i logsumexp_j(s <a_i, b_j>)`` minus something linear in the
pairs, so this file holds the only work that grows with the square of the batch. It walks the
``N x M`` logits in chunks of rows that stay in the processor's cache. Up to ``memory`` bytes of
exponentials are kept for the backward pass; what does not fit is computed again there. One matrix
product yields both directions (rows: speech -> text, columns: text -> speech). Where a target
matrix is at hand, its share joins the gradient of the logits, and costs no product of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speechcwcl.losses.products import chunk_rows, fits_range, product, working_dtypes, workspace

DIRECTIONS = ("rows", "columns", "rows_masked", "columns_masked")
DEFAULT_MEMORY = 512 * 2**20  # bytes of kept exponentials: N x N in float32 up to N = 11,585


@dataclass
class _Plan:
    """What one call computes and how; shared by its forward and backward."""

    wanted: tuple[str, ...]
    chunk: int
    kept: int  # rows whose exponentials (or logits) are kept for the backward pass
    bounded: bool
    operand: torch.dtype
    accumulate: torch.dtype
    ids: Tensor | None = None
    scale: float = 1.0
    text_grad: bool = False
    pulls: tuple[Tensor | None, ...] = ()  # (N, M) each, None the identity: see ``pair_sums``

    def spans(self, rows: int) -> Iterable[tuple[int, int]]:
        return ((lo, min(lo + self.chunk, rows)) for lo in range(0, rows, self.chunk))

    def mask(self, lo: int, hi: int) -> Tensor | None:
        """True at pairs of rows ``lo..hi`` that share a text without being the same item."""
        if self.ids is None:
            return None
        same = self.ids[lo:hi, None] == self.ids[None, :]
        rows = torch.arange(lo, hi, device=same.device)
        same[rows - lo, rows] = False
        return same

    def logits(self, speech: Tensor, text: Tensor, lo: int, hi: int, out: Tensor | None) -> Tensor:
        """Logits of rows ``lo..hi``: (hi - lo, M)."""
        return product(speech[lo:hi], text.T, self.accumulate, out, self.scale)

    def values(self, logits: Tensor) -> Tensor:
        """What is summed and kept, in the place of the logits: their exponentials if bounded."""
        return logits.exp_() if self.bounded else logits


class _Accumulator:
    """Collects row and column sums (or log-sum-exps) over the chunks."""

    def __init__(self, plan: _Plan, rows: int, columns: int, like: Tensor) -> None:
        self.plan = plan
        new = {"dtype": plan.accumulate, "device": like.device}
        self.sums: dict[str, Tensor] = {}
        self.peaks: dict[str, Tensor] = {}
        for name in plan.wanted:
            length = rows if name.startswith("rows") else columns
            self.sums[name] = torch.zeros(length, **new)
            if not plan.bounded:
                self.peaks[name] = torch.full((length,), -math.inf, **new)
        self.pulled = [torch.zeros((), **new) for _ in plan.pulls]

    def pull(self, logits: Tensor, lo: int, hi: int) -> None:
        for total, matrix in zip(self.pulled, self.plan.pulls, strict=True):
            if matrix is None:
                total += logits.diagonal(lo).sum()
            else:
                total += torch.dot(matrix[lo:hi].flatten(), logits.flatten())

    def add(self, block: Tensor, lo: int, hi: int) -> None:
        mask = self.plan.mask(lo, hi)
        hidden = 0.0 if self.plan.bounded else -math.inf
        masked = block.masked_fill(mask, hidden) if mask is not None else block
        for name in self.plan.wanted:
            source = masked if name.endswith("masked") else block
            if name.startswith("rows"):
                total = source.sum(1) if self.plan.bounded else torch.logsumexp(source, 1)
                self.sums[name][lo:hi] = total
            elif self.plan.bounded:
                self.sums[name] += source.sum(0)
            else:
                self._add_columns(name, source)

    def _add_columns(self, name: str, source: Tensor) -> None:
        peak = torch.maximum(self.peaks[name], source.amax(0))
        safe = peak.masked_fill(peak == -math.inf, 0.0)
        self.sums[name] *= torch.exp(self.peaks[name] - safe)
        self.sums[name] += torch.exp(source - safe).sum(0)
        self.peaks[name] = peak

    def logsumexp(self, name: str) -> Tensor:
        if self.plan.bounded:
            return self.sums[name].log()
        if name.startswith("rows"):
            return self.sums[name]
        return self.sums[name].log() + self.peaks[name]


class _Weigher:
    """Gradient with respect to one chunk of logits.

    Args:
        plan: how the forward pass computed them.
        grads: incoming gradient of each wanted vector.
        pulls: incoming gradient of the sum with each target matrix.
        lse: the vectors.
        rows: N.
        like: a tensor on the right device.
    """

    def __init__(
        self, plan: _Plan, grads: dict, pulls: list[float], lse: dict, rows: int, like: Tensor
    ) -> None:
        self.plan, self.grads, self.pulls, self.lse = plan, grads, pulls, lse
        if plan.bounded:
            self.factors = {name: grads[name] * torch.exp(-lse[name]) for name in grads}
        self.buffer = workspace(min(plan.chunk, rows), len(like), plan.accumulate, like.device)

    def __call__(self, block: Tensor, lo: int, hi: int) -> Tensor:
        """Weights of rows ``lo..hi``: (hi - lo, M); valid until the next call."""
        total = self._softmax(block, lo, hi)
        for grad, matrix in zip(self.pulls, self.plan.pulls, strict=True):
            if matrix is None:
                total.diagonal(lo).add_(grad)
            else:
                total.add_(matrix[lo:hi], alpha=grad)
        return total

    def _softmax(self, block: Tensor, lo: int, hi: int) -> Tensor:
        plan, out = self.plan, self.buffer[: hi - lo]
        mask = plan.mask(lo, hi)
        plain = [name for name in ("rows", "columns") if name in self.grads]
        masked = [name + "_masked" for name in ("rows", "columns")]
        masked = [name for name in masked if name in self.grads]
        total = self._one(block, plain, lo, hi, out) if plain else None
        if not masked:
            return total
        if mask is not None:
            block = block.masked_fill(mask, 0.0 if plan.bounded else -math.inf)
        other = self._one(block, masked, lo, hi, torch.empty_like(out) if plain else out)
        return other if total is None else total.add_(other)

    def _one(self, block: Tensor, names: list[str], lo: int, hi: int, out: Tensor) -> Tensor:
        row = next((name for name in names if name.startswith("rows")), None)
        column = next((name for name in names if name.startswith("columns")), None)
        if not self.plan.bounded:
            return self._shifted(block, row, column, lo, hi, out)
        if row is None:
            return torch.mul(block, self.factors[column][None, :], out=out)
        if column is None:
            return torch.mul(block, self.factors[row][lo:hi, None], out=out)
        torch.add(self.factors[row][lo:hi, None], self.factors[column][None, :], out=out)
        return out.mul_(block)

    def _shifted(
        self, block: Tensor, row: str | None, column: str | None, lo: int, hi: int, out: Tensor
    ) -> Tensor:
        """From logits, where their exponentials would leave the range."""
        if row is not None:
            torch.sub(block, self.lse[row][lo:hi, None], out=out).exp_()
            out.mul_(self.grads[row][lo:hi, None])
        if column is not None:
            other = torch.sub(block, self.lse[column][None, :]).exp_()
            other.mul_(self.grads[column][None, :])
            out = out.copy_(other) if row is None else out.add_(other)
        return out


class _PairLogSumExp(torch.autograd.Function):
    """Row and column log-sum-exp of ``scale * speech @ text.T`` without holding all of it."""

    @staticmethod
    def forward(ctx, speech, text, scale, plan):  # noqa: D102
        rows, columns = speech.shape[0], text.shape[0]
        a, b = speech.to(plan.operand), text.to(plan.operand)
        new = {"dtype": plan.accumulate, "device": speech.device}
        kept = torch.empty((plan.kept, columns), **new)
        scratch = None
        if plan.kept < rows:
            scratch = torch.empty((min(plan.chunk, rows), columns), **new)
        sums = _Accumulator(plan, rows, columns, speech)
        for lo, hi in plan.spans(rows):
            out = kept[lo:hi] if hi <= plan.kept else scratch[: hi - lo]
            logits = plan.logits(a, b, lo, hi, out)
            sums.pull(logits, lo, hi)
            sums.add(plan.values(logits), lo, hi)
        result = tuple(sums.logsumexp(name) for name in plan.wanted)
        ctx.plan = plan
        ctx.save_for_backward(speech, text, scale, kept, *result)
        return (*result, *sums.pulled)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *outputs):  # noqa: D102
        plan: _Plan = ctx.plan
        speech, text, scale, kept, *values = ctx.saved_tensors
        lse = dict(zip(plan.wanted, values, strict=True))
        # Gradients are divided by ``peak`` first and multiplied by ``scale * peak`` last. In full
        # precision that is 1, which spares a pass; else it keeps the weights near 1, where half
        # precision does not lose them.
        half = plan.operand != plan.accumulate
        peak = (max(float(g.abs().max()) for g in outputs) or 1.0) if half else 1.0 / plan.scale
        count = len(plan.wanted)
        grads = {n: g / peak for n, g in zip(plan.wanted, outputs[:count], strict=True)}
        pulls = [float(g) / peak for g in outputs[count:]]
        with torch.autocast(speech.device.type, enabled=False):
            weigh = _Weigher(plan, grads, pulls, lse, len(speech), text)
            to_speech, to_text = _pull_back(plan, speech, text, kept, weigh)
        to_scale = None
        if ctx.needs_input_grad[2]:
            to_scale = ((speech * to_speech).sum() * peak).to(scale.dtype)
        if half:
            to_speech.mul_(plan.scale * peak)
            to_text = None if to_text is None else to_text.mul_(plan.scale * peak)
        return to_speech, to_text, to_scale, None


def _pull_back(
    plan: _Plan, speech: Tensor, text: Tensor, kept: Tensor, weigh: _Weigher
) -> tuple[Tensor, Tensor | None]:
    """Push the gradient of the logits chunk by chunk onto both sides."""
    a, b = speech.to(plan.operand), text.to(plan.operand)
    rows, columns = len(a), len(b)
    new = {"dtype": plan.accumulate, "device": a.device}
    to_speech = torch.empty(speech.shape, **new)
    to_text = torch.zeros(text.shape, **new) if plan.text_grad else None
    scratch = None
    if plan.kept < rows:
        scratch = torch.empty((min(plan.chunk, rows), columns), **new)
    for lo, hi in plan.spans(rows):
        stored = hi <= plan.kept
        block = kept[lo:hi] if stored else None
        if block is None:
            block = plan.values(plan.logits(a, b, lo, hi, scratch[: hi - lo]))
        weight = weigh(block, lo, hi).to(plan.operand)
        product(weight, b, plan.accumulate, to_speech[lo:hi])
        if to_text is not None:
            to_text += product(weight.T, a[lo:hi], plan.accumulate)
    return to_speech, to_text


def pair_sums(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    wanted: Iterable[str] = ("rows", "columns"),
    pulls: Sequence[Tensor | None] = (),
    ids: Tensor | None = None,
    chunk: int | None = None,
    memory: int = DEFAULT_MEMORY,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Log-sum-exp of the logits ``s <speech_i, text_j>`` along rows, columns or both, and pulls.

    ``rows[i] = log sum_j exp(s <speech_i, text_j>)`` and ``columns[j]`` the same over ``i``. The
    ``_masked`` forms leave out pairs of different items that share a text (``ids``). A pull is
    ``sum_ij y_ij s <speech_i, text_j>``; its gradient joins that of the log-sum-exps before the
    products that they need anyway.

    Args:
        speech: (N, dim) unit-norm.
        text: (M, dim) unit-norm; its gradient is computed only if it asks for one.
        scale: logit scale ``1 / tau``, a number or a 0-d tensor that may need a gradient.
        wanted: names from ``DIRECTIONS``.
        pulls: constant matrices ``y`` (N, M); None for the identity, the sum over the pairs.
        ids: (N,) int64, equal where transcripts are equal; needs ``N == M``.
        chunk: rows of logits at a time; chosen to fit the cache when None.
        memory: bytes of exponentials that may be kept for the backward pass; 0 keeps none.

    Returns:
        One vector for every name in ``wanted``, and a 0-d tensor for each of ``pulls``;
        differentiable once.

    Example:
        >>> import torch
        >>> p = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
        >>> q = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
        >>> lse, (pairs,) = pair_sums(p, q, 10.0, pulls=[None])
        >>> torch.allclose(lse["rows"], torch.logsumexp(10 * p @ q.T, 1), atol=1e-5)
        True
        >>> torch.allclose(pairs, 10 * (p * q).sum(), atol=1e-5)
        True
    """
    asked = tuple(name for name in DIRECTIONS if name in set(wanted))
    unmask = ids is None or not has_duplicates(ids)
    names = tuple(dict.fromkeys(_plain(n) if unmask else n for n in asked))
    accumulate = working_dtypes(speech, text)[1]
    scale = torch.as_tensor(scale, dtype=accumulate, device=speech.device)
    plan = _make_plan(speech, text, scale, names, None if unmask else ids, chunk, memory)
    plan.pulls = tuple(None if m is None else m.detach().to(accumulate) for m in pulls)
    with torch.autocast(speech.device.type, enabled=False):
        result = _PairLogSumExp.apply(speech.to(accumulate), text.to(accumulate), scale, plan)
    found = dict(zip(names, result[: len(names)], strict=True))
    lse = {name: found[_plain(name) if unmask else name] for name in asked}
    return lse, list(result[len(names) :])


def _make_plan(
    speech: Tensor,
    text: Tensor,
    scale: Tensor,
    names: tuple[str, ...],
    ids: Tensor | None,
    chunk: int | None,
    memory: int,
) -> _Plan:
    """Choose chunk, what is kept for the backward pass, and whether the shift can be left out."""
    operand, accumulate = working_dtypes(speech, text)
    rows, columns = speech.shape[0], text.shape[0]
    value = float(scale.detach())
    step = chunk_rows(columns, accumulate, speech.device, chunk)
    kept = 0
    if torch.is_grad_enabled() and any(t.requires_grad for t in (speech, text, scale)):
        fit = memory // (max(1, columns) * torch.finfo(accumulate).bits // 8)
        kept = rows if fit >= rows else fit // step * step
    return _Plan(
        wanted=names,
        chunk=step,
        kept=kept,
        bounded=fits_range(value, max(rows, columns), accumulate),
        operand=operand,
        accumulate=accumulate,
        ids=None if ids is None else torch.unique(ids, return_inverse=True)[1].to(torch.int32),
        scale=value,
        text_grad=text.requires_grad,
    )


def _plain(name: str) -> str:
    return name.removesuffix("_masked")


def has_duplicates(ids: Tensor) -> bool:
    """Whether any value occurs twice."""
    return ids.unique().numel() < ids.numel()
