"""The training objective: a weighted sum of named terms with shared scale, bank and diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from speechcwcl.errors import UserError, closest, require
from speechcwcl.losses import diagnostics as report
from speechcwcl.losses.bank import TextBank
from speechcwcl.losses.checks import check_pair
from speechcwcl.losses.gather import gather_rows, is_gathered, row_counts, world_size
from speechcwcl.losses.scale import LogitScale, inverse
from speechcwcl.losses.streaming import DEFAULT_MEMORY, pair_sums
from speechcwcl.losses.terms import TERMS, Batch, CwclTerm, SiglipTerm, Term, accepted, build_term

# The temperature of `cwcl_matched`: of its softmax weights and of its softmax alike, and fixed, so
# that its CWCL term, as its cosine term, is least where speech and text embeddings are the same.
MATCHED = 0.05
PRESETS: dict[str, dict[str, Any]] = {
    "cwcl": {"cwcl": 1.0, "cl": 1.0},
    "cwcl_matched": {"cwcl": {"weighting": {"softmax": MATCHED}}, "cl": 1.0, "cosine": 10.0},
    "clip": {"clip": 1.0},
    "lit": {"clip": 1.0},
    "cl": {"cl": 1.0},
    "siglip": {"siglip": 1.0},
    "cosine": {"cosine": 1.0},
    "supcon": {"supcon": 1.0},
    "relational": {"relational": 1.0},
}


@dataclass
class LossOutput:
    """What an objective returns.

    Attributes:
        total: 0-d, what to call ``backward`` on.
        terms: the unweighted value of each term, 0-d, detached.
        diagnostics: plain numbers for the log, from the latest step on which they were taken.
    """

    total: Tensor
    terms: dict[str, Tensor]
    diagnostics: dict[str, float] = field(default_factory=dict)


class ContrastiveObjective(nn.Module):
    """A weighted sum of named loss terms over one batch of (speech, text) embeddings.

    Under torch.distributed, batches are gathered over ranks while training (see ``gather.py``),
    unless ``speech`` comes straight from ``gather_rows``. Wrap the module in
    DistributedDataParallel like every other one, so that a learnable scale stays the same
    everywhere.

    Args:
        terms: what to add up.
        scale: the logit scale that terms without one of their own share.
        gather: whether to gather over ranks while training.
        chunk: rows of logits at a time; chosen to fit the cache when None.
        memory: bytes of exponentials that may be kept for the backward pass.
        diagnostics_every: take diagnostics on every so many training steps (0: never); always in
            evaluation mode.
    """

    def __init__(
        self,
        terms: list[Term],
        scale: LogitScale | None = None,
        *,
        gather: bool = True,
        chunk: int | None = None,
        memory: int = DEFAULT_MEMORY,
        diagnostics_every: int = 10,
    ) -> None:
        super().__init__()
        require(len(terms) > 0, "loss: no term has a weight above 0")
        self.terms = nn.ModuleDict({term.name: term for term in terms})
        shared = any(term.scaled and term.scale is None for term in terms)
        self.scale = (scale or LogitScale()) if shared else None
        self.gather, self.chunk, self.memory = gather, chunk, memory
        self.diagnostics_every = diagnostics_every
        self._step, self._latest, self._warned = 0, {}, False

    def forward(
        self,
        speech: Tensor,
        text: Tensor,
        text_ids: Tensor | None = None,
        bank: TextBank | None = None,
    ) -> LossOutput:
        """Compute the loss of one batch.

        Args:
            speech: (N, dim) unit-norm.
            text: (N, dim) unit-norm, row i the transcript of speech i.
            text_ids: (N,) int64, equal where transcripts are equal, on every rank alike; the row
                in the bank where a term draws negatives from one.
            bank: the text bank; speech -> text terms run over it when it is given.

        Returns:
            Total, terms and diagnostics.

        Raises:
            UserError: an input is not what it should be; the message names the argument.
        """
        check_pair(speech, text, text_ids)
        if bank is not None:
            require(
                isinstance(bank, TextBank), f"bank: expected a TextBank, got {type(bank).__name__}"
            )
            require(
                bank.dim == speech.shape[1],
                f"bank: width {bank.dim} does not match speech {tuple(speech.shape)}",
            )
        batch = self._gathered(speech, text, text_ids, bank)
        self._check_size(batch)
        values: dict[str, Tensor] = {}
        for scale, terms in self._groups():
            number = scale() if scale is not None else None
            self._contrast(batch, number, terms)
            values |= {term.name: term(batch, number) for term in terms}
        total = sum(term.weight * values[term.name] for term in self.terms.values())
        return LossOutput(
            total, {name: values[name].detach() for name in self.terms}, self._diagnose(batch)
        )

    def _groups(self) -> list[tuple[LogitScale | None, list[Term]]]:
        """Terms by the scale they read, so that each scale's logits are computed once."""
        groups: dict[int, tuple[LogitScale | None, list[Term]]] = {}
        for term in self.terms.values():
            scale = (term.scale or self.scale) if term.scaled else None
            groups.setdefault(id(scale), (scale, []))[1].append(term)
        return list(groups.values())

    def _contrast(self, batch: Batch, scale: Tensor | None, terms: list[Term]) -> None:
        """Compute what these terms read from the logits of all pairs."""
        batch.lse, batch.pulled = {}, {}
        wanted = {name for term in terms for name in term.wanted(batch.bank is not None)}
        if not wanted:
            return
        pulls = {term.name: pull for term in terms for pull in term.pulls(batch)}
        batch.lse, pulled = pair_sums(
            batch.speech,
            batch.text,
            scale,
            wanted=wanted,
            pulls=list(pulls.values()),
            ids=batch.ids,
            chunk=self.chunk,
            memory=self.memory,
        )
        batch.pulled = dict(zip(pulls, pulled, strict=True))

    def _gathered(
        self, speech: Tensor, text: Tensor, ids: Tensor | None, bank: TextBank | None
    ) -> Batch:
        options = {"bank": bank, "chunk": self.chunk, "memory": self.memory}
        if not (self.gather and self.training) or world_size() == 1 or is_gathered(speech):
            return Batch(speech, text, ids, **options)
        counts = row_counts(len(speech), speech.device)
        start = sum(counts[: torch.distributed.get_rank()])
        return Batch(
            gather_rows(speech, counts),
            gather_rows(text, counts),
            None if ids is None else gather_rows(ids, counts),
            local=slice(start, start + len(speech)),
            local_speech=speech,
            **options,
        )

    def _check_size(self, batch: Batch) -> None:
        for term in self.terms.values():
            alone = term.wanted(batch.bank is not None) or isinstance(term, SiglipTerm)
            alone = alone or getattr(term, "source", "") == "speech_speech"
            require(
                len(batch.speech) > 1 or not alone,
                f"speech: term {term.name!r} contrasts the items of a batch and this one has 1 "
                "row; use larger batches, drop a last batch of 1, or use a text bank",
            )

    def _diagnose(self, batch: Batch) -> dict[str, float]:
        due = not self.training or (
            self.diagnostics_every > 0 and self._step % self.diagnostics_every == 0
        )
        if self.training:
            self._step += 1
        if due:
            self._latest = self._measure(batch)
        return dict(self._latest)

    @torch.no_grad()
    def _measure(self, batch: Batch) -> dict[str, float]:
        speech, text = batch.speech.detach(), batch.text.detach()
        found = {f"scale_{t.name}": float(t.scale()) for t in self.terms.values() if t.scale}
        if self.scale is not None:
            found["scale"] = float(self.scale())
        found |= {
            f"bias_{t.name}": float(t.bias)
            for t in self.terms.values()
            if isinstance(t, SiglipTerm)
        }
        if len(speech) < 2:
            return found
        with torch.autocast(speech.device.type, enabled=False):
            found |= report.matching_accuracy(speech, text, batch.ids)
            found["w_std"] = report.text_spread(text)
            for term in self.terms.values():
                if isinstance(term, CwclTerm):
                    self._measure_targets(found, term, batch)
                    break
        return found

    def _measure_targets(self, found: dict[str, float], term: CwclTerm, batch: Batch) -> None:
        """Statistics of the first CWCL term's targets in the batch; warns if they are flat."""
        text = batch.text.detach()
        found |= report.target_statistics(text, text, term.weighting, batch.ids)
        if term.weighting.linear and len(text) >= 16 and not self._warned:
            self._warned = report.warn_if_flat(found["w_std"])


