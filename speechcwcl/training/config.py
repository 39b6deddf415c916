"""The training configuration: every key, its meaning and its default, checked strictly."""

from __future__ import annotations

import dataclasses
import io
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hyperpyyaml import load_hyperpyyaml

from speechcwcl.errors import UserError, closest, require
from speechcwcl.files import read_text


@dataclass
class TrainConfig:
    """All that a training YAML may say. A key that is not here is refused.

    A YAML may start from another one with ``base: other.yaml`` (relative to itself) and change a
    few keys; HyperPyYAML's ``!ref`` works. Keys can be overridden on the command line
    (``--lr 1e-4``), as in SpeechBrain.
    """

    # towers
    speech_encoder: str = "whisper-tiny.en"  # a name of `speechcwcl fetch`, a folder, or a hub id
    freeze: Any = "all"  # all | none | N: the front end and the N lowest layers stay frozen
    layers: Any = "last"  # last | mix (learned weights) | a list of layer numbers to mix
    frame_stride: int = 1  # mean over so many encoder frames
    encoder_options: dict = field(default_factory=dict)  # more options of SpeechEncoder
    gradient_checkpointing: bool = False
    lora: dict | None = None  # LoRA through peft, e.g. {r: 8, alpha: 16}
    text_encoder: str = "all-MiniLM-L6-v2"
    text_pooling: str = "auto"  # auto | mean | cls
    center_text: bool = False  # subtract the training mean of the text embeddings, re-normalise
    # head
    pooling: str = "attention"  # attention | mean
    pooling_options: dict = field(default_factory=dict)  # heads, queries, hidden, stats, ...
    projection: Any = "mlp"  # linear | mlp | {hidden: [1024], dropout: 0.1}
    # loss
    loss: Any = "cwcl_matched"  # a name, or weighted terms: {cwcl: 1, cl: 1, cosine: 10}
    loss_options: dict = field(default_factory=dict)
    text_bank: bool = False  # speech -> text terms run over all training texts, not the batch's
    # batches
    batch_size: int = 256  # utterances, at most
    max_batch_length: float | None = None  # seconds of padded speech in a batch, at most
    num_buckets: int = 1  # length buckets of the DynamicBatchSampler; 1 mixes all lengths
    grad_accumulation: int = 1
    grad_cache_chunk: int | None = None  # embed in chunks of so many utterances (cached gradients)
    num_workers: int = 0
    # augmentation
    augment: dict | None = None  # options of speechcwcl.data.augment.Augmenter
    augment_copies: int = 0  # augmented copies beside the first one in the feature cache
    augment_share: float = 0.0  # of the utterances whose first cached copy is augmented, not clean
    feature_mask: dict | None = None  # SpecAugment-like masks on cached features
    # optimisation
    epochs: int = 10
    steps_per_epoch: int | None = None  # optimizer steps; for a stream, whose length is not known
    lr: float = 1e-3
    encoder_lr: float | None = None  # for the unfrozen part of the speech encoder; null = lr
    weight_decay: float = 0.01
    betas: list = field(default_factory=lambda: [0.9, 0.98])
    warmup: float = 0.1  # share of all steps
    schedule: str = "cosine"  # cosine | linear | constant
    max_grad_norm: float = 1.0
    precision: str = "fp32"  # fp32 | bf16 | fp16
    seed: int = 1
    # checkpoints
    ckpt_interval_steps: int = 0  # between the ends of epochs; 0 = only at the ends
    keep_checkpoints: int = 3  # how many of the best are kept, and averaged in stage 6
    threads: int | None = None  # CPU threads; null = torch's choice

    def __post_init__(self) -> None:
        choices = {
            "pooling": ("attention", "mean"),
            "schedule": ("cosine", "linear", "constant"),
            "precision": ("fp32", "bf16", "fp16"),
            "text_pooling": ("auto", "mean", "cls"),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            hint = closest(str(value), allowed)
            require(value in allowed, f"{name}: {value!r} is none of {', '.join(allowed)}{hint}")
        for name in ("batch_size", "epochs", "num_buckets", "frame_stride", "grad_accumulation"):
            value = getattr(self, name)
            require(value >= 1, f"{name}: {value} is not a positive whole number")
        require(
            self.steps_per_epoch is None or self.steps_per_epoch >= 1,
            f"steps_per_epoch: {self.steps_per_epoch} is not a positive whole number",
        )
        require(
            0 <= self.augment_share <= 1,
            f"augment_share: {self.augment_share} is not between 0 and 1",
        )
        whole = isinstance(self.freeze, int) and not isinstance(self.freeze, bool)
        require(
            self.freeze in ("all", "none") or (whole and self.freeze >= 0),
            f"freeze: {self.freeze!r} is none of all, none, or a number of layers",
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for hparams.json."""
        return dataclasses.asdict(self)


def load_config(
    path: str | Path | dict[str, Any] | TrainConfig, overrides: dict[str, Any] | None = None
) -> TrainConfig:
    """Read a training YAML, its bases, and the overrides; or take keys and values as they are.

    Raises:
        UserError: no such file, bad YAML, a key that does not exist (file, line, nearest name), or
            a value of the wrong kind.
    """
    if isinstance(path, TrainConfig):
        path = path.as_dict()
    if isinstance(path, dict):
        path, values = "config", {**path}
        overrides = values | (overrides or {})
        values = {}
    else:
        values = _load(Path(path), ())
    names = {f.name for f in dataclasses.fields(TrainConfig)}
    for name, value in (overrides or {}).items():
        require(name in names, f"--{name}: no such key of a training YAML{closest(name, names)}")
        values[name] = value
    types = typing.get_type_hints(TrainConfig)
    typed = {name: _coerce(path, name, value, types[name]) for name, value in values.items()}
    try:
        return TrainConfig(**typed)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """``["--lr", "1e-4", "--loss=clip"]`` -> ``{"lr": 0.0001, "loss": "clip"}`` (YAML values)."""
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        require(word.startswith("--"), f"{word!r}: an override is --key value")
        key, equals, value = word[2:].partition("=")
        if not equals:
            require(bool(rest), f"--{key}: a value is missing")
            value = rest.pop(0)
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--{key}: {value!r} is not a YAML value") from error
    return found


def _load(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    require(path.resolve() not in seen, f"{path}: the bases of this file go round in a circle")
    text = read_text(path)
    try:
        values = load_hyperpyyaml(io.StringIO(text)) if text.strip() else {}
    except AttributeError as error:
        raise UserError(f"{path}: expected `key: value` lines") from error
    except Exception as error:  # HyperPyYAML raises many kinds
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{where}: not valid YAML: {reason}") from error
    require(isinstance(values, dict), f"{path}: expected `key: value` lines")
    values = dict(values)
    base = values.pop("base", None)
    names = {f.name for f in dataclasses.fields(TrainConfig)} | {"base"}
    for name in values:
        if name not in names:
            line = _line_of(text, name)
            raise UserError(f"{path}:{line}: no such key {name!r}{closest(name, names)}")
    if base is None:
        return values
    below = _load(path.parent / str(base), (*seen, path.resolve()))
    return below | values


def _line_of(text: str, key: str) -> int:
    for number, line in enumerate(text.split("\n"), 1):
        if line.split(":")[0].strip() == key:
            return number
    return 1


def _coerce(path: str | Path, name: str, value: Any, kind: Any) -> Any:
    """YAML reads ``1e-3`` as a string, and an integer where a float is meant: put that right."""
    if kind is Any:
        return _plain(value)
    allowed = typing.get_args(kind) or (kind,)
    if value is None and type(None) in allowed:
        return None
    if float in allowed and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool)):
        return _plain(value)
    wanted = " or ".join(getattr(a, "__name__", str(a)) for a in allowed).replace(
        "NoneType", "null"
    )
    raise UserError(f"{path}: {name}: {value!r} is not of the kind {wanted}")


def _plain(value: Any) -> Any:
    """Containers of ruamel.yaml to plain ones; number-like strings in them to numbers."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, str):
        try:
            return float(value) if "e" in value.lower() and value[:1] in "-.0123456789" else value
        except ValueError:
            return value
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value
