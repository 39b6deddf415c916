"""The one kernel under the losses: log-sum-exp over all pairs of a batch, chunk by chunk.

Every contrastive loss here is `mean_i logsumexp_j(s <a_i, b_j>)` minus something linear in the
logits, so this file holds the only work that grows with the square of the batch. It walks the
`N x M` logits in chunks of rows that stay in the processor's cache. Up to `memory` bytes of
exponentials are kept for the backward pass; what does not fit is computed again there. One matrix
product yields both directions (rows: speech -> text, columns: text -> speech). Where a matrix of
weights is at hand, its share joins the gradient of the logits, and costs no product of its own.

Rows must be unit-norm (`inputs.check_pair`): that bounds every logit by the scale, and while the
exponential of the scale stays in range no shift by the maximum is needed.

Nothing here asks a GPU for a value, which would stop the queue of its work at every step.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS = ("rows", "columns", "rows_masked", "columns_masked")
DEFAULT_MEMORY = 512 * 2**20  # bytes of kept exponentials: N x N in float32 up to N = 11,585
_CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}
_SPARE = threading.local()
Sums = tuple[dict[str, Tensor], list[Tensor]]


def pair_sums(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    wanted: Collection[str] = ("rows", "columns"),
    weights: Sequence[Tensor | None] = (),
    ids: Tensor | None = None,
    chunk: int | None = None,
    memory: int = DEFAULT_MEMORY,
    ceiling: float | None = None,
    like: Tensor | None = None,
) -> Sums:
    """Log-sum-exp of the logits `s <speech_i, text_j>` along rows, columns or both.

    `rows[i] = log sum_j exp(s <speech_i, text_j>)` and `columns[j]` the same over `i`. The
    `_masked` forms leave out pairs of different items that share a text (`ids`). A weighted sum
    is `sum_ij y_ij s <speech_i, text_j>`; it costs no product of its own.

    Args:
        speech: (N, dim) unit-norm; it may lie on another device than the text.
        text: (M, dim) unit-norm.
        scale: logit scale `1 / tau`.
        weights: constant matrices `y` (N, M); None for the identity, the sum over the pairs.
        ids: (N,) int64, equal where transcripts are equal; on a GPU some are taken to be.
        chunk: rows of logits at a time; chosen to fit the cache when None.
        memory: bytes of exponentials that may be kept for the backward pass.
        ceiling: what the scale never exceeds, where that is known; it spares work on a GPU.
        like: the tensor whose precision decides; `speech` when None.

    Returns:
        A vector for each of `wanted` and a 0-d tensor for each of `weights`.

    Examples:
        >>> p, q = torch.nn.functional.normalize(torch.randn(2, 4, 8), dim=2)
        >>> lse = pair_sums(p, q, 10.0)[0]["rows"]
        >>> torch.allclose(lse, torch.logsumexp(10 * p @ q.T, 1), atol=1e-5)
        True
    """
    operand, wide = working_dtypes(*((speech, text) if like is None else (like,)))
    scale = torch.as_tensor(scale, dtype=wide, device=text.device)
    if ceiling is None:
        ceiling = float(scale.detach()) if scale.device.type == "cpu" else math.inf
    step, fit = chunk_rows(len(text), wide, text.device, chunk), 0
    if torch.is_grad_enabled() and any(t.requires_grad for t in (speech, text, scale)):
        fit = memory // (max(1, len(text)) * torch.finfo(wide).bits // 8)
    asked = tuple(name for name in DIRECTIONS if name in wanted)
    numbers = _numbers(ids, text.device)
    plan = _Plan(
        wanted=asked if numbers is not None else tuple(dict.fromkeys(map(_plain, asked))),
        weights=tuple(None if m is None else m.detach().to(wide) for m in weights),
        numbers=numbers,
        chunk=step,
        kept=len(speech) if fit >= len(speech) else fit // step * step,
        bounded=fits_range(ceiling, max(len(speech), len(text)), wide),
        operand=operand,
        wide=wide,
    )
    return _run(speech, text, scale, plan, asked)


def _run(speech: Tensor, text: Tensor, scale: Tensor, plan: _Plan, asked: Sequence[str]) -> Sums:
    with torch.autocast(text.device.type, enabled=False):
        # a frozen side is converted chunk by chunk: it may be a bank in half precision on the CPU
        rows = speech.to(plan.wide) if speech.requires_grad else speech
        result = _PairSums.apply(rows, text.to(plan.wide), scale, plan)
    count = len(plan.wanted)
    lse = dict(zip(plan.wanted, result[:count], strict=True))
    return {n: lse[n if n in lse else _plain(n)] for n in asked}, list(result[count:])


def _plain(name: str) -> str:
    return name.removesuffix("_masked")


def _numbers(ids: Tensor | None, device: torch.device) -> Tensor | None:
    """`ids` as the mask compares them; None where it is known that no two are equal."""
    if ids is None or ids.device.type != "cpu":
        return ids
    found, numbers = ids.unique(return_inverse=True)
    if len(found) == len(ids):
        return None
    return numbers.to(device, torch.int32, non_blocking=True)


@dataclass
class _Plan:
    """What one call computes and how; shared by its forward and backward."""

    wanted: tuple[str, ...]
    weights: tuple[Tensor | None, ...]
    numbers: Tensor | None  # (N,) equal where transcripts are equal
    chunk: int
    kept: int  # rows whose exponentials (or logits) are kept for the backward pass
    bounded: bool  # whether exponentials stay in range without a shift by the maximum
    operand: torch.dtype
    wide: torch.dtype

    def chunks(
        self, speech: Tensor, text: Tensor, scale: Tensor, kept: Tensor, fill: bool
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield the rows of a chunk, their speech, and their logits.

        With `fill` what is kept is computed, else it is found in `kept`; then all are the
        exponentials of logits, if bounded.
        """
        rows, other, on_cpu = len(speech), text.to(self.operand), text.device.type == "cpu"
        factor = float(scale) if on_cpu else 1.0  # a GPU's scale stays there
        scratch = kept.new_empty(min(self.chunk, rows) if self.kept < rows else 0, len(text))
        for lo in range(0, rows, self.chunk):
            part = slice(lo, min(lo + self.chunk, rows))
            own = speech[part].to(text.device, self.wide, non_blocking=True)
            stored = part.stop <= self.kept
            block = kept[part] if stored else scratch[: part.stop - lo]
            if fill or not stored:
                left = own if on_cpu else own * scale
                product(left.to(self.operand), other.T, self.wide, block, factor)
            if self.bounded and not fill and not stored:
                block.exp_()
            yield part, own.to(self.operand), block

    def visible(self, block: Tensor, part: slice) -> Tensor:
        """The block without pairs that share a text without being the same item."""
        if self.numbers is None:
            return block
        same = self.numbers[part, None] == self.numbers[None, :]
        same.diagonal(part.start).fill_(False)
        return block.masked_fill(same, 0.0 if self.bounded else -math.inf)


