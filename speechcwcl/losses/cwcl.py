"""Continuously Weighted Contrastive Loss (arXiv 2309.14580), exact at any batch size.

With unit-norm speech ``p_i`` and frozen text ``q_i``, scale ``s = 1 / tau``,
``w_ij = (1 + <q_i, q_j>) / 2`` and ``W_i = sum_j w_ij``, the speech-anchored loss is::

    L = -(1/N) sum_i (1/W_i) sum_j w_ij log softmax_j( s <p_i, q_j> )

Because ``sum_j w_ij / W_i = 1`` it equals, in value and in gradient::

    L = (1/N) sum_i [ logsumexp_j( s <p_i, q_j> ) - s <p_i, t_i> ]

    t_i = sum_j (w_ij / W_i) q_j = ( Q^T Q q_i / 2 + Q^T 1 / 2 ) / W_i
    W_i = ( <q_i, Q^T 1> + N ) / 2

so no ``N x N`` matrix of weights is needed, and the log-sum-exp is streamed (``streaming.py``). In
batches of up to twice the width the matrix costs less than ``Q^T Q`` and its product with ``Q``;
there it is formed and joins the gradient of the logits (``weighting.Targets``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from speechcwcl.errors import UserError, closest
from speechcwcl.losses.checks import check_pair, check_scale
from speechcwcl.losses.streaming import DEFAULT_MEMORY, pair_sums
from speechcwcl.losses.weighting import Targets, Weighting, matched

# anchor -> the log-sum-exps that it reads, by their names in ``streaming.py``
DIRECTIONS = {"speech": ("rows",), "text": ("columns",), "both": ("rows", "columns")}
ANCHORS = tuple(DIRECTIONS)


def check_anchor(anchor: str) -> str:
    """Return ``anchor`` if it is one of ``ANCHORS``."""
    if anchor not in ANCHORS:
        raise UserError(
            f"anchor: {anchor!r} is not one of {', '.join(ANCHORS)}{closest(str(anchor), ANCHORS)}"
        )
    return anchor


def cwcl(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    anchor: str = "speech",
    weighting: str | Mapping | Weighting = "linear",
    text_ids: Tensor | None = None,
    chunk: int | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Tensor:
    """Continuously weighted contrastive loss.

    Relation to the others: ``weighting="identity"`` is one direction of CLIP, ``"same_text"`` is
    SupCon across modalities. The paper's total adds plain contrastive, text to speech
    (``baselines.contrastive``).

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm, row i the transcript of speech i. Weights are constants of it.
        scale: logit scale ``1 / tau``; a 0-d tensor may need a gradient.
        anchor: ``"speech"`` (the paper's; softmax over texts), ``"text"`` (softmax over speech,
            ``-(1/N) sum_i (1/W_i) sum_j w_ij log softmax_j( s <q_i, p_j> )``) or ``"both"``, their
            mean.
        weighting: see ``weighting.py``; a name, ``{name: option}`` or a ``Weighting``.
        text_ids: (N,) int64, equal where transcripts are equal; read by ``"same_text"``.
        chunk: rows of logits at a time; chosen to fit the cache when None.
        memory: bytes of exponentials that may be kept for the backward pass.

    Returns:
        The loss, 0-d.

    Example:
        >>> import torch
        >>> p = torch.nn.functional.normalize(torch.randn(16, 8), dim=1).requires_grad_()
        >>> q = torch.nn.functional.normalize(torch.randn(16, 8), dim=1)
        >>> loss = cwcl(p, q, scale=20.0)
        >>> loss.backward()
        >>> torch.allclose(loss, cwcl_plain(p, q, scale=20.0), atol=1e-4)
        True

    Source:
        CWCL, NeurIPS 2023, arXiv 2309.14580.
    """
    check_anchor(anchor)
    weighting = Weighting.parse(weighting)
    check_pair(speech, text, text_ids)
    check_scale(scale)
    targets = Targets(text, weighting, text_ids, chunk, memory)
    lse, pulled = pair_sums(
        speech,
        text,
        scale,
        wanted=DIRECTIONS[anchor],
        pulls=targets.pulls(anchor),
        chunk=chunk,
        memory=memory,
    )
    return weigh_up(speech, text, scale, anchor, lse, targets, pulled[0] if pulled else None)


def weigh_up(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    anchor: str,
    lse: Mapping[str, Tensor],
    targets: Targets,
    pulled: Tensor | None,
) -> Tensor:
    """The loss from its log-sum-exps and its targets.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        scale: logit scale.
        anchor: ``"speech"``, ``"text"`` or ``"both"``.
        lse: what ``pair_sums`` found for ``DIRECTIONS[anchor]``.
        targets: the target distributions.
        pulled: the sum with ``targets.pulls(anchor)``, where there is one.

    Returns:
        The loss, 0-d.
    """
    names = DIRECTIONS[anchor]
    total = sum((lse[name].mean() for name in names[1:]), lse[names[0]].mean())
    if pulled is not None:
        return (total - pulled / len(speech)) / len(names)
    for name in names:
        total = total - scale * matched(speech, text, targets, transposed=name == "columns")
    return total / len(names)


def cwcl_plain(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    anchor: str = "speech",
    weighting: str | Mapping | Weighting = "linear",
    text_ids: Tensor | None = None,
) -> Tensor:
    """The same loss from its definition, with ``N x N`` matrices; for tests and for reading.

    Args:
        speech: as in ``cwcl``.
        text: as in ``cwcl``.
        scale: as in ``cwcl``.
        anchor: as in ``cwcl``.
        weighting: as in ``cwcl``.
        text_ids: as in ``cwcl``.

    Returns:
        The loss, 0-d.

    Example:
        >>> import torch
        >>> q = torch.eye(4)
        >>> round(cwcl_plain(q, q, 10.0, weighting="identity").item(), 4)
        0.0001
    """
    frozen = text.detach()
    own = torch.arange(len(text), device=text.device)
    weights = Weighting.parse(weighting).rows(frozen @ frozen.T, own, text_ids, 0)
    weights = weights / weights.sum(1, keepdim=True)
    logits = scale * speech @ text.T
    parts = []
    if check_anchor(anchor) != "text":
        parts.append(-(weights * logits.log_softmax(1)).sum(1).mean())
    if anchor != "speech":
        parts.append(-(weights * logits.T.log_softmax(1)).sum(1).mean())
    return sum(parts[1:], parts[0]) / len(parts)
