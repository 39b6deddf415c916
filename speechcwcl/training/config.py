"""The training configuration: every key, its meaning and its default, checked strictly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from speechcwcl.errors import UserError, require
from speechcwcl.stages import also_reads
from speechcwcl.yamls import Document, parse_value, read_yaml, validate

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


def _dropouts(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse a dropout, however deep in options, that would leave nothing (or is no share)."""
    for name, value in options.items():
        if isinstance(value, dict):
            _dropouts(value)
        elif "dropout" in name:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < 1:
                raise ValueError(f"{name}: {value!r} is not a share from 0 up to, not including, 1")
    return options


Options = Annotated[dict[str, Any], AfterValidator(_dropouts)]


class Mask(BaseModel):
    """Of one axis of the features: at most `count` stretches of at most `width` are zeroed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    count: NotNegative = 1
    width: Positive = 5


Masks = dict[Literal["time", "dim"], Mask]


class TrainConfig(BaseModel):
    """All that a training YAML may say. A key that is not here is refused.

    A YAML may start from another one with `base: other.yaml` (relative to itself) and change a
    few keys; anchors (`&x`, `*x`) work, tags (`!ref`) do not. Keys can be overridden on the
    command line (`--lr 1e-4`), as in SpeechBrain. The poolings and losses that there are stand
    with them; here is only what a training may not be asked for.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    # towers
    speech_encoder: str = "whisper-tiny.en"  # a name of `speechcwcl fetch`, a folder, or a hub id
    freeze: Any = "all"  # all | none | N: the front end and the N lowest layers stay frozen
    layers: Any = "last"  # last | mix (learned weights) | a list of layer numbers to mix
    frame_stride: Positive = 1  # mean over so many encoder frames
    encoder_options: Options = {}  # more options of SpeechEncoder
    gradient_checkpointing: bool = False
    lora: Options | None = None  # LoRA through peft, e.g. {r: 8, alpha: 16}
    text_encoder: str = "all-MiniLM-L6-v2"
    text_pooling: str = "auto"  # auto | mean | cls | max | last
    center_text: bool = False  # subtract the training mean of the text embeddings, re-normalise
    init_model: str | None = None  # start from the weights of a trained model: a folder, en-tiny
    # head
    pooling: str = "attention"  # attention | mean
    pooling_options: Options = {}  # heads, queries, hidden, stats, ...
    projection: str | Options = "mlp"  # linear | mlp | {hidden: [1024], dropout: 0.1, outputs: 1}
    # loss
    # a name, or weighted terms: {cwcl: 1, cosine: 10}; a list of them for a head of several outputs
    loss: str | dict[str, Any] | list[str | dict[str, Any]] = "cwcl_matched"
    loss_options: Options = {}
    loss_file: str | None = None  # a Python file with losses of your own, relative to this YAML
    text_bank: bool = False  # speech -> text terms run over all training texts, not the batch's
    # batches
    batch_size: Positive = 256  # utterances, at most
    max_batch_length: AboveZero | None = None  # seconds of padded speech in a batch, at most
    num_buckets: Positive = 1  # length buckets of the DynamicBatchSampler; 1 mixes all lengths
    grad_accumulation: Positive = 1
    grad_cache_chunk: Positive | None = None  # utterances embedded at a time (cached gradients)
    num_workers: int = Field(0, ge=0, le=256)  # each a process
    # augmentation
    augment: Options | None = None  # options of speechcwcl.data.augment.Augmenter
    augment_copies: NotNegative = 0  # augmented copies beside the first one in the feature cache
    augment_share: Share = 0.0  # of the utterances whose first cached copy is augmented, not clean
    augment_seed: NotNegative | None = None  # one for all seeds: one feature cache; null = `seed`
    feature_mask: Masks | None = None  # SpecAugment-like masks on cached features
    # optimisation
    epochs: Positive = 10
    steps_per_epoch: Positive | None = None  # optimizer steps; for a stream, of unknown length
    lr: AboveZero = 1e-3
    encoder_lr: AboveZero | None = None  # for the unfrozen part of the speech encoder; null = lr
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False)
    betas: list[Beta] = Field([0.9, 0.98], min_length=2, max_length=2)  # of AdamW
    warmup: Share = 0.1  # share of all steps
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    max_grad_norm: AboveZero | None = 1.0  # gradients are cut to this norm; null = not at all
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = Field(1, ge=0, lt=2**32)
    # checkpoints
    ckpt_interval_steps: NotNegative = 0  # between the ends of epochs; 0 = only at the ends
    keep_checkpoints: Positive = 3  # how many of the best are kept, and averaged in stage 6
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None  # of the CPU; null = torch's

    @field_validator("freeze")
    @classmethod
    def _known_freeze(cls, value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value not in ("all", "none") and not (whole and value >= 0):
            raise ValueError(f"{value!r} is none of all, none, or a number of layers")
        return value

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for hparams.json."""
        values = self.model_dump()
        if self.feature_mask:
            masks = self.feature_mask.items()
            values["feature_mask"] = {k: m.model_dump(exclude_unset=True) for k, m in masks}
        return values


def load_config(
    config: str | os.PathLike | Mapping[str, Any] | TrainConfig,
    overrides: dict[str, Any] | None = None,
) -> TrainConfig:
    """Read a training YAML, its bases, and the overrides; or take keys and values as they are.

    Raises:
        UserError: no such file, bad YAML, and what [`TrainConfig`][] does not allow: a line
            each, with file, line and nearest name.
    """
    if isinstance(config, TrainConfig):
        config = config.as_dict()
    if isinstance(config, Mapping):
        document = Document(Path("config"), dict(config))
    else:
        document = read_yaml(Path(config), typed=True, base="base")
        also_reads(*document.files)
    folder = Path(document.where("loss_file").rpartition(":")[0]).parent
    for name, value in (overrides or {}).items():
        document.values[name] = value
        document.places[(name,)] = f"--{name}"
    word = document.values.get("loss_file")
    if isinstance(word, str):
        # so that it is found from wherever the run is gone on with
        path = (Path() if "loss_file" in (overrides or {}) else folder) / word
        if not path.is_file():
            raise document.refuse("loss_file", problem=f"loss_file: there is no file {path}")
        document.values["loss_file"] = str(path.resolve())
    return validate(TrainConfig, document)


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """`["--lr", "1e-4", "--loss=clip"]` -> `{"lr": 0.0001, "loss": "clip"}` (YAML values)."""
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
            found[key] = parse_value(value, f"--{key}")
        except UserError as error:
            raise UserError(f"--{key}: {value!r} is not a YAML value") from error
    return found