class _PairSums(torch.autograd.Function):
    """Row and column log-sum-exp of `scale * speech @ text.T` without holding all of it."""

    @staticmethod
    def forward(ctx, speech, text, scale, plan):  # noqa: D102
        new = functools.partial(torch.full, dtype=plan.wide, device=text.device)
        kept = text.new_empty(plan.kept, len(text))
        start = 0.0 if plan.bounded else -math.inf
        sums = {
            name: new((len(speech if name.startswith("rows") else text),), start)
            for name in plan.wanted
        }
        weighted = [new((), 0.0) for _ in plan.weights]
        for part, _, block in plan.chunks(speech, text, scale, kept, fill=True):
            for total, matrix in zip(weighted, plan.weights, strict=True):
                if matrix is None:
                    total += block.diagonal(part.start).sum()
                else:
                    total += torch.dot(matrix[part].flatten(), block.flatten())
            if plan.bounded:
                block.exp_()
            _collect(plan, sums, block, part)
        lse = tuple(sums[name].log_() if plan.bounded else sums[name] for name in plan.wanted)
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(speech, text, scale, kept, *lse)
        return (*lse, *weighted)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *outputs):  # noqa: D102
        plan: _Plan = ctx.plan
        speech, text, scale, kept, *lse = ctx.saved_tensors
        need_speech, need_text, need_scale, _ = ctx.needs_input_grad
        need_speech = need_speech or not need_text
        # The scale belongs to every gradient. In full precision it goes into the weights of the
        # logits, which spares a pass; half precision keeps those near 1 and is multiplied last.
        first, last = scale, None
        if plan.operand != plan.wide:
            peak = torch.stack([g.abs().max() for g in outputs if g is not None]).max()
            first = 1.0 / torch.where(peak > 0, peak, 1.0)
            last = scale / first
        grads = [None if g is None else g * first for g in outputs]
        vectors = zip(plan.wanted, lse, grads, strict=False)
        needed = {name: (values, grad) for name, values, grad in vectors if grad is not None}
        if plan.bounded:
            needed = {name: (v, g * torch.exp(-v)) for name, (v, g) in needed.items()}
        new = functools.partial(torch.empty, dtype=plan.wide, device=text.device)
        to_speech = new(speech.shape) if need_speech else None
        to_text = torch.zeros_like(text) if need_text else None
        other = text.to(plan.operand)
        with torch.autocast(text.device.type, enabled=False):
            for part, own, block in plan.chunks(speech, text, scale, kept, fill=False):
                weight = _softmax_weights(plan, needed, block, part)
                _add_matrices(plan, grads[len(lse) :], weight, part)
                weight = weight.to(plan.operand)
                if to_speech is not None:
                    product(weight, other, plan.wide, to_speech[part])
                if to_text is not None:
                    to_text += product(weight.T, own, plan.wide)
        if last is not None:
            for grad in (to_speech, to_text):
                if grad is not None:
                    grad.mul_(last)
        to_scale = None
        if need_scale:
            side, grad = (text, to_text) if to_speech is None else (speech, to_speech)
            to_scale = (side * grad).sum() / scale
        return to_speech if ctx.needs_input_grad[0] else None, to_text, to_scale, None


