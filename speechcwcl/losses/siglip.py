"""SigLIP: every pair is a yes-or-no question of its own, no softmax."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from speechcwcl.losses.kernel import chunk_rows, sum_in_chunks, working_dtypes
from speechcwcl.losses.register import term


@term("siglip", learnt=("bias",), start_scale=10.0, least_rows=2)
def siglip(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    bias: Tensor | float = -10.0,
    *,
    mask_equal: bool = True,
    text_ids: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Sigmoid loss over all pairs, memory O(N x chunk).

    `-(1/N) sum_ij log sigmoid( z_ij (s <p_i, q_j> + b) )`, `z_ij = 1` on pairs and -1 elsewhere.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        scale: logit scale; the paper starts at 10.
        bias: added to every logit; the paper starts at -10. A 0-d tensor may need a gradient.
        mask_equal: whether pairs of equal transcripts are left out.
        text_ids: (N,) int64, equal where transcripts are equal.
        chunk: rows of logits at a time; chosen to fit the cache when None.

    Returns:
        The loss, 0-d.

    Examples:
        >>> import torch
        >>> q = torch.eye(4)
        >>> round(siglip(q, q, 20.0, -10.0).item(), 4)
        0.0002

    Source:
        Zhai et al., SigLIP, arXiv 2303.15343.
    """
    wide = working_dtypes(speech, text)[1]
    ids = None
    if mask_equal and text_ids is not None:
        ids = text_ids.to(speech.device, non_blocking=True)
    # half of what suits the cache: two matrices of a chunk are at work
    step = chunk_rows(2 * len(text), wide, speech.device, chunk)

    with torch.autocast(speech.device.type, enabled=False):
        shift = torch.as_tensor(bias, dtype=wide, device=speech.device)
        sides = [scale * speech.to(wide)], [text.to(wide), shift]
        return sum_in_chunks(partial(_of_rows, ids), step, *sides) / len(text)


def _of_rows(ids: Tensor | None, first: int, rows: Tensor, other: Tensor, bias: Tensor) -> Tensor:
    """Sum over the pairs of a chunk of rows; the gradient goes straight to the arguments."""
    logits = torch.addmm(bias, rows, other.T)
    weight = logits.detach()
    if ids is not None:
        equal = ids[first : first + len(rows), None] == ids[None, :]
        equal.diagonal(first).fill_(False)
        weight.masked_fill_(equal, -math.inf)
    weight.diagonal(first).neg_()  # now every logit should be very negative
    value = F.softplus(weight).sum()
    if logits.requires_grad:  # by hand: autograd would hold and pass over three more matrices
        weight.sigmoid_().diagonal(first).neg_()
        logits.backward(weight)
    return value
