"""The training objective: a weighted sum of named losses over one batch."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from types import GeneratorType
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from speechcwcl.errors import UserError, closest, require
from speechcwcl.losses import diagnostics as report
from speechcwcl.losses.bank import TextBank
from speechcwcl.losses.inputs import check_pair, gather_rows, own_rows, row_counts, world_size
from speechcwcl.losses.kernel import DEFAULT_MEMORY, Sums, pair_sums
from speechcwcl.losses.weighting import Weighting

if TYPE_CHECKING:
    from speechcwcl.losses.register import Loss


class Term(nn.Module):
    """One loss of an objective, with its options.

    Args:
        scale: a logit scale of its own, else the objective's is shared.
        bank: whether its speech -> text part runs over the text bank; None: where there is one.
    """

    def __init__(
        self,
        name: str,
        loss: Loss,
        options: dict[str, Any],
        *,
        weight: float = 1.0,
        scale: LogitScale | None = None,
        bank: bool | None = None,
    ) -> None:
        super().__init__()
        require(bank in (None, True, False), f"bank must be true, false or left out, got {bank!r}")
        self.name, self.loss, self.weight, self.bank = name, loss, weight, bank
        self.scale: LogitScale | None = scale
        self.options = dict(options)
        for key in loss.learnt:
            start = torch.tensor(float(self.options.pop(key)))
            if self.options.pop(f"learnable_{key}"):
                setattr(self, key, nn.Parameter(start))
            else:
                self.register_buffer(key, start)

    @property
    def weighting(self) -> Weighting | None:
        """The weights that diagnostics tell of."""
        return self.options.get("weighting", self.loss.weighting)

    def forward(
        self, speech: Tensor, text: Tensor, scale: Tensor | None, shared: dict[str, Any]
    ) -> Tensor | Generator:
        """The loss's value, or a generator for `answer`."""
        given = {key: shared[key] for key in self.loss.shared}
        if self.bank is False and "text_bank" in given:
            given["text_bank"] = None
        if self.bank and given["text_bank"] is None:
            raise UserError(f"bank: term {self.name!r} has `bank: true` but no bank was passed")
        require_rows(speech, self.name, self.loss.least_rows)
        if self.loss.scaled:
            given["scale"] = scale
        given |= {key: getattr(self, key) for key in self.loss.learnt}
        return self.loss.function(speech, text, **given, **self.options)


def answer(
    asking: Mapping[str, Generator[Any, Any, Tensor]],
    speech: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    least_rows: int = 1,
    **options: Any,
) -> dict[str, Tensor]:
    """Finish losses that ask for sums over all pairs: one pass answers all of them.

    Args:
        asking: the losses, by the names of their terms. Each yields once, `(wanted, weights)` of
            `pair_sums`, is sent what that returns for it, and returns its value.
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        scale: logit scale.
        least_rows: fewest rows that may be contrasted.
        **options: `ids`, `chunk`, `memory`, `ceiling` of `pair_sums`.

    Returns:
        The value of each loss, 0-d.
    """
    values: dict[str, Tensor] = {}

    def resume(name: str, sums: Sums | None) -> tuple | None:
        try:
            return asking[name].send(sums)
        except StopIteration as done:
            values[name] = done.value
            return None

    asked = {name: ask for name in asking if (ask := resume(name, None)) is not None}
    if asked:
        require_rows(speech, next(iter(asked)), least_rows)
        lse, sums = pair_sums(
            speech,
            text,
            scale,
            wanted={direction for wanted, _ in asked.values() for direction in wanted},
            weights=[matrix for _, weights in asked.values() for matrix in weights],
            **options,
        )
        for name, (_, weights) in asked.items():
            resume(name, (lse, sums[: len(weights)]))
            sums = sums[len(weights) :]
    return values


def require_rows(speech: Tensor, name: str, least: int) -> None:
    """Refuse a batch of fewer rows than the term `name` can contrast."""
    if len(speech) < least:
        raise UserError(
            f"speech: term {name!r} contrasts the items of a batch and this one has {len(speech)} "
            "row; use larger batches, drop a last batch of 1, or use a text bank"
        )


@dataclass
class LossOutput:
    """What an objective returns.

    Attributes:
        total: 0-d, what to call `backward` on.
        terms: the unweighted value of each term, 0-d, detached.
        diagnostics: plain numbers for the log, from the latest step on which they were taken.
        fresh: whether that is this step.
    """

    total: Tensor
    terms: dict[str, Tensor]
    diagnostics: dict[str, float] = field(default_factory=dict)
    fresh: bool = False


