"""The losses that CWCL is compared with: CLIP / LiT, SupCon, SigLIP, cosine regression."""

from __future__ import annotations

import torch
from torch import Tensor

from speechcwcl.errors import UserError, closest
from speechcwcl.losses.checks import check_pair, check_scale
from speechcwcl.losses.cwcl import cwcl
from speechcwcl.losses.sigmoid import sigmoid_pairs
from speechcwcl.losses.streaming import DEFAULT_MEMORY, pair_sums

DIRECTIONS = ("speech_to_text", "text_to_speech", "both")


def check_direction(direction: str) -> str:
    """Return ``direction`` if it is one of ``DIRECTIONS``."""
    if direction not in DIRECTIONS:
        raise UserError(
            f"direction: {direction!r} is not one of {', '.join(DIRECTIONS)}"
            f"{closest(str(direction), DIRECTIONS)}"
        )
    return direction


def paired_cosine(speech: Tensor, text: Tensor) -> Tensor:
    """Mean cosine of the pairs, in at least float32."""
    wide = torch.promote_types(torch.promote_types(speech.dtype, text.dtype), torch.float32)
    return (speech.to(wide) * text.to(wide)).sum() / len(speech)


def contrastive(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    direction: str = "both",
    text_ids: Tensor | None = None,
    chunk: int | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Tensor:
    """Plain contrastive loss (InfoNCE); both ways it is CLIP, and LiT when the text is frozen.

    ``-(1/N) sum_i log softmax_j( s <p_i, q_j> )_i`` for speech to text, the same over columns for
    text to speech, their mean for both. Relation to CWCL: ``w_ij`` is 1 for the pair and 0
    elsewhere.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        scale: logit scale ``1 / tau``.
        direction: ``"speech_to_text"``, ``"text_to_speech"`` or ``"both"``.
        text_ids: (N,) int64, equal where transcripts are equal: such pairs are false negatives and
            are left out of the softmax.
        chunk: rows of logits at a time; chosen to fit the cache when None.
        memory: bytes of exponentials that may be kept for the backward pass.

    Returns:
        The loss, 0-d.

    Example:
        >>> import torch
        >>> q = torch.eye(4)
        >>> round(contrastive(q, q, 10.0).item(), 4)
        0.0001
        >>> bool(contrastive(q, q.roll(1, 0), 10.0) > 9)
        True

    Source:
        Radford et al., CLIP, arXiv 2103.00020; Zhai et al., LiT, arXiv 2111.07991.
    """
    check_pair(speech, text, text_ids)
    check_scale(scale)
    names = {
        "speech_to_text": ("rows_masked",),
        "text_to_speech": ("columns_masked",),
        "both": ("rows_masked", "columns_masked"),
    }[check_direction(direction)]
    lse, (pairs,) = pair_sums(
        speech, text, scale, wanted=names, pulls=[None], ids=text_ids, chunk=chunk, memory=memory
    )
    parts = [lse[name].mean() for name in names]
    return sum(parts[1:], parts[0]) / len(parts) - pairs / len(speech)


def clip(speech: Tensor, text: Tensor, scale: Tensor | float, **options: object) -> Tensor:
    """``contrastive`` both ways.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        scale: logit scale ``1 / tau``.
        **options: ``text_ids``, ``chunk``, ``memory`` as in ``contrastive``.

    Returns:
        The loss, 0-d.

    Example:
        >>> import torch
        >>> q = torch.eye(4)
        >>> round(clip(q, q, 10.0).item(), 4)
        0.0001

    Source:
        Radford et al., CLIP, arXiv 2103.00020.
    """
    return contrastive(speech, text, scale, direction="both", **options)


def supcon(
    speech: Tensor, text: Tensor, scale: Tensor | float, text_ids: Tensor, **options: object
) -> Tensor:
    """Supervised contrastive loss across modalities: equal transcripts share the target mass.

    ``-(1/N) sum_i (1/|S_i|) sum_{j in S_i} log softmax_j( s <p_i, q_j> )``, ``S_i`` the items
    whose transcript equals that of i; the mean of both anchors. Relation: CWCL with
    ``w_ij = [text_i == text_j]``.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        scale: logit scale ``1 / tau``.
        text_ids: (N,) int64, equal where transcripts are equal.
        **options: ``anchor`` (default ``"both"``), ``chunk``, ``memory`` as in ``cwcl``.

    Returns:
        The loss, 0-d.

    Example:
        >>> import torch
        >>> q = torch.eye(4)[[0, 0, 1, 2]]
        >>> round(supcon(q, q, 10.0, torch.tensor([0, 0, 1, 2])).item(), 3)  # log(2) / 2
        0.347

    Source:
        Khosla et al., SupCon, arXiv 2004.11362 (its ``L_out``).
    """
    options.setdefault("anchor", "both")
    return cwcl(speech, text, scale, weighting="same_text", text_ids=text_ids, **options)


def siglip(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    bias: Tensor | float = -10.0,
    *,
    text_ids: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Sigmoid loss: every pair is a yes-or-no question of its own, no softmax.

    ``-(1/N) sum_ij log sigmoid( z_ij (s <p_i, q_j> + b) )``, ``z_ij = 1`` on pairs and -1
    elsewhere.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        scale: logit scale; the paper starts at 10.
        bias: added to every logit; the paper starts at -10. A 0-d tensor may need a gradient.
        text_ids: (N,) int64, equal where transcripts are equal: such pairs are left out.
        chunk: rows of logits at a time; chosen to fit the cache when None.

    Returns:
        The loss, 0-d.

    Example:
        >>> import torch
        >>> q = torch.eye(4)
        >>> round(siglip(q, q, 20.0, -10.0).item(), 4)
        0.0002

    Source:
        Zhai et al., SigLIP, arXiv 2303.15343.
    """
    check_pair(speech, text, text_ids)
    check_scale(scale)
    return sigmoid_pairs(speech, text, scale, bias, ids=text_ids, chunk=chunk) / len(speech)


def cosine(speech: Tensor, text: Tensor) -> Tensor:
    """Cosine regression: ``(1/N) sum_i (1 - <p_i, q_i>)``, no negatives.

    Keeps the geometry of the text space, which the contrastive losses lose; alone it does not tell
    near texts apart. For unit-norm rows it is half the squared distance.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.

    Returns:
        The loss, 0-d, in [0, 2].

    Example:
        >>> import torch
        >>> cosine(torch.eye(3), torch.eye(3)).item()
        0.0

    Source:
        Regression of a frozen embedding, as in knowledge distillation; no single paper.
    """
    check_pair(speech, text)
    return 1.0 - paired_cosine(speech, text)
