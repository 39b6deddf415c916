"""Relational distillation: copy how texts relate to one another, not only which is whose."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from speechcwcl.errors import UserError, closest, require
from speechcwcl.losses.checks import check_pair
from speechcwcl.losses.products import chunk_rows

SOURCES = ("speech_text", "speech_speech")


def check_source(source: str) -> str:
    """Return ``source`` if it is one of ``SOURCES``."""
    if source not in SOURCES:
        raise UserError(
            f"source: {source!r} is not one of {', '.join(SOURCES)}{closest(str(source), SOURCES)}"
        )
    return source


def relational(
    speech: Tensor,
    text: Tensor,
    *,
    source: str = "speech_text",
    temperature: float = 0.1,
    text_temperature: float | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Kullback-Leibler divergence from the text-text to the speech similarity distribution.

    ``(1/N) sum_i KL( softmax_j(<q_i, q_j> / tau_t) || softmax_j(sim_ij / tau) )`` with
    ``sim_ij = <p_i, q_j>`` (``speech_text``) or ``<p_i, p_j>`` over ``j != i`` (``speech_speech``,
    where ``<p_i, p_i>`` would say nothing). Relation to CWCL: ``speech_text`` has the gradient of
    CWCL with softmax weights of temperature ``tau_t`` and scale ``1 / tau``; it only subtracts the
    entropy of the targets, so that 0 is its least value.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm; the targets are constants of it.
        source: ``"speech_text"`` or ``"speech_speech"``.
        temperature: of the speech similarities.
        text_temperature: of the text similarities; the same when None.
        chunk: rows at a time; the backward pass computes each chunk again.

    Returns:
        The loss, 0-d, at least 0.

    Example:
        >>> import torch
        >>> q = torch.nn.functional.normalize(torch.randn(6, 3), dim=1)
        >>> bool(relational(q, q) < 1e-5)
        True

    Source:
        Park et al., Relational Knowledge Distillation, arXiv 1904.05068; Passalis and Tefas, arXiv
        1803.10837 (KL).
    """
    check_source(source)
    alone = source == "speech_speech"
    check_pair(speech, text, least=2 if alone else 1)
    text_temperature = temperature if text_temperature is None else text_temperature
    _check_temperatures(temperature=temperature, text_temperature=text_temperature)
    wide = torch.promote_types(torch.promote_types(speech.dtype, text.dtype), torch.float32)
    with torch.autocast(speech.device.type, enabled=False):
        a, q = speech.to(wide), text.to(wide)
        other = a if alone else q
        step = chunk_rows(len(a), wide, a.device, chunk)
        parts = []
        for lo in range(0, len(a), step):
            hi = min(lo + step, len(a))
            args = (a[lo:hi], other, q[lo:hi].detach(), q.detach(), 1 / temperature)
            rest = (1 / text_temperature, lo if alone else None)
            if len(a) <= step or not torch.is_grad_enabled():
                parts.append(_divergence(*args, *rest))
            else:
                parts.append(checkpoint(_divergence, *args, *rest, use_reentrant=False))
        return torch.stack(parts).sum() / len(a)


def _check_temperatures(**named: float) -> None:
    for name, value in named.items():
        require(
            isinstance(value, (int, float)) and 0 < value < math.inf,
            f"{name}: must be a positive number, got {value!r}",
        )


def _divergence(
    anchor: Tensor,
    other: Tensor,
    text_anchor: Tensor,
    text: Tensor,
    scale: float,
    text_scale: float,
    own: int | None,
) -> Tensor:
    """Sum over a block of rows of the divergence; ``own`` is the first row's index if left out."""
    logits = scale * anchor @ other.T
    wanted = text_scale * text_anchor @ text.T
    if own is not None:
        here = torch.arange(len(anchor), device=anchor.device)
        hidden = torch.zeros_like(logits, dtype=torch.bool)
        hidden[here, here + own] = True
        logits = logits.masked_fill(hidden, -math.inf)
        wanted = wanted.masked_fill(hidden, -math.inf)
    log_wanted = wanted.log_softmax(1)
    target = log_wanted.exp()
    # -inf - -inf at a left-out pair would be NaN: fill with 0, which its zero target multiplies.
    gap = log_wanted.masked_fill(target == 0, 0.0) - logits.log_softmax(1).masked_fill(
        target == 0, 0.0
    )
    return (target * gap).sum()
