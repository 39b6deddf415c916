"""Sum of the sigmoid loss over all pairs, chunk by chunk; value and gradient in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechcwcl.losses.products import chunk_rows, product, working_dtypes
from speechcwcl.losses.streaming import has_duplicates


class _SigmoidPairs(torch.autograd.Function):
    """``-sum_ij log sigmoid(z_ij (s <p_i, q_j> + b))``; value and gradient in one pass."""

    @staticmethod
    def forward(ctx, speech, text, scale, bias, ids, chunk, operand):  # noqa: D102
        wide = speech.dtype
        a, b = speech.to(operand), text.to(operand)
        need = ctx.needs_input_grad
        factor, shift = float(scale), float(bias)
        total = torch.zeros((), dtype=wide, device=speech.device)
        slope = torch.zeros((), dtype=wide, device=speech.device)
        to_speech = torch.empty_like(speech)
        to_text = torch.zeros_like(text) if need[1] else None
        for lo in range(0, len(a), chunk):
            hi = min(lo + chunk, len(a))
            logits = product(a[lo:hi], b.T, wide).mul_(factor).add_(shift)
            rows = torch.arange(lo, hi, device=a.device)
            logits[rows - lo, rows] *= -1.0  # now every entry should be very negative
            weight = torch.sigmoid(logits)
            loss = F.softplus(logits)
            if ids is not None:
                hidden = ids[lo:hi, None] == ids[None, :]
                hidden[rows - lo, rows] = False
                weight.masked_fill_(hidden, 0.0)
                loss.masked_fill_(hidden, 0.0)
            total += loss.sum()
            weight[rows - lo, rows] *= -1.0
            slope += weight.sum()
            weight = weight.to(operand)
            product(weight, b, wide, to_speech[lo:hi])
            if to_text is not None:
                to_text += product(weight.T, a[lo:hi], wide)
        to_scale = (speech * to_speech).sum()
        extra = () if to_text is None else (to_text.mul_(factor),)
        ctx.save_for_backward(to_speech.mul_(factor), to_scale, slope, *extra)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # noqa: D102
        to_speech, to_scale, slope, *rest = ctx.saved_tensors
        need = ctx.needs_input_grad
        return (
            grad * to_speech if need[0] else None,
            grad * rest[0] if need[1] else None,
            grad * to_scale if need[2] else None,
            grad * slope if need[3] else None,
            None,
            None,
            None,
        )


def sigmoid_pairs(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    *,
    ids: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Sum over all pairs of the sigmoid loss, memory O(N x chunk); see ``baselines.siglip``.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        scale: logit scale.
        bias: added to every logit.
        ids: (N,) int64; pairs of different items with equal ids are left out.
        chunk: rows of logits at a time; chosen to fit the cache when None.

    Returns:
        The sum, 0-d.

    Example:
        >>> import torch
        >>> sigmoid_pairs(torch.eye(2), torch.eye(2), 1.0, 0.0)
        tensor(2.0128)
    """
    operand, wide = working_dtypes(speech, text)
    ids = ids if ids is not None and has_duplicates(ids) else None
    scale = torch.as_tensor(scale, device=speech.device).to(wide)
    bias = torch.as_tensor(bias, device=speech.device).to(wide)
    step = chunk_rows(len(text), wide, speech.device, chunk)
    with torch.autocast(speech.device.type, enabled=False):
        return _SigmoidPairs.apply(speech.to(wide), text.to(wide), scale, bias, ids, step, operand)
