"""The named terms that an objective adds up; each turns a prepared batch into one number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechcwcl.errors import UserError, closest, require
from speechcwcl.losses.bank import TextBank
from speechcwcl.losses.baselines import check_direction, paired_cosine
from speechcwcl.losses.cwcl import DIRECTIONS, check_anchor, weigh_up
from speechcwcl.losses.gather import sum_over_ranks
from speechcwcl.losses.relational import check_source, relational
from speechcwcl.losses.scale import LogitScale
from speechcwcl.losses.sigmoid import sigmoid_pairs
from speechcwcl.losses.streaming import DEFAULT_MEMORY
from speechcwcl.losses.weighting import Targets, Weighting


@dataclass
class Batch:
    """One (gathered) batch and what its terms share."""

    speech: Tensor
    text: Tensor
    ids: Tensor | None = None
    bank: TextBank | None = None
    chunk: int | None = None
    memory: int = DEFAULT_MEMORY
    local: slice = field(default_factory=lambda: slice(None))  # this rank's own rows
    local_speech: Tensor | None = None  # the same rows before they were gathered, if they were
    lse: dict[str, Tensor] = field(default_factory=dict)
    pulled: dict[str, Tensor] = field(default_factory=dict)  # by the name of the term
    _targets: dict[Weighting, Targets] = field(default_factory=dict)

    def targets(self, weighting: Weighting) -> Targets:
        """The target distributions under ``weighting``, computed once a batch."""
        if weighting not in self._targets:
            self._targets[weighting] = Targets(
                self.text, weighting, self.ids, self.chunk, self.memory
            )
        return self._targets[weighting]


class Term(nn.Module):
    """One named loss term.

    Args:
        name: what it is called in logs.
        weight: its share of the total.
        scale: a logit scale of its own (number or dictionary, see ``LogitScale.parse``), else the
            objective's is shared.
        temperature: the same as ``scale: 1 / temperature``, fixed.
    """

    kind: ClassVar[str]
    scaled: ClassVar[bool] = True  # whether it reads a logit scale
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, name: str, weight: float = 1.0, scale: Any = None, temperature: float | None = None
    ) -> None:
        super().__init__()
        self.name, self.weight = name, weight
        if temperature is not None:
            require(scale is None, f"{name}: give scale or temperature, not both")
            scale = {"temperature": temperature, "learnable": False}
        self.scale = LogitScale.parse(scale) if scale is not None else None

    def wanted(self, bank: bool) -> tuple[str, ...]:
        """Which in-batch log-sum-exps it reads, given whether there is a text bank."""
        return ()

    def pulls(self, batch: Batch) -> list[Tensor | None]:
        """What it multiplies the logits with, none or one matrix (see ``streaming.pair_sums``).

        It finds the sum as ``batch.pulled[name]``.
        """
        return []

    def extra_repr(self) -> str:
        """Show the weight."""
        return f"{self.name}, weight={self.weight:g}"


class _BankTerm(Term):
    """A term whose speech -> text part may run over the text bank."""

    weighting: Weighting
    use_bank: bool | None
    negatives: int | None

    def _set_bank(self, bank: bool | None, negatives: int | None) -> None:
        require(
            negatives is None
            or (isinstance(negatives, int) and not isinstance(negatives, bool) and negatives >= 2),
            f"{self.name}: negatives must be a whole number of at least 2, got {negatives!r}",
        )
        require(
            bank in (None, True, False),
            f"{self.name}: bank must be true, false or left out, got {bank!r}",
        )
        self.use_bank, self.negatives = bank, negatives

    def _takes(self, given: bool) -> bool:
        require(
            given or not self.use_bank,
            f"bank: term {self.name!r} has `bank: true` but no bank was passed",
        )
        return given and self.use_bank is not False

    def from_bank(self, batch: Batch, scale: Tensor) -> Tensor:
        """Speech -> text over the bank: each rank takes its own rows, the sums are added."""
        bank, text = batch.bank, batch.text[batch.local]
        speech = batch.speech[batch.local] if batch.local_speech is None else batch.local_speech
        negatives = self.negatives or bank.sample
        if negatives is None:
            lse = bank.logsumexp(speech, scale)
        else:
            require(
                batch.ids is not None,
                f"text_ids: term {self.name!r} draws negatives and needs the bank row of each text",
            )
            ids = batch.ids[batch.local]
            lse = bank.sampled_logsumexp(speech, text, scale, ids, negatives)
        wanted = bank.targets(text, self.weighting)
        part = lse.sum() - scale * (speech.to(wanted.dtype) * wanted).sum()
        whole = part if batch.local_speech is None else sum_over_ranks(part)
        return whole / len(batch.speech)


class CwclTerm(_BankTerm):
    """``cwcl.cwcl``; its speech anchor runs over the text bank where there is one."""

    kind = "cwcl"
    options = ("anchor", "weighting", "bank", "negatives")

    def __init__(
        self,
        name: str,
        *,
        anchor: str = "speech",
        weighting: str | Mapping | Weighting = "linear",
        bank: bool | None = None,
        negatives: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(name, **common)
        self.anchor, self.weighting = check_anchor(anchor), Weighting.parse(weighting)
        self._set_bank(bank, negatives)

    def wanted(self, bank: bool) -> tuple[str, ...]:
        return DIRECTIONS.get(self._anchor_in_batch(bank), ())

    def pulls(self, batch: Batch) -> list[Tensor | None]:
        anchor = self._anchor_in_batch(batch.bank is not None)
        return [] if anchor is None else batch.targets(self.weighting).pulls(anchor)

    def _anchor_in_batch(self, bank: bool) -> str | None:
        """What is left for the batch where the bank takes over the speech anchor."""
        if self.anchor == "text" or not self._takes(bank):
            return self.anchor
        return "text" if self.anchor == "both" else None

    def forward(self, batch: Batch, scale: Tensor) -> Tensor:
        anchor = self._anchor_in_batch(batch.bank is not None)
        if anchor is None:
            return self.from_bank(batch, scale)
        targets, pulled = batch.targets(self.weighting), batch.pulled.get(self.name)
        part = weigh_up(batch.speech, batch.text, scale, anchor, batch.lse, targets, pulled)
        return part if anchor == self.anchor else (self.from_bank(batch, scale) + part) / 2


class ContrastiveTerm(_BankTerm):
    """``baselines.contrastive``; equal transcripts are left out of the softmax."""

    kind = "cl"
    options = ("direction", "mask_equal", "bank", "negatives")

    def __init__(
        self,
        name: str,
        *,
        direction: str = "text_to_speech",
        mask_equal: bool = True,
        bank: bool | None = None,
        negatives: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(name, **common)
        self.direction, self.mask_equal = check_direction(direction), bool(mask_equal)
        self.weighting = Weighting("identity")
        self._set_bank(bank, negatives)

    def wanted(self, bank: bool) -> tuple[str, ...]:
        suffix = "_masked" if self.mask_equal else ""
        names = []
        if self.direction != "text_to_speech" and not self._takes(bank):
            names.append("rows" + suffix)
        if self.direction != "speech_to_text":
            names.append("columns" + suffix)
        return tuple(names)

    def pulls(self, batch: Batch) -> list[Tensor | None]:
        return [None] if self.wanted(batch.bank is not None) else []

    def forward(self, batch: Batch, scale: Tensor) -> Tensor:
        parts = [
            batch.lse[name].mean() - batch.pulled[self.name] / len(batch.speech)
            for name in self.wanted(batch.bank is not None)
        ]
        if self.direction != "text_to_speech" and self._takes(batch.bank is not None):
            parts.append(self.from_bank(batch, scale))
        return sum(parts[1:], parts[0]) / len(parts)


class ClipTerm(ContrastiveTerm):
    """Plain contrastive both ways: CLIP, and LiT with a frozen text encoder."""

    kind = "clip"

    def __init__(self, name: str, *, direction: str = "both", **options: Any) -> None:
        super().__init__(name, direction=direction, **options)


class SupConTerm(CwclTerm):
    """CWCL with ``w_ij = [text_i == text_j]``."""

    kind = "supcon"
    options = ("anchor", "bank", "negatives")

    def __init__(self, name: str, *, anchor: str = "both", **options: Any) -> None:
        super().__init__(name, anchor=anchor, weighting="same_text", **options)

    def forward(self, batch: Batch, scale: Tensor) -> Tensor:
        require(
            batch.ids is not None, f"text_ids: term {self.name!r} needs the number of each text"
        )
        return super().forward(batch, scale)


class SiglipTerm(Term):
    """``baselines.siglip`` with a learnable (or fixed) bias."""

    kind = "siglip"
    options = ("bias", "learnable_bias", "mask_equal")

    def __init__(
        self,
        name: str,
        *,
        bias: float = -10.0,
        learnable_bias: bool = True,
        mask_equal: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(name, **common)
        start = torch.tensor(float(bias))
        if learnable_bias:
            self.bias = nn.Parameter(start)
        else:
            self.register_buffer("bias", start)
        self.mask_equal = bool(mask_equal)

    def forward(self, batch: Batch, scale: Tensor) -> Tensor:
        ids = batch.ids if self.mask_equal else None
        total = sigmoid_pairs(
            batch.speech, batch.text, scale, self.bias, ids=ids, chunk=batch.chunk
        )
        return total / len(batch.speech)


class CosineTerm(Term):
    """``baselines.cosine``."""

    kind = "cosine"
    scaled = False

    def forward(self, batch: Batch, scale: Tensor | None) -> Tensor:
        return 1.0 - paired_cosine(batch.speech, batch.text)


class RelationalTerm(Term):
    """``relational.relational``; it has temperatures of its own and no logit scale."""

    kind = "relational"
    scaled = False
    options = ("source", "temperature", "text_temperature")

    def __init__(
        self,
        name: str,
        *,
        source: str = "speech_text",
        temperature: float = 0.1,
        text_temperature: float | None = None,
        **common: Any,
    ) -> None:
        super().__init__(name, **common)
        self.source = check_source(source)
        self.temperature, self.text_temperature = temperature, text_temperature

    def forward(self, batch: Batch, scale: Tensor | None) -> Tensor:
        return relational(
            batch.speech,
            batch.text,
            source=self.source,
            temperature=self.temperature,
            text_temperature=self.text_temperature,
            chunk=batch.chunk,
        )


TERMS: dict[str, type[Term]] = {
    c.kind: c
    for c in (
        CwclTerm,
        ContrastiveTerm,
        ClipTerm,
        SupConTerm,
        SiglipTerm,
        CosineTerm,
        RelationalTerm,
    )
}


def accepted(kind: type[Term]) -> tuple[str, ...]:
    """Names of the options that a kind of term takes."""
    common = ("weight", "scale", "temperature") if kind.scaled else ("weight",)
    return tuple(dict.fromkeys((*common, *kind.options)))


def build_term(name: str, given: Any) -> Term:
    """Make one term from ``name: weight`` or ``name: {weight: ..., option: ...}``.

    Args:
        name: a kind (``TERMS``), or any name with ``kind`` among the options.
        given: a number, a dictionary, or None for a weight of 1.

    Raises:
        UserError: names the term, the option and the nearest name.
    """
    options = (
        dict(given) if isinstance(given, Mapping) else {"weight": 1.0 if given is None else given}
    )
    require(
        name.isidentifier() and not hasattr(nn.ModuleDict, name),
        f"loss: {name!r} cannot name a term; use letters, digits and underscores",
    )
    kind = options.pop("kind", name)
    kind = "clip" if kind == "lit" else kind
    if kind not in TERMS:
        raise UserError(
            f"loss: no term {kind!r}{closest(str(kind), TERMS)}; use {', '.join(TERMS)}"
        )
    known = accepted(TERMS[kind])
    for key in options:
        require(
            key in known,
            f"loss: term {name!r} has no option {key!r}{closest(str(key), known)}; "
            f"it takes {', '.join(known)}",
        )
    weight = options.get("weight", 1.0)
    require(
        isinstance(weight, (int, float))
        and not isinstance(weight, bool)
        and 0 <= weight < float("inf"),
        f"loss: term {name!r} needs a weight of at least 0, got {weight!r}",
    )
    try:
        return TERMS[kind](name, **options)
    except UserError as error:
        raise UserError(f"loss: term {name!r}: {error}") from None
