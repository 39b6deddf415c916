"""Collect embeddings across ranks so that the loss sees the whole batch, with the right gradient.

Every rank computes the loss of the whole batch. A gather without autograd would drop the part of
the gradient that reaches a rank's embeddings through the other ranks' losses (about 30 % of it),
silently. Here the backward pass adds the gradients of all ranks, so each rank holds ``world_size``
times its share, and the mean that DistributedDataParallel takes over ranks is exactly the gradient
of the loss of the whole batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks; 1 where torch.distributed is not running."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def row_counts(rows: int, device: torch.device) -> list[int]:
    """Rows that each rank holds; batches may be uneven.

    Args:
        rows: this rank's number of rows.
        device: where the process group communicates.
    """
    mine = torch.tensor([rows], device=device, dtype=torch.int64)
    found = [torch.zeros_like(mine) for _ in range(world_size())]
    dist.all_gather(found, mine)
    return [int(n) for n in found]


def _collect(rows: Tensor, counts: list[int]) -> Tensor:
    """Concatenate every rank's rows; padded to the longest, since collectives need equal shapes."""
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, counts):  # noqa: D102
        ctx.counts = counts
        return _collect(rows.contiguous(), counts)

    @staticmethod
    def backward(ctx, grad):  # noqa: D102
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        start = sum(ctx.counts[: dist.get_rank()])
        return grad[start : start + ctx.counts[dist.get_rank()]], None


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):  # noqa: D102
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):  # noqa: D102
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


def gather_rows(rows: Tensor, counts: list[int] | None = None) -> Tensor:
    """Concatenate the rows of all ranks in rank order.

    With autograd where ``rows`` needs a gradient; frozen text and integers travel without. Whether
    it needs one must be the same on every rank.

    Args:
        rows: (n, ...) this rank's rows; n may differ between ranks.
        counts: what ``row_counts`` returned; asked for when None.

    Returns:
        (sum of n, ...), the same on every rank.

    Example:
        >>> import torch
        >>> gather_rows(torch.ones(2, 3)).shape  # one process: as it is
        torch.Size([2, 3])
    """
    if world_size() == 1:
        return rows
    counts = row_counts(len(rows), rows.device) if counts is None else counts
    if rows.requires_grad and torch.is_grad_enabled():
        found = _GatherRows.apply(rows, counts)
    else:
        found = _collect(rows.detach().contiguous(), counts)
    found.gathered_over_ranks = True
    return found


def is_gathered(rows: Tensor) -> bool:
    """Whether ``rows`` came straight from ``gather_rows``: gathering twice repeats every item."""
    return getattr(rows, "gathered_over_ranks", False)


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum of ``value`` over ranks, with autograd under the same convention as ``gather_rows``.

    Args:
        value: any shape, the same on every rank.

    Returns:
        The sum, the same on every rank.

    Example:
        >>> import torch
        >>> sum_over_ranks(torch.tensor(2.0)).item()
        2.0
    """
    if world_size() == 1:
        return value
    if value.requires_grad and torch.is_grad_enabled():
        return _SumOverRanks.apply(value)
    total = value.detach().clone()
    dist.all_reduce(total)
    return total
