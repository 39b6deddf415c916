"""Matrix products of embeddings: in which precision, how many rows at a time, in what memory."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

_CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}
_SPARE = threading.local()


def working_dtypes(*tensors: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Return ``(operand dtype, accumulation dtype)`` for products of ``tensors``.

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
    a: Tensor, b: Tensor, accumulate: torch.dtype, out: Tensor | None = None, factor: float = 1.0
) -> Tensor:
    """``factor * a @ b`` in ``accumulate`` precision, whatever precision the operands have."""
    if a.dtype == accumulate and out is not None:
        return out.addmm_(a, b, beta=0, alpha=factor)
    result = torch.mm(a, b) if a.dtype == accumulate else torch.mm(a, b, out_dtype=accumulate)
    result = result if factor == 1.0 else result.mul_(factor)
    return out.copy_(result) if out is not None else result


def fits_range(scale: float, columns: int, dtype: torch.dtype) -> bool:
    """Whether ``exp`` of any logit within ``+-scale``, and a sum of them, stays in range.

    Rows are unit-norm, so this bounds every logit and the usual shift by the maximum (one more
    pass over the logits, and a second ``exp`` for the columns) can be left out. The backward pass
    divides ``1 / columns`` by such a sum, which must not become subnormal either.
    """
    count, info = math.log(max(columns, 1)), torch.finfo(dtype)
    above, below = math.log(info.max) - count, -math.log(info.tiny) - 2 * count
    return 1.05 * scale < min(above, below) - 3.0


def chunk_rows(columns: int, dtype: torch.dtype, device: torch.device, chunk: int | None) -> int:
    """Rows of logits handled at a time: ``chunk`` if given, else what suits the cache.

    Not under 128, since products of a few rows run at a fraction of the machine's speed.
    """
    if chunk is not None:
        return max(1, chunk)
    size = _CHUNK_BYTES.get(device.type, _CHUNK_BYTES["cuda"])
    per_row = max(1, columns) * torch.finfo(dtype).bits // 8
    return max(128, size // per_row)


def workspace(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for one chunk that no caller sees; on a CPU the same again at the next call.

    Fresh memory costs a page fault every 4 KiB, a tenth of the time of a batch of 512. GPU memory
    is kept by PyTorch itself.
    """
    count = rows * columns
    if device.type != "cpu" or count * torch.finfo(dtype).bits // 8 > 4 * _CHUNK_BYTES["cpu"]:
        return torch.empty((rows, columns), dtype=dtype, device=device)
    spare = getattr(_SPARE, "memory", None)
    if spare is None or spare.dtype != dtype or len(spare) < count:
        spare = _SPARE.memory = torch.empty(count, dtype=dtype)
    return spare[:count].view(rows, columns)


def gram(x: Tensor) -> Tensor:
    """``x @ x.T``, on a CPU in quarters of which only those on and above the diagonal are computed.

    That is 10 of 16 products; a GPU is faster with one.

    Example:
        >>> import torch
        >>> gram(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[ 5., 11.],
                [11., 25.]])
    """
    rows = len(x)
    if x.device.type != "cpu" or rows < 256:
        return x @ x.T
    found = torch.empty(rows, rows, dtype=x.dtype)
    step = (rows + 3) // 4
    for lo in range(0, rows, step):
        hi = min(lo + step, rows)
        torch.mm(x[lo:hi], x[lo:].T, out=found[lo:hi, lo:])
        found[lo:hi, :lo] = found[:lo, lo:hi].T
    return found