class ContrastiveObjective(nn.Module):
    """A weighted sum of named loss terms over one batch of (speech, text) embeddings.

    Under torch.distributed, batches are gathered over ranks while training (see `inputs.py`),
    unless `speech` comes straight from `gather_rows`. Wrap it in DistributedDataParallel like
    every other module, so that a learnable scale stays the same everywhere.

    The first batch is checked; the others are trusted to be like it.

    Args:
        scale: the logit scale that terms without one of their own share.
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
        shared = any(term.loss.scaled and term.scale is None for term in terms)
        self.scale: LogitScale | None = (scale or LogitScale()) if shared else None
        self.gather, self.chunk, self.memory = gather, chunk, memory
        self.diagnostics_every = diagnostics_every
        self.looked_at = False  # whether the rows of a batch were checked
        self._step, self._warned = 0, False
        self._latest: dict[str, float] = {}

    def forward(
        self,
        speech: Tensor,
        text: Tensor,
        text_ids: Tensor | None = None,
        bank: TextBank | None = None,
        step: int | None = None,
    ) -> LossOutput:
        """Compute the loss of one batch.

        Args:
            speech: (N, dim) unit-norm.
            text: (N, dim) unit-norm, row i the transcript of speech i.
            text_ids: (N,) int64, equal where transcripts are equal, on every rank alike. Best left
                on the CPU, where it costs nothing to see whether any are equal.
            bank: the text bank; speech -> text terms run over it when it is given.
            step: how many training steps came before, which decides whether diagnostics are due
                (a resumed run then logs what it would have logged); counted here when None.

        Returns:
            Total, terms and diagnostics.

        Raises:
            UserError: an input is not what it should be; the message names the argument.
        """
        if not self.looked_at:
            check_pair(speech, text, text_ids)
            if bank is not None:
                kind = type(bank).__name__
                require(isinstance(bank, TextBank), f"bank: expected a TextBank, got {kind}")
                wide = f"width {bank.dim} does not match speech {tuple(speech.shape)}"
                require(bank.dim == speech.shape[1], f"bank: {wide}")
            self.looked_at = True
        spread = self.gather and self.training and dist.is_available() and dist.is_initialized()
        if spread and world_size() > 1 and own_rows(speech) is None:
            counts = row_counts(len(speech), speech.device)
            speech, text = gather_rows(speech, counts), gather_rows(text, counts)
            if text_ids is not None:
                text_ids = gather_rows(text_ids.to(speech.device), counts)
        ids = None if text_ids is None else text_ids.to(speech.device, non_blocking=True)
        kernel: dict[str, Any] = {"chunk": self.chunk, "memory": self.memory}
        shared = {"text_ids": ids, "text_bank": bank, **kernel}
        values: dict[str, Any] = {}
        for scale, terms in self._by_scale():
            number = None if scale is None else scale()
            found = {term.name: term(speech, text, number, shared) for term in terms}
            asking = {name: v for name, v in found.items() if isinstance(v, GeneratorType)}
            if scale is not None and number is not None:
                known: dict[str, Any] = {"ids": text_ids, "ceiling": scale.ceiling, "least_rows": 2}
                found |= answer(asking, speech, text, number, **known, **kernel)
            values |= found
        total = sum(term.weight * values[term.name] for term in self._terms())
        parts = {name: values[name].detach() for name in self.terms}
        fresh = self._due(step)
        if fresh:
            self._latest = self._measure(speech.detach(), text.detach(), ids)
        return LossOutput(total, parts, dict(self._latest), fresh)

    def _terms(self) -> list[Term]:
        return cast("list[Term]", list(self.terms.values()))

    def _by_scale(self) -> list[tuple[LogitScale | None, list[Term]]]:
        """Terms by the scale they read, so that each scale's logits are computed once."""
        groups: dict[int, tuple[LogitScale | None, list[Term]]] = {}
        for term in self._terms():
            scale = (term.scale or self.scale) if term.loss.scaled else None
            groups.setdefault(id(scale), (scale, []))[1].append(term)
        return list(groups.values())

    def _due(self, step: int | None) -> bool:
        """Whether diagnostics are to be taken, given how many training steps came before."""
        if not self.training:
            return True
        step = self._step if step is None else step
        self._step = step + 1
        return self.diagnostics_every > 0 and step % self.diagnostics_every == 0

    @torch.no_grad()
    def _measure(self, speech: Tensor, text: Tensor, ids: Tensor | None) -> dict[str, float]:
        terms = self._terms()
        found = {f"scale_{t.name}": float(t.scale()) for t in terms if t.scale is not None}
        if self.scale is not None:
            found["scale"] = float(self.scale())
        found |= {f"{k}_{t.name}": float(getattr(t, k)) for t in terms for k in t.loss.learnt}
        if len(speech) < 2:
            return found
        with torch.autocast(speech.device.type, enabled=False):
            found |= report.matching_accuracy(speech, text, ids)
            found["w_std"] = report.text_spread(text)
            weighting = next((t.weighting for t in terms if t.weighting is not None), None)
            if weighting is not None:
                found |= report.target_statistics(text, text, weighting, ids)
                if weighting.linear and len(text) >= 16 and not self._warned:
                    self._warned = report.warn_if_flat(found["w_std"])
        return found


