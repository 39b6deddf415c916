"""Distillation of the text space: copy each text, or how texts relate to one another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from speechcwcl.errors import require
from speechcwcl.losses.kernel import chunk_rows, sum_in_chunks
from speechcwcl.losses.objective import inverse
from speechcwcl.losses.register import one_of, term


@term("cosine")
def cosine(speech: Tensor, text: Tensor) -> Tensor:
    """Cosine regression: `(1/N) sum_i (1 - <p_i, q_i>)`, no negatives.

    Keeps the geometry of the text space, which the contrastive losses lose; alone it does not tell
    near texts apart. For unit-norm rows it is half the squared distance.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.

    Returns:
        The loss, 0-d, in [0, 2].

    Examples:
        >>> import torch
        >>> cosine(torch.eye(3), torch.eye(3)).item()
        0.0

    Source:
        Regression of a frozen embedding, as in knowledge distillation; no single paper.
    """
    wide = _wide(speech, text)
    return 1.0 - (speech.to(wide) * text.to(wide)).sum() / len(speech)


def _wide(speech: Tensor, text: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(speech.dtype, text.dtype), torch.float32)


def _temperature(value: float | None) -> float | None:
    if value is not None:
        inverse(value)  # which checks it
    return value


@term(
    "relational",
    parse={
        "source": one_of("source", "speech_text", "speech_speech"),
        "temperature": _temperature,
        "text_temperature": _temperature,
    },
)
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

    `(1/N) sum_i KL( softmax_j(<q_i, q_j> / tau_t) || softmax_j(sim_ij / tau) )` with
    `sim_ij = <p_i, q_j>` (`speech_text`) or `<p_i, p_j>` over `j != i` (`speech_speech`).
    `speech_text` has the gradient of CWCL with softmax weights of temperature `tau_t` and scale
    `1 / tau`; it only subtracts the entropy of the targets, so that 0 is its least value.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm; the targets are constants of it.
        source: `"speech_text"` or `"speech_speech"`.
        temperature: of the speech similarities.
        text_temperature: of the text similarities; the same when None.
        chunk: rows at a time.

    Returns:
        The loss, 0-d, at least 0.

    Examples:
        >>> import torch
        >>> q = torch.nn.functional.normalize(torch.randn(6, 3), dim=1)
        >>> bool(relational(q, q) < 1e-5)
        True

    Source:
        Park et al., arXiv 1904.05068; Passalis and Tefas, arXiv 1803.10837 (KL).
    """
    alone = source == "speech_speech"
    require(len(speech) > 1 or not alone, "speech: needs 2 rows to compare; use larger batches")
    text_temperature = temperature if text_temperature is None else text_temperature
    wide = _wide(speech, text)
    step = chunk_rows(len(text), wide, text.device, chunk)

    def part(first: int, rows: Tensor, text_rows: Tensor, other: Tensor) -> Tensor:
        logits = rows @ other.T / temperature
        wanted = text_rows @ frozen.T / text_temperature
        if alone:
            own = torch.zeros_like(wanted, dtype=torch.bool)
            own.diagonal(first).fill_(True)
            logits, wanted = (x.masked_fill(own, -math.inf) for x in (logits, wanted))
        log_wanted = wanted.log_softmax(1)
        target = log_wanted.exp()
        # -inf - -inf at a left-out pair would be NaN: fill with 0, which its zero target multiplies
        gap = log_wanted - logits.log_softmax(1)
        return (target * gap.masked_fill(target == 0, 0.0)).sum()

    with torch.autocast(speech.device.type, enabled=False):
        frozen = text.detach().to(wide)
        sides = [speech.to(wide), frozen], [(speech if alone else text).to(wide)]
        return sum_in_chunks(part, step, *sides) / len(text)
