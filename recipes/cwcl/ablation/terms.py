"""Losses of `fixed.yaml` that the toolkit has not: other weights and temperatures for one softmax.

Each is written out plainly, with N x N matrices, since the batches of the grid are small. They also
show what a loss of your own looks like (CONTRIBUTING.md).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from speechcwcl.losses import cosine, term


def _cross_entropy(weights: Tensor, logits: Tensor) -> Tensor:
    """Mean over rows of the cross entropy between normalised weights and a softmax."""
    weights = weights / weights.sum(1, keepdim=True)
    return -(weights * logits.log_softmax(1)).sum(1).mean()


@term("ranked")
def ranked(speech: Tensor, text: Tensor, scale: Tensor | float, power: float = 2.0) -> Tensor:
    """CWCL with weights by rank: its own text weighs 1, the k-th nearest `(1 + k) ** -power`.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        scale: logit scale `1 / tau`.
        power: how fast the weights fall.
    """
    cosines = text.detach() @ text.detach().T
    cosines.fill_diagonal_(2.0)
    ranks = cosines.argsort(1, descending=True).argsort(1)
    return _cross_entropy((1.0 + ranks).pow(-power), scale * speech @ text.T)


@term("dense")
def dense(
    speech: Tensor, text: Tensor, low: float = 0.05, high: float = 0.2, k: int = 10
) -> Tensor:
    """Contrastive loss whose temperature follows how dense the text's neighbourhood is.

    Text `i` gets a temperature between `low` and `high` by the rank of its mean cosine to the `k`
    nearest texts of the batch: dense neighbourhoods are softer. After MM-TS, arXiv 2603.08202; its
    schedule over time is not part of it.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        low: temperature of the loneliest text.
        high: temperature of the text in the densest neighbourhood.
        k: neighbours.
    """
    frozen = text.detach()
    cosines = (frozen @ frozen.T).fill_diagonal_(-1.0)
    density = cosines.topk(min(k, len(text) - 1), dim=1).values.mean(1)
    share = density.argsort().argsort() / max(len(text) - 1, 1)
    temperature = (low + (high - low) * share)[:, None]
    logits = speech @ text.T
    own = torch.eye(len(text), device=text.device)
    return (
        _cross_entropy(own, logits / temperature) + _cross_entropy(own, logits.T / temperature)
    ) / 2


@cache
def _embeddings(path: str) -> Tensor:
    return torch.from_numpy(np.load(path))


def _rows(path: str, text_ids: Tensor | None, like: Tensor) -> Tensor:
    """(N, dim) of a file's embeddings: those of the batch's texts."""
    assert text_ids is not None
    return _embeddings(path)[text_ids.cpu()].to(like)


@term("taught")
def taught(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    embeddings: str,
    softmax: float = 0.05,
    text_ids: Tensor | None = None,
) -> Tensor:
    """CWCL with softmax weights from another text encoder than the one that is the space.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        scale: logit scale `1 / tau`.
        embeddings: .npy file (texts, dim) of the other encoder, in the order of the unique texts of
            the training set; `teacher.py` writes it.
        softmax: temperature of the weights.
        text_ids: (N,) int64 rows of the texts in that file.
    """
    other = _rows(embeddings, text_ids, text)
    weights = ((other @ other.T - 1.0) / softmax).exp()
    return _cross_entropy(weights, scale * speech @ text.T)


@term("free_texts")
def free_texts(
    speech: Tensor, text: Tensor, scale: Tensor | float, embeddings: str, count: int = 8192
) -> Tensor:
    """Contrastive loss in which every clip is also told apart from texts that nobody spoke.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        scale: logit scale `1 / tau`.
        embeddings: .npy file (texts, dim) of sentences without speech, in the space of `text`;
            `teacher.py --free` writes it.
        count: how many of them are drawn for each batch.
    """
    free = _embeddings(embeddings)
    drawn = free[torch.randint(len(free), (count,))].to(text)
    own = torch.arange(len(text), device=text.device)
    both = torch.cat([scale * speech @ text.T, scale * speech @ drawn.T], dim=1)
    back = scale * text @ speech.T
    return (torch.nn.functional.cross_entropy(both, own)
            + torch.nn.functional.cross_entropy(back, own)) / 2  # fmt: skip


@term("distilled")
def distilled(
    speech: Tensor, text: Tensor, embeddings: str, text_ids: Tensor | None = None
) -> Tensor:
    """Mean of `1 - cosine` to what a teacher makes of the clips that say the same text.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm, not used.
        embeddings: .npy file (texts, dim); `teacher.py --heard` writes it.
        text_ids: (N,) int64 rows of the texts in that file.
    """
    return cosine(speech, _rows(embeddings, text_ids, text))
