"""Continuously Weighted Contrastive Loss (arXiv 2309.14580), exact at any batch size.

With unit-norm speech `p_i` and frozen text `q_i`, scale `s = 1 / tau`,
`w_ij = (1 + <q_i, q_j>) / 2` and `W_i = sum_j w_ij`, the speech-anchored loss is:

    L = -(1/N) sum_i (1/W_i) sum_j w_ij log softmax_j( s <p_i, q_j> )

Because `sum_j w_ij / W_i = 1` it equals, in value and in gradient:

    L = (1/N) sum_i [ logsumexp_j( s <p_i, q_j> ) - s <p_i, t_i> ]

    t_i = sum_j (w_ij / W_i) q_j = ( Q^T Q q_i / 2 + Q^T 1 / 2 ) / W_i
    W_i = ( <q_i, Q^T 1> + N ) / 2

so no `N x N` matrix of weights is needed, and the log-sum-exp is streamed (`kernel.py`). In
batches of up to twice the width the matrix costs less than `Q^T Q` and its product with `Q`;
there it is formed and joins the gradient of the logits (`weighting.Targets`).

With other weights the same formula is plain contrastive (CLIP, LiT) and SupCon: they are here too.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from inspect import unwrap

import torch
from torch import Tensor

from speechcwcl.errors import require
from speechcwcl.losses.bank import TextBank
from speechcwcl.losses.kernel import DEFAULT_MEMORY, Sums
from speechcwcl.losses.register import one_of, term
from speechcwcl.losses.weighting import Targets, Weighting, matched

# anchor or direction -> the log-sum-exps that it reads, by their names in `kernel.py`
ANCHORS = {"speech": ("rows",), "text": ("columns",), "both": ("rows", "columns")}
DIRECTIONS = dict(zip(("speech_to_text", "text_to_speech", "both"), ANCHORS.values(), strict=True))
Asking = Generator[tuple, Sums, Tensor]
_anchor, _direction = one_of("anchor", *ANCHORS), one_of("direction", *DIRECTIONS)


@term("cwcl", parse={"anchor": _anchor, "weighting": Weighting.parse})
def cwcl(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    anchor: str = "speech",
    weighting: str | Mapping | Weighting = "linear",
    text_ids: Tensor | None = None,
    text_bank: TextBank | None = None,
    chunk: int | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Asking:
    """Continuously weighted contrastive loss.

    `weighting="identity"` is one direction of CLIP, `"same_text"` is SupCon across modalities.
    The paper's total adds plain contrastive, text to speech (`contrastive`).

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm, row i the transcript of speech i; weights are constants of it.
        scale: logit scale `1 / tau`.
        anchor: `"speech"` (the paper's; softmax over texts), `"text"` (softmax over speech,
            `-(1/N) sum_i (1/W_i) sum_j w_ij log softmax_j( s <q_i, p_j> )`) or `"both"`: mean.
        weighting: see `weighting.py`; a name, `{name: option}` or a `Weighting`.
        text_ids: (N,) int64, equal where transcripts are equal; read by `"same_text"`.
        text_bank: what the speech -> text part runs over in the place of the batch, if any.
        chunk: rows of logits at a time; chosen to fit the cache when None.
        memory: bytes that may be kept for the backward pass.

    Returns:
        The loss, 0-d.

    Examples:
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
    directions, weighting = ANCHORS[anchor], Weighting.parse(weighting)
    parts = []
    if "rows" in directions and text_bank is not None:
        parts.append(text_bank.loss(speech, text, scale, weighting))
        directions = directions[1:]
    if directions:
        targets = Targets(text, weighting, text_ids, chunk, memory)
        lse, weighted = yield directions, targets.matrices(directions)
        value = torch.stack([lse[name].mean() for name in directions]).sum()
        if weighted:
            value = value - weighted[0] / len(speech)
        else:
            for name in directions:
                value = value - scale * matched(speech, text, targets, name == "columns")
        parts.append(value / len(directions))
    return torch.stack(parts).mean()


