"""The losses by name: `@term` registers one, `build_loss` adds some up as a YAML says."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import GeneratorType
from typing import Any

from torch import Tensor, nn

from speechcwcl.errors import UserError, closest, require
from speechcwcl.losses.inputs import check_pair
from speechcwcl.losses.kernel import DEFAULT_MEMORY
from speechcwcl.losses.objective import (
    ContrastiveObjective,
    LogitScale,
    Term,
    answer,
    inverse,
)
from speechcwcl.losses.weighting import Weighting

# what every batch has for a loss that names it among its arguments
SHARED = ("text_ids", "text_bank", "chunk", "memory")


@dataclass
class Loss:
    """What the register knows of a loss; the rest as in `term`."""

    name: str
    function: Callable[..., Any]  # `(speech, text, scale, ...)` to a 0-d tensor, or a generator
    options: dict[str, Any]  # its options and their defaults
    scaled: bool  # whether it reads a logit scale
    shared: frozenset[str]  # which of `SHARED` it reads
    parse: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    learnt: tuple[str, ...] = ()
    start_scale: float = 20.0
    least_rows: int = 1
    weighting: Weighting | None = None

    @property
    def file(self) -> str:
        """The file that it is written in."""
        return self.function.__code__.co_filename

    @property
    def own(self) -> tuple[str, ...]:
        """Options beside weight and scale."""
        return (*self.options, "bank") if "text_bank" in self.shared else tuple(self.options)

    @property
    def accepted(self) -> tuple[str, ...]:
        """All options that a term of it takes."""
        return (*(("weight", "scale", "temperature") if self.scaled else ("weight",)), *self.own)


TERMS: dict[str, Loss] = {}  # filled by `@term`

# The temperature of `cwcl_matched`: of its softmax weights and of its softmax alike, and fixed, so
# that its CWCL term, as its cosine term, is least where speech and text embeddings are the same.
MATCHED = 0.05
PRESETS: dict[str, dict[str, Any]] = {
    "cwcl": {"cwcl": 1.0, "cl": 1.0},
    "cwcl_matched": {"cwcl": {"weighting": {"softmax": MATCHED}}, "cl": 1.0, "cosine": 10.0},
    "lit": {"clip": 1.0},
}


def term(
    name: str,
    *,
    parse: Mapping[str, Callable[[Any], Any]] | None = None,
    defaults: Mapping[str, Any] | None = None,
    learnt: tuple[str, ...] = (),
    start_scale: float = 20.0,
    least_rows: int = 1,
    weighting: Weighting | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Tensor]]:
    """Register a loss under a name, by which a training YAML can ask for it.

    The function is `(speech, text, scale, ...) -> 0-d tensor`, embeddings (N, dim) unit-norm;
    without `scale` where it reads no logit scale. Its further arguments are its options in the
    YAML, except those that every batch has for a loss that names them:

    - `text_ids`: (N,) int64, equal where transcripts are equal, or None
    - `text_bank`: the `TextBank`, or None
    - `chunk`, `memory`: see `kernel.pair_sums`

    A loss made of log-sum-exps over all pairs may `yield` what it wants of `kernel.pair_sums`
    (`wanted`, `weights`) and is sent what that returns: terms of one scale share one pass.

    Args:
        parse: for an option what checks its value and returns what the function is given.
        defaults: of the term, where they are not those of the function.
        learnt: options that are learnt from there on, unless `learnable_NAME: false`.
        start_scale: where the logit scale starts if nothing is said and all terms agree.
        least_rows: fewest rows of a batch that it can contrast.
        weighting: the weights that diagnostics tell of, where they are not an option.

    Returns:
        A decorator. What it returns can be called on its own, and checks its input.

    Raises:
        UserError: the name is taken by another file's loss, or the function takes other arguments.

    Examples:
        >>> import torch
        >>> @term("hinge")
        ... def hinge(speech, text, scale, margin=0.2):
        ...     cosines = speech @ text.T
        ...     return (margin + cosines - cosines.diagonal()[:, None]).relu().mean()
        >>> build_loss({"cosine": 1, "hinge": {"weight": 2, "margin": 0.1}}).terms["hinge"].options
        {'margin': 0.1}
    """

    def register(function: Callable[..., Any]) -> Callable[..., Tensor]:
        loss = _read_signature(name, inspect.unwrap(function), defaults or {}, learnt)
        loss.parse, loss.learnt, loss.weighting = parse or {}, learnt, weighting
        loss.start_scale, loss.least_rows = start_scale, least_rows
        TERMS[name] = loss
        return _direct(loss)

    return register


def _read_signature(
    name: str, function: Callable[..., Any], defaults: Mapping[str, Any], learnt: tuple[str, ...]
) -> Loss:
    """What the arguments of a function say about the loss."""
    code = function.__code__
    place = f"{code.co_filename}:{code.co_firstlineno}"
    require(
        name not in TERMS or TERMS[name].file == code.co_filename,
        f"{place}: there is a loss named {name!r} already; choose another name",
    )
    parameters = inspect.signature(function).parameters
    require(
        list(parameters)[:2] == ["speech", "text"],
        f"{place}: the arguments of a loss begin with speech, text (and scale), got "
        f"{', '.join(parameters) or 'none'}",
    )
    options = {
        p.name: defaults.get(p.name, p.default)
        for p in list(parameters.values())[2:]
        if p.name not in (*SHARED, "scale") and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    taken = {"weight", "kind", "temperature" if "scale" in parameters else "kind"} & set(options)
    require(not taken, f"{place}: every loss has an option {', '.join(taken)}; rename this one")
    options |= {f"learnable_{option}": True for option in learnt}
    return Loss(name, function, options, "scale" in parameters, frozenset(SHARED) & set(parameters))


def _direct(loss: Loss) -> Callable[..., Tensor]:
    """The loss as a function to be called on its own."""
    signature, looked_at = inspect.signature(loss.function), False

    @functools.wraps(loss.function)
    def direct(*given: Any, **options: Any) -> Tensor:
        nonlocal looked_at
        kernel = {"chunk": options.get("chunk"), "memory": options.get("memory", DEFAULT_MEMORY)}
        for key in set(kernel) - loss.shared:
            options.pop(key, None)
        bound = signature.bind(*given, **options)
        bound.apply_defaults()
        values = bound.arguments
        for key, check in loss.parse.items():
            values[key] = check(values[key])
        speech, text, ids = values["speech"], values["text"], values.get("text_ids")
        check_pair(speech, text, ids, values=not looked_at)
        looked_at = True
        scale = values.get("scale", 1.0)
        number = scale.detach() if isinstance(scale, Tensor) else scale
        if not isinstance(number, Tensor) or number.device.type == "cpu":
            require(
                0 < float(number) < float("inf"),
                f"scale: must be a positive number (1 / temperature), got {float(number)}",
            )
        value = loss.function(*bound.args, **bound.kwargs)
        if isinstance(value, GeneratorType):
            value = answer({loss.name: value}, speech, text, scale, ids=ids, **kernel)[loss.name]
        return value

    return direct


def one_of(option: str, *choices: str) -> Callable[[Any], str]:
    """A parser of an option that is one of some words."""

    def check(value: Any) -> str:
        require(
            value in choices,
            f"{option}: {value!r} is not one of {', '.join(choices)}{closest(str(value), choices)}",
        )
        return value

    return check


def load_losses(path: str | Path) -> list[str]:
    """Run a Python file that registers losses with `@term`.

    Args:
        path: a file of the user's own; it is run as it is.

    Returns:
        The names that it registered.

    Raises:
        UserError: there is no such file, it fails (with the line), or it registers nothing.
    """
    path = Path(path).absolute()
    require(path.is_file(), f"{path}: no such file; loss_file names a Python file with @term in it")
    spec = importlib.util.spec_from_file_location(f"losses_of_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: is not a Python file (.py)")
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except UserError:
        raise
    except Exception as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [1])[-1]
        raise UserError(f"{path}:{line}: {type(error).__name__}: {error}") from error
    found = [name for name, loss in TERMS.items() if loss.file == str(path)]
    require(bool(found), f'{path}: registers no loss; put @term("name") above a function')
    return found


def build_loss(
    spec: str | Mapping[str, Any],
    *,
    loss_file: str | Path | None = None,
    scale: Any = None,
    temperature: float | None = None,
    learnable: bool | None = None,
    gather: bool = True,
    chunk: int | None = None,
    memory: int = DEFAULT_MEMORY,
    diagnostics_every: int = 10,
    **options: Any,
) -> ContrastiveObjective:
    """Build an objective from a name or from a dictionary of weighted terms; friendly to YAML.

    Args:
        spec: `"cwcl"` (`{cwcl: 1, cl: 1}`, the paper's total), `"cwcl_matched"` (what the
            ablation chose, see recipes/cwcl), a term (`"clip"` = `"lit"`, `"siglip"`,
            `"supcon"`, `"cosine"`, `"relational"`, `"cl"`: text to speech only); or
            `{term: weight}` or `{term: {weight: ..., option: ...}}`. A term may have any name
            if `kind` says what it is.
        loss_file: a Python file that registers more losses with `@term`.
        scale: shared logit scale: a number (fixed) or `{init, learnable, minimum, maximum}`.
        temperature: `1 / scale`; 0.05 when neither is given (0.1 for SigLIP alone).
        learnable: whether the shared scale is learnt; True when left out.
        chunk: as in `kernel.pair_sums`, and `memory`.
        diagnostics_every: take diagnostics on every so many training steps.
        **options: options of the terms (`weighting`, ...), for those that take and lack them.

    Returns:
        A module: `objective(speech, text, text_ids=None, bank=None) -> LossOutput`.

    Raises:
        UserError: an unknown name or a bad value, with the nearest name.

    Examples:
        >>> import torch
        >>> loss = build_loss({"cwcl": {"weighting": {"softmax": 0.1}}, "cl": 1, "cosine": 10})
        >>> p = torch.nn.functional.normalize(torch.randn(8, 4), dim=1)
        >>> sorted(loss(p, p).terms)
        ['cl', 'cosine', 'cwcl']
    """
    if loss_file is not None:
        load_losses(loss_file)
    if spec == "cwcl_matched" and scale is None and temperature is None:
        temperature, learnable = MATCHED, bool(learnable)
    terms = _terms(spec, options)
    return ContrastiveObjective(
        terms,
        _shared_scale(terms, scale, temperature, learnable),
        gather=gather,
        chunk=chunk,
        memory=memory,
        diagnostics_every=diagnostics_every,
    )


def _terms(spec: str | Mapping[str, Any], options: dict[str, Any]) -> list[Term]:
    """The terms of weight above 0; `options` go to those that take them."""
    if isinstance(spec, str):
        names = [*PRESETS, *(name for name in TERMS if name not in PRESETS)]
        require(
            spec in names,
            f"loss: no loss {spec!r}{closest(spec, names)}; use {', '.join(names)}, "
            "or a dictionary of weighted terms",
        )
        spec = PRESETS.get(spec, {spec: 1.0})
    require(
        isinstance(spec, Mapping) and len(spec) > 0,
        f"loss: expected a name or a dictionary of weighted terms, got {spec!r}",
    )
    entries: dict[str, dict[str, Any]] = {}
    used: set[str] = set()
    for name, given in spec.items():
        entry = dict(given) if isinstance(given, Mapping) else {"weight": given}
        loss = TERMS.get(_kind(entry.get("kind", name)))
        takes = set(options) & set(loss.own) if loss is not None else set()
        used |= takes
        entries[str(name)] = {**{key: options[key] for key in takes}, **entry}
    for key in options:
        known = sorted({option for loss in TERMS.values() for option in loss.accepted})
        require(key in used, f"loss: no term here takes {key!r}{closest(key, known)}")
    terms = [_term(name, entry) for name, entry in entries.items()]
    return [term for term in terms if term.weight > 0]


def _kind(name: Any) -> str:
    return "clip" if name == "lit" else str(name)


def _term(name: str, options: dict[str, Any]) -> Term:
    """One term from `{weight: ..., option: ...}`; any name with `kind` among the options."""
    require(
        name.isidentifier() and not hasattr(nn.ModuleDict, name),
        f"loss: {name!r} cannot name a term; use letters, digits and underscores",
    )
    kind = _kind(options.pop("kind", name))
    require(kind in TERMS, f"loss: no term {kind!r}{closest(kind, TERMS)}; use {', '.join(TERMS)}")
    loss = TERMS[kind]
    for key in options:
        require(
            key in loss.accepted,
            f"loss: term {name!r} has no option {key!r}{closest(str(key), loss.accepted)}; "
            f"it takes {', '.join(loss.accepted)}",
        )
    weight = options.pop("weight", None)
    weight = 1.0 if weight is None else weight
    require(
        isinstance(weight, (int, float))
        and not isinstance(weight, bool)
        and 0 <= weight < float("inf"),
        f"loss: term {name!r} needs a weight of at least 0, got {weight!r}",
    )
    common = {"bank": options.pop("bank", None)} if "text_bank" in loss.shared else {}
    try:
        if loss.scaled:
            scale, temperature = options.pop("scale", None), options.pop("temperature", None)
            require(scale is None or temperature is None, "give scale or temperature, not both")
            if temperature is not None:
                scale = {"temperature": temperature, "learnable": False}
            common["scale"] = None if scale is None else LogitScale.parse(scale)
        values = {**loss.options, **options}
        missing = [key for key, value in values.items() if value is inspect.Parameter.empty]
        require(not missing, f"needs a value for {', '.join(missing)}")
        values |= {key: check(values[key]) for key, check in loss.parse.items()}
        return Term(name, loss, values, weight=weight, **common)
    except UserError as error:
        raise UserError(f"loss: term {name!r}: {error}") from None


def _shared_scale(
    terms: list[Term], scale: Any, temperature: float | None, learnable: bool | None
) -> LogitScale:
    require(
        scale is None or temperature is None, "scale: give scale or temperature, not both of them"
    )
    if isinstance(scale, LogitScale):
        return scale
    options: dict[str, Any] = {}
    starts = {term.loss.start_scale for term in terms}
    if isinstance(scale, Mapping):
        options.update(scale)
    elif scale is not None:
        options.update(init=scale, learnable=bool(learnable))
    elif temperature is not None:
        options["init"] = inverse(temperature)
    elif len(starts) == 1:
        options["init"] = starts.pop()
    if learnable is not None:
        options["learnable"] = learnable
    return LogitScale.parse(options)