def build_loss(
    spec: str | Mapping[str, Any],
    *,
    scale: Any = None,
    temperature: float | None = None,
    learnable: bool | None = None,
    min_scale: float | None = None,
    max_scale: float | None = None,
    gather: bool = True,
    chunk: int | None = None,
    memory: int = DEFAULT_MEMORY,
    diagnostics_every: int = 10,
    **options: Any,
) -> ContrastiveObjective:
    """Build an objective from a name or from a dictionary of weighted terms; friendly to YAML.

    Args:
        spec: ``"cwcl"`` (``{cwcl: 1, cl: 1}``, the paper's total), ``"cwcl_matched"`` (softmax
            weights at the softmax's own fixed temperature, with CL and cosine regression; what
            the ablation chose, see recipes/cwcl), ``"clip"`` (= ``"lit"``),
            ``"siglip"``, ``"supcon"``, ``"cosine"``, ``"relational"``, ``"cl"`` (text to speech
            only); or a dictionary ``{term: weight}`` or ``{term: {weight: ..., option: ...}}``. A
            term may have any name if ``kind`` says what it is.
        scale: shared logit scale: a number (fixed) or ``{init, learnable, minimum, maximum}``.
        temperature: ``1 / scale``; 0.05 when neither is given (0.1 for SigLIP alone).
        learnable: whether the shared scale is learnt; True when left out.
        min_scale: least shared scale (1).
        max_scale: greatest shared scale (100).
        gather: whether to gather over ranks while training.
        chunk: rows of logits at a time; chosen to fit the cache when None.
        memory: bytes of exponentials that may be kept for the backward pass.
        diagnostics_every: take diagnostics on every so many training steps.
        **options: options of the terms (``weighting``, ``anchor``, ``negatives``, ...), given to
            every term that takes them and does not set them itself.

    Returns:
        A module: ``objective(speech, text, text_ids=None, bank=None) -> LossOutput``.

    Raises:
        UserError: an unknown name or a bad value, with the nearest name.

    Example:
        >>> import torch
        >>> loss = build_loss({"cwcl": {"weighting": {"softmax": 0.1}}, "cl": 1, "cosine": 10})
        >>> p = torch.nn.functional.normalize(torch.randn(8, 4), dim=1)
        >>> sorted(loss(p, p).terms)
        ['cl', 'cosine', 'cwcl']
    """
    if spec == "cwcl_matched" and scale is None and temperature is None:
        temperature, learnable = MATCHED, bool(learnable)
    terms = _terms(spec, options)
    return ContrastiveObjective(
        terms,
        _shared_scale(terms, scale, temperature, learnable, min_scale, max_scale),
        gather=gather,
        chunk=chunk,
        memory=memory,
        diagnostics_every=diagnostics_every,
    )


