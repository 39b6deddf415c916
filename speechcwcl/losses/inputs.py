"""A batch on its way into the losses: checked, and under torch.distributed gathered over ranks.

Every rank computes the loss of the whole batch. A gather without autograd would drop the part of
the gradient that reaches a rank's embeddings through the other ranks' losses, silently. Here the
backward pass adds the gradients of all ranks, so each rank holds `world_size` times its share, and
the mean that DistributedDataParallel takes over ranks is exactly the gradient of the loss of the
whole batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from speechcwcl.errors import UserError, require

# Wide enough for rows that were normalised in bfloat16 (under autocast) and widened afterwards.
_TOLERANCE = {torch.float64: 1e-2, torch.float32: 1e-2, torch.bfloat16: 2e-2, torch.float16: 1e-2}


def check_pair(
    speech: Tensor, text: Tensor, ids: Tensor | None = None, values: bool = True
) -> None:
    """Check that speech and text are unit-norm embeddings of the same items on the same device.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        ids: (N,) integers, equal where transcripts are equal, or None.
        values: whether to look into rows on a GPU, which waits for it; those on a CPU are always
            looked into.

    Raises:
        UserError: names the argument, the first bad row, and what to do.
    """
    if isinstance(speech, Tensor) and isinstance(text, Tensor):
        require(
            speech.device == text.device,
            f"text: is on {text.device}, speech on {speech.device}; use text.to(speech.device)",
        )
    check_embeddings("speech", speech, values)
    check_embeddings("text", text, values)
    require(
        speech.shape == text.shape,
        f"text: shape {tuple(text.shape)} does not match speech {tuple(speech.shape)}; "
        "row i of both must be the same item",
    )
    if ids is not None:
        _check_ids(ids, speech)


def check_embeddings(name: str, value: Tensor, values: bool = True) -> None:
    """Refuse embeddings that are not (rows, dim) unit-norm floating point without NaN."""
    require(isinstance(value, Tensor), f"{name}: expected a tensor, got {type(value).__name__}")
    require(value.dim() == 2, f"{name}: expected shape (batch, dim), got {tuple(value.shape)}")
    require(
        value.dtype in _TOLERANCE,
        f"{name}: expected a floating-point tensor, got {value.dtype}; use .float()",
    )
    require(value.shape[0] > 0, f"{name}: has no rows")
    require(value.shape[1] > 0, f"{name}: has no columns")
    if values or value.device.type == "cpu":
        _check_rows(name, value.detach())


def _check_rows(name: str, value: Tensor) -> None:
    norms = torch.linalg.vector_norm(
        value, dim=1, dtype=torch.promote_types(value.dtype, torch.float32)
    )
    good = (norms - 1.0).abs() <= _TOLERANCE[value.dtype]  # False for NaN and infinity
    if bool(good.all()):
        return
    row = int((~good).nonzero()[0])
    if not bool(torch.isfinite(value[row]).all()):
        raise UserError(
            f"{name}: row {row} holds NaN or infinity; look at the audio of that item, the "
            "learning rate and, in half precision, the gradient scaling"
        )
    if float(norms[row]) < 1e-6:
        raise UserError(f"{name}: row {row} is a zero vector; an empty clip or a dead encoder?")
    raise UserError(
        f"{name}: row {row} has norm {float(norms[row]):.4g}, not 1; "
        f"pass torch.nn.functional.normalize({name}, dim=1)"
    )


def _check_ids(ids: Tensor, like: Tensor) -> None:
    require(
        isinstance(ids, Tensor) and not ids.is_floating_point() and ids.dtype != torch.bool,
        f"text_ids: expected an int64 tensor, got {getattr(ids, 'dtype', type(ids).__name__)}",
    )
    require(
        ids.shape == like.shape[:1],
        f"text_ids: expected shape ({len(like)},), got {tuple(ids.shape)}",
    )
    require(
        ids.device == like.device or ids.device.type == "cpu",
        f"text_ids: is on {ids.device}, speech on {like.device}; use text_ids.to(speech.device)",
    )


def world_size() -> int:
    """Number of ranks; 1 where torch.distributed is not running."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def row_counts(rows: int, device: torch.device) -> list[int]:
    """Rows that each rank holds; batches may be uneven."""
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


def gather_rows(rows: Tensor, counts: list[int] | None = None) -> Tensor:
    """Concatenate the rows of all ranks in rank order.

    With autograd where `rows` needs a gradient; frozen text and integers travel without. Whether
    it needs one must be the same on every rank.

    Args:
        rows: (n, ...) this rank's rows; n may differ between ranks.
        counts: what `row_counts` returned; asked for when None.

    Returns:
        (sum of n, ...), the same on every rank.

    Examples:
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
    start = sum(counts[: dist.get_rank()])
    found.own = rows, slice(start, start + len(rows))
    return found


def own_rows(rows: Tensor) -> tuple[Tensor, slice] | None:
    """This rank's rows of what came straight from `gather_rows`, and where; else None."""
    return getattr(rows, "own", None)


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum of a 0-d tensor over ranks, with the gradient that `gather_rows` has."""
    return gather_rows(value[None], [1] * world_size()).sum()
