"""What to log beside the loss: is the text space flat, how low can it get, are pairs found."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from speechcwcl.losses.weighting import Weighting

FLAT_STD = 0.02
_TARGET_ROWS = 64
_MATCH_ROWS = 1024
_MATCH_PAIRS = 2**24  # at most so many cosines at a time, 64 MiB in float32
_SPREAD_ROWS = 4096


@torch.no_grad()
def text_spread(text: Tensor) -> float:
    """Standard deviation of `w_ij = (1 + <q_i, q_j>) / 2` over `i != j`, exact.

    Over the first 4,096 rows. From `|Q^T 1|^2` and `|Q^T Q|_F^2`, so it costs O(N dim^2) and
    not O(N^2 dim).

    Args:
        text: (N, dim) unit-norm; N of at least 2.

    Examples:
        >>> import torch
        >>> text_spread(torch.eye(3))  # all pairs alike
        0.0
    """
    text = text[:_SPREAD_ROWS].double()
    count = len(text) * (len(text) - 1)
    norms = (text * text).sum(1)
    first = (text.sum(0).square().sum() - norms.sum()) / count
    gram = text.T @ text if len(text) > text.shape[1] else text @ text.T
    second = (gram.square().sum() - norms.square().sum()) / count
    return 0.5 * math.sqrt(max(float(second - first * first), 0.0))


@torch.no_grad()
def target_statistics(
    text: Tensor, others: Tensor, weighting: Weighting, ids: Tensor | None = None
) -> dict[str, float]:
    """Entropy and effective number of positives of the target distributions, over the first rows.

    The entropy `-sum_j y_ij log y_ij` is the least value that the term can reach (when the
    softmax equals the target); `1 / sum_j y_ij^2` says over how many texts the target is spread.

    Args:
        text: (N, dim) unit-norm; its first 64 rows are looked at.
        others: (M, dim) the texts contrasted with; `others[:N]` must be `text`.
        weighting: what turns cosines into weights.
        ids: (M,) int64, equal where transcripts are equal, or None.

    Returns:
        `target_entropy` (nats) and `effective_positives`, means over the rows.

    Examples:
        >>> import torch
        >>> target_statistics(torch.eye(3), torch.eye(3), Weighting("identity"))
        {'target_entropy': 0.0, 'effective_positives': 1.0}
    """
    rows = text[:_TARGET_ROWS].float()
    own = torch.arange(len(rows), device=text.device)
    weights = weighting.rows(rows @ others.float().T, own, ids, 0)
    target = weights / weights.sum(1, keepdim=True)
    entropy = -torch.special.xlogy(target, target).sum(1).mean()
    return {
        "target_entropy": abs(float(entropy)),
        "effective_positives": float((1.0 / target.square().sum(1)).mean()),
    }


@torch.no_grad()
def matching_accuracy(speech: Tensor, text: Tensor, ids: Tensor | None = None) -> dict[str, float]:
    """Share of items whose own partner is strictly the nearest in the batch, both ways.

    Over the first 1,024 rows (fewer in batches over 16,384). Items that share a transcript do not
    count as wrong. Ties count as wrong, so collapsed embeddings score 0 and not 1.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        ids: (N,) int64, equal where transcripts are equal, or None.

    Returns:
        `accuracy_speech_to_text`, `accuracy_text_to_speech` and `cosine` (mean of the pairs).

    Examples:
        >>> import torch
        >>> matching_accuracy(torch.eye(3), torch.eye(3))["accuracy_speech_to_text"]
        1.0
    """
    speech, text = speech.float(), text.float()
    found = {"cosine": float((speech * text).sum() / len(speech))}
    count = min(len(speech), _MATCH_ROWS, max(64, _MATCH_PAIRS // len(speech)))
    here = torch.arange(count, device=speech.device)
    for name, a, b in (
        ("accuracy_speech_to_text", speech, text),
        ("accuracy_text_to_speech", text, speech),
    ):
        cosines = a[:count] @ b.T
        paired = cosines[here, here].clone()
        cosines[here, here] = -math.inf
        if ids is not None:
            cosines.masked_fill_(ids[:count, None] == ids[None, :], -math.inf)
        found[name] = float((paired > cosines.amax(1)).float().mean())
    return found


def warn_if_flat(spread: float) -> bool:
    """Warn where the linear weights hardly differ, and return whether they do not."""
    if spread >= FLAT_STD:
        return False
    warnings.warn(
        f"the text space is flat: linear CWCL weights of different texts differ by a standard "
        f"deviation of only {spread:.4f} (under {FLAT_STD}), so CWCL acts as label smoothing; "
        "centre the text embeddings on the training mean, choose another text encoder, or set "
        "weighting: {softmax: 0.1}",
        UserWarning,
        stacklevel=3,
    )
    return True