def _terms(spec: str | Mapping[str, Any], options: dict[str, Any]) -> list[Term]:
    if isinstance(spec, str):
        if spec not in PRESETS:
            raise UserError(
                f"loss: no loss {spec!r}{closest(spec, PRESETS)}; use {', '.join(PRESETS)}, "
                "or a dictionary of weighted terms"
            )
        spec = PRESETS[spec]
    require(
        isinstance(spec, Mapping) and len(spec) > 0,
        f"loss: expected a name or a dictionary of weighted terms, got {spec!r}",
    )
    entries: dict[str, dict[str, Any]] = {}
    used: set[str] = set()
    for name, given in spec.items():
        entry = (
            dict(given)
            if isinstance(given, Mapping)
            else {"weight": 1.0 if given is None else given}
        )
        kind = TERMS.get(entry.get("kind", name))
        takes = set(options) & set(kind.options) if kind is not None else set()
        used |= takes
        entries[str(name)] = {**{key: options[key] for key in takes}, **entry}
    for key in options:
        known = sorted({o for kind in TERMS.values() for o in accepted(kind)})
        require(key in used, f"loss: no term here takes {key!r}{closest(key, known)}")
    terms = [build_term(name, entry) for name, entry in entries.items()]
    return [term for term in terms if term.weight > 0]


def _shared_scale(
    terms: list[Term],
    scale: Any,
    temperature: float | None,
    learnable: bool | None,
    min_scale: float | None,
    max_scale: float | None,
) -> LogitScale:
    require(
        scale is None or temperature is None, "scale: give scale or temperature, not both of them"
    )
    if isinstance(scale, LogitScale):
        return scale
    options: dict[str, Any] = {}
    if isinstance(scale, Mapping):
        options.update(scale)
    elif scale is not None:
        options.update(init=scale, learnable=bool(learnable))
    elif temperature is not None:
        options["init"] = inverse(temperature)
    elif all(isinstance(term, SiglipTerm) for term in terms):
        options["init"] = 10.0
    for key, value in (("learnable", learnable), ("minimum", min_scale), ("maximum", max_scale)):
        if value is not None:
            options[key] = value
    return LogitScale.parse(options)