def _collect(plan: _Plan, sums: dict[str, Tensor], block: Tensor, part: slice) -> None:
    """Add a block to the sums of exponentials, or to log-sum-exps where they leave the range."""
    masked = plan.visible(block, part) if any(n.endswith("masked") for n in plan.wanted) else block
    for name in plan.wanted:
        source = masked if name.endswith("masked") else block
        if name.startswith("rows"):
            sums[name][part] = source.sum(1) if plan.bounded else source.logsumexp(1)
        elif plan.bounded:
            sums[name] += source.sum(0)
        else:
            torch.logaddexp(sums[name], source.logsumexp(0), out=sums[name])


def _softmax_weights(
    plan: _Plan, needed: dict[str, tuple[Tensor, Tensor]], block: Tensor, part: slice
) -> Tensor:
    """Gradient of the log-sum-exps with respect to a chunk of logits; valid until the next call.

    Args:
        needed: log-sum-exp and its gradient, by name; if bounded, the gradient over its sum.
        block: (rows, M) the logits, or if bounded their exponentials.
    """
    out = workspace(block.shape[0], block.shape[1], block.dtype, block.device)
    empty = True
    for suffix in ("", "_masked"):
        pairs = []
        if "rows" + suffix in needed:
            pairs.append(tuple(v[part, None] for v in needed["rows" + suffix]))
        if "columns" + suffix in needed:
            pairs.append(tuple(v[None, :] for v in needed["columns" + suffix]))
        if not pairs:
            continue
        source = plan.visible(block, part) if suffix else block
        found = out if empty else torch.empty_like(out)
        if not plan.bounded:
            torch.sub(source, pairs[0][0], out=found).exp_().mul_(pairs[0][1])
            for values, grad in pairs[1:]:
                found.add_((source - values).exp_().mul_(grad))
        elif len(pairs) == 2:
            torch.add(pairs[0][1], pairs[1][1], out=found).mul_(source)
        else:
            torch.mul(source, pairs[0][1], out=found)
        if not empty:
            out.add_(found)
        empty = False
    return out.zero_() if empty else out


def _add_matrices(plan: _Plan, grads: Sequence[Tensor | None], weight: Tensor, part: slice) -> None:
    """Add the gradient of the weighted sums to that of the logits."""
    for grad, matrix in zip(grads, plan.weights, strict=True):
        if grad is None:
            continue
        if matrix is None:
            weight.diagonal(part.start).add_(grad)
        elif weight.device.type == "cpu":
            weight.add_(matrix[part], alpha=float(grad))
        else:
            weight.addcmul_(matrix[part], grad)