class LogitScale(nn.Module):
    """A positive scale, stored as its logarithm, kept within `[minimum, maximum]`.

    The bound acts on the parameter itself, before it is used, as in CLIP: a clamp in the graph
    would have no gradient once the bound is passed, and the scale could never come back.

    Args:
        init: the first value, `1 / temperature`.
        learnable: whether the optimiser changes it. Keep it out of weight decay, which would pull
            it towards 1.
        minimum: least value of a learnable scale.
        maximum: greatest value of a learnable scale.

    Examples:
        >>> scale = LogitScale(init=20.0, learnable=True)
        >>> round(scale().item(), 4)
        20.0
    """

    def __init__(
        self,
        init: float = 20.0,
        learnable: bool = True,
        minimum: float = 1.0,
        maximum: float = 100.0,
    ) -> None:
        super().__init__()
        for name, value in (("init", init), ("minimum", minimum), ("maximum", maximum)):
            _positive(f"scale: {name}", value)
        require(
            not learnable or minimum <= init <= maximum,
            f"scale: init {init} is outside its bounds [{minimum}, {maximum}]; "
            "change init, minimum or maximum",
        )
        self.minimum, self.maximum, self.learnable = float(minimum), float(maximum), bool(learnable)
        # what the scale never exceeds, known without asking a GPU
        self.ceiling = self.maximum if learnable else float(init)
        start = torch.tensor(math.log(init))
        self.log_scale: Tensor
        if learnable:
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)

    @classmethod
    def parse(cls, given: Any = None, **defaults: Any) -> LogitScale:
        """Read a number (fixed at it) or `{init | temperature, learnable, minimum, maximum}`."""
        if isinstance(given, LogitScale):
            return given
        if given is None:
            return cls(**defaults)
        if isinstance(given, (int, float)) and not isinstance(given, bool):
            return cls(init=float(given), learnable=False)
        if not isinstance(given, Mapping):
            raise UserError(f"scale: expected a number or a dictionary, got {given!r}")
        options = {**defaults, **given}
        known = ("init", "temperature", "learnable", "minimum", "maximum")
        for key in options:
            require(
                key in known,
                f"scale: no option {key!r}{closest(str(key), known)}; use {', '.join(known)}",
            )
        if "temperature" in options:
            options["init"] = inverse(options.pop("temperature"))
        return cls(**options)

    def forward(self) -> Tensor:
        """Return the scale as a 0-d float32 tensor."""
        value: Tensor = self.log_scale
        if self.learnable and self.training:
            with torch.no_grad():
                value.clamp_(math.log(self.minimum), math.log(self.maximum))
        elif self.learnable:  # the last step may have passed the bound
            value = value.clamp(math.log(self.minimum), math.log(self.maximum))
        return value.float().exp()

    def _load_from_state_dict(self, *given: Any, **options: Any) -> None:
        super()._load_from_state_dict(*given, **options)
        if not self.learnable:
            self.ceiling = float(self.log_scale.detach().exp())


def inverse(temperature: Any) -> float:
    """`1 / temperature`, checked."""
    return 1.0 / _positive("temperature:", temperature)


def _positive(name: str, value: Any) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(good and 0 < value < math.inf, f"{name} must be a positive number, got {value!r}")
    return float(value)