@term("supcon", parse={"anchor": _anchor}, weighting=Weighting("same_text"))
def supcon(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    text_ids: Tensor | None = None,
    *,
    anchor: str = "both",
    text_bank: TextBank | None = None,
    chunk: int | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Asking:
    """Supervised contrastive loss across modalities: equal transcripts share the target mass.

    `-(1/N) sum_i (1/|S_i|) sum_{j in S_i} log softmax_j( s <p_i, q_j> )`, `S_i` the items
    whose transcript equals that of i; the mean of both anchors. Relation: CWCL with
    `w_ij = [text_i == text_j]`.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        scale: logit scale `1 / tau`.
        text_ids: (N,) int64, equal where transcripts are equal.
        anchor: as in `cwcl`, and so `text_bank`, `chunk` and `memory`.

    Returns:
        The loss, 0-d.

    Examples:
        >>> import torch
        >>> q = torch.eye(4)[[0, 0, 1, 2]]
        >>> round(supcon(q, q, 10.0, torch.tensor([0, 0, 1, 2])).item(), 3)  # log(2) / 2
        0.347

    Source:
        Khosla et al., SupCon, arXiv 2004.11362 (its `L_out`).
    """
    require(text_ids is not None, "text_ids: term 'supcon' needs the number of each text")
    options = {"text_ids": text_ids, "text_bank": text_bank, "chunk": chunk, "memory": memory}
    same = Weighting("same_text")
    return (yield from unwrap(cwcl)(speech, text, scale, anchor=anchor, weighting=same, **options))


@term("clip", parse={"direction": _direction})
@term("cl", parse={"direction": _direction}, defaults={"direction": "text_to_speech"})
def contrastive(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    direction: str = "both",
    mask_equal: bool = True,
    text_ids: Tensor | None = None,
    text_bank: TextBank | None = None,
) -> Asking:
    """Plain contrastive loss (InfoNCE); both ways it is CLIP, and LiT when the text is frozen.

    `-(1/N) sum_i log softmax_j( s <p_i, q_j> )_i` for speech to text, the same over columns for
    text to speech, their mean for both. Relation to CWCL: `w_ij` is 1 for the pair and 0 elsewhere.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        scale: logit scale `1 / tau`.
        direction: `"speech_to_text"`, `"text_to_speech"` or `"both"`.
        mask_equal: whether pairs of equal transcripts, which are false negatives, are left out of
            the softmax.
        text_ids: (N,) int64, equal where transcripts are equal.
        text_bank: what the speech -> text part runs over in the place of the batch, if any.

    Returns:
        The loss, 0-d.

    Examples:
        >>> import torch
        >>> q = torch.eye(4)
        >>> round(contrastive(q, q, 10.0).item(), 4)
        0.0001
        >>> bool(contrastive(q, q.roll(1, 0), 10.0) > 9)
        True

    Source:
        Radford et al., CLIP, arXiv 2103.00020; Zhai et al., LiT, arXiv 2111.07991.
    """
    directions = DIRECTIONS[direction]
    parts = []
    if "rows" in directions and text_bank is not None:
        parts.append(text_bank.loss(speech, text, scale, Weighting("identity")))
        directions = directions[1:]
    if directions:
        names = tuple(name + "_masked" if mask_equal else name for name in directions)
        lse, (pairs,) = yield names, (None,)  # None: the sum of the logits of the pairs themselves
        parts += [lse[name].mean() - pairs / len(speech) for name in names]
    return torch.stack(parts).mean()


clip = contrastive  # both ways, as it is without a direction


def cwcl_plain(
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    anchor: str = "speech",
    weighting: str | Mapping | Weighting = "linear",
    text_ids: Tensor | None = None,
) -> Tensor:
    """The same loss from its definition, with `N x N` matrices; for tests and for reading.

    Examples:
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
    if anchor != "text":
        parts.append(-(weights * logits.log_softmax(1)).sum(1).mean())
    if anchor != "speech":
        parts.append(-(weights * logits.T.log_softmax(1)).sum(1).mean())
    return sum(parts[1:], parts[0]) / len(parts)