class _ChunkSum(torch.autograd.Function):
    """Value and gradient chunk by chunk in one pass: nothing N x N is kept."""

    @staticmethod
    def forward(ctx, part, chunk, count, *tensors):  # noqa: D102
        pairs = zip(tensors, ctx.needs_input_grad[3:], strict=True)
        grads = [torch.zeros_like(t) if need else None for t, need in pairs]
        total = 0.0
        for lo in range(0, len(tensors[0]), chunk):
            views = [t[lo : lo + chunk] if i < count else t for i, t in enumerate(tensors)]
            with torch.enable_grad():
                leaves = [
                    view.detach().requires_grad_(grad is not None)
                    for view, grad in zip(views, grads, strict=True)
                ]
                value = part(lo, *leaves)
            if value.requires_grad:
                value.backward()
            total = total + value.detach()
            for i, (grad, leaf) in enumerate(zip(grads, leaves, strict=True)):
                if grad is not None and leaf.grad is not None:
                    (grad[lo : lo + chunk] if i < count else grad).add_(leaf.grad)
        ctx.grads = grads
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer):  # noqa: D102
        return (None, None, None, *(None if g is None else outer * g for g in ctx.grads))


def sum_in_chunks(
    part: Callable[..., Tensor], chunk: int, by_rows: Sequence[Tensor], whole: Sequence[Tensor]
) -> Tensor:
    """Sum of `part(first row, *chunks of by_rows, *whole)`, `chunk` rows at a time."""
    return _ChunkSum.apply(part, chunk, len(by_rows), *by_rows, *whole)


def working_dtypes(*tensors: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Return `(operand dtype, accumulation dtype)` for products of `tensors`.

    float64 stays. On a GPU, autocast or half-precision inputs give half-precision operands whose
    product comes out in float32. Elsewhere everything is float32: a CPU has no product that takes
    half precision and returns float32, and rounded logits would cost more than they save.
    """
    if any(t.dtype == torch.float64 for t in tensors):
        return torch.float64, torch.float64
    first = tensors[0]
    if first.device.type == "cuda":
        if torch.is_autocast_enabled("cuda"):
            return torch.get_autocast_dtype("cuda"), torch.float32
        if first.dtype in (torch.float16, torch.bfloat16):
            return first.dtype, torch.float32
    return torch.float32, torch.float32


def product(
    a: Tensor, b: Tensor, wide: torch.dtype, out: Tensor | None = None, factor: float = 1.0
) -> Tensor:
    """`factor * a @ b` in the precision `wide`, whatever precision the operands have."""
    if a.dtype == wide and out is not None:
        return out.addmm_(a, b, beta=0, alpha=factor)
    result = torch.mm(a, b) if a.dtype == wide else torch.mm(a, b, out_dtype=wide)
    return out.copy_(result) if out is not None else result


def fits_range(scale: float, columns: int, dtype: torch.dtype) -> bool:
    """Whether `exp` of any logit within `+-scale`, and a sum of them, stays in range.

    Then the usual shift by the maximum (one more pass over the logits, and a second `exp` for the
    columns) can be left out. The backward pass divides `1 / columns` by such a sum, which must
    not become subnormal either.
    """
    count, info = math.log(max(columns, 1)), torch.finfo(dtype)
    above, below = math.log(info.max) - count, -math.log(info.tiny) - 2 * count
    return 1.05 * scale < min(above, below) - 3.0


def chunk_rows(columns: int, dtype: torch.dtype, device: torch.device, chunk: int | None) -> int:
    """Rows of logits handled at a time: `chunk` if given, else what suits the cache.

    Not under 128, since products of a few rows run at a fraction of the machine's speed.
    """
    if chunk is not None:
        return max(1, chunk)
    size = _CHUNK_BYTES.get(device.type, _CHUNK_BYTES["cuda"])
    return max(128, size // (max(1, columns) * torch.finfo(dtype).bits // 8))


def workspace(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for one chunk that no caller sees; on a CPU the same again at the next call.

    Fresh memory costs a page fault every 4 KiB. GPU memory is kept by PyTorch itself.
    """
    count = rows * columns
    if device.type != "cpu" or count * torch.finfo(dtype).bits // 8 > 4 * _CHUNK_BYTES["cpu"]:
        return torch.empty((rows, columns), dtype=dtype, device=device)
    spare = getattr(_SPARE, "memory", None)
    if spare is None or spare.dtype != dtype or len(spare) < count:
        spare = _SPARE.memory = torch.empty(count, dtype=dtype)
    return spare[:count].view(rows, columns)
