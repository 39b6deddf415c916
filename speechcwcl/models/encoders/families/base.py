"""What every family of speech encoders is split into: front end, layers, final norm."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechcwcl.errors import UserError

SAMPLE_RATE = 16000


class Family(ABC):
    """A transformers speech encoder cut into front end, layers and final norm.

    A family computes nothing of its own where transformers' modules can be called; it only puts
    masks where padding would otherwise leak, so that an utterance's frames do not depend on what
    else is in the batch.

    Args:
        model: the transformers encoder (owns all parameters).
        feature_config: the feature extractor's configuration (may be empty).

    Attributes:
        min_samples: shorter waveforms are zero-padded to this many samples, whatever the batch.
        window_frames: attention never looks across this many frames; ``None``: no limit.
        silence: seconds of digital silence put before and after a clip unless told otherwise; its
            frames are taken out again after the top layer.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    min_samples: int = 400
    window_frames: int | None = None
    silence: tuple[float, float] = (0.0, 0.0)

    def __init__(self, model: nn.Module, feature_config: dict[str, Any]):
        self.model = model
        self.config = model.config
        self.feature_config = feature_config

    # -- building ---------------------------------------------------------------------------

    @classmethod
    def build(cls, config: Any) -> nn.Module:
        """An encoder with random weights from a transformers configuration."""
        from transformers import AutoModel

        return AutoModel.from_config(config, attn_implementation=_attention(config))

    @classmethod
    def load(cls, folder: Path, config: Any) -> nn.Module:
        """The pretrained encoder in ``folder`` as float32."""
        from transformers import AutoModel

        return load_pretrained(AutoModel, folder, config)

    # -- shape ------------------------------------------------------------------------------

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """The transformer layers, lowest first."""

    @property
    @abstractmethod
    def final_modules(self) -> list[nn.Module]:
        """Modules applied after the top layer (empty where the layers normalise themselves)."""

    @property
    def dim(self) -> int:
        """Width of a frame."""
        return self.config.hidden_size

    @property
    @abstractmethod
    def hop(self) -> int:
        """Samples from one frame to the next."""

    # -- computing --------------------------------------------------------------------------

    @abstractmethod
    def front(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Everything below the lowest layer, positions included.

        Args:
            wav: (batch, samples) at 16 kHz, zero beyond ``lengths``, at least ``min_samples``.
            lengths: (batch,) in samples, at least ``min_samples``.

        Returns:
            (batch, frames, dim), zero beyond the frame lengths, and (batch,) frame lengths.
        """

    def normalise(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """Waveform normalisation over the true length, before any padding to ``min_samples``."""
        return wav

    def context(self, hidden: Tensor, frame_lengths: Tensor) -> Any:
        """Whatever the layers share: attention mask, positions. Must not depend on a layer's
        output, only on its shape and the lengths."""
        return attention_mask(hidden, frame_lengths)

    @abstractmethod
    def layer(self, index: int, hidden: Tensor, context: Any) -> Tensor:
        """Apply layer ``index``."""

    def final(self, hidden: Tensor) -> Tensor:
        """Apply what follows the top layer."""
        for module in self.final_modules:
            hidden = module(hidden)
        return hidden


def _attention(config: Any) -> str:
    # WavLM computes its own attention; everything else here knows torch's fused one.
    return "eager" if config.model_type == "wavlm" else "sdpa"


def load_pretrained(cls: Any, folder: Path, config: Any, key_mapping: dict | None = None) -> Any:
    """``cls.from_pretrained`` in float32 that never runs a repository's code or invents weights.

    Raises:
        UserError: unreadable weights, or tensors of the encoder that the checkpoint lacks.
    """
    options: dict[str, Any] = {"key_mapping": key_mapping} if key_mapping else {}
    try:
        with quiet():
            model, info = cls.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                attn_implementation=_attention(config),
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        why = (str(error).strip().splitlines() or [repr(error)])[0]
        raise UserError(f"{folder}: cannot load the weights: {why}") from error
    # Used only by self-supervised training, and some checkpoints leave it out.
    missing = sorted(k for k in info["missing_keys"] if not k.endswith("masked_spec_embed"))
    if missing or info["mismatched_keys"]:
        name = (missing or [str(info["mismatched_keys"])])[0]
        raise UserError(
            f"{folder}: the weights do not fit config.json: {name} is missing or of another shape "
            f"({len(missing) + len(info['mismatched_keys'])} in all)"
        )
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' notes about the parts of a checkpoint that are not wanted."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.CRITICAL)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def valid(lengths: Tensor, size: int) -> Tensor:
    """(batch, size) bool: true within each length."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def zero_beyond(values: Tensor, lengths: Tensor, axis: int = 1) -> Tensor:
    """``values`` with zeros beyond ``lengths`` along ``axis`` (1 or the last)."""
    mask = valid(lengths, values.shape[axis])
    if axis in (-1, values.dim() - 1) and values.dim() == 3:
        mask = mask[:, None, :]
    elif values.dim() == 3:
        mask = mask[:, :, None]
    return values.masked_fill(~mask, 0.0)


def attention_mask(hidden: Tensor, frame_lengths: Tensor) -> Tensor:
    """Additive (batch, 1, 1, frames) mask: 0 on true frames, very negative on padding.

    It is made even when nothing is padded: the masked and the unmasked kernels of torch round
    differently, and an utterance's frames should not depend on its company.
    """
    mask = torch.zeros(
        hidden.shape[0], 1, 1, hidden.shape[1], dtype=hidden.dtype, device=hidden.device
    )
    padding = ~valid(frame_lengths, hidden.shape[1])
    return mask.masked_fill(padding[:, None, None, :], torch.finfo(hidden.dtype).min)


def masked_moments(values: Tensor, lengths: Tensor, over_channels: bool) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of (batch, channels, time) over the true time steps.

    Args:
        values: (batch, channels, time), anything beyond ``lengths``.
        lengths: (batch,) true time steps.
        over_channels: pool the channels too.

    Returns:
        Two (batch, channels or 1, 1) tensors.
    """
    mask = valid(lengths, values.shape[-1])[:, None, :]
    count = lengths[:, None, None].to(values.dtype)
    axes: tuple[int, ...] = (-1,)
    if over_channels:
        axes, count = (-2, -1), count * values.shape[1]
    mean = values.masked_fill(~mask, 0.0).sum(axes, keepdim=True) / count
    square = (values - mean).masked_fill(~mask, 0.0).square()
    return mean, square.sum(axes, keepdim=True) / count


def masked_group_norm(norm: nn.GroupNorm, values: Tensor, lengths: Tensor) -> Tensor:
    """``norm`` with its statistics over the true length only.

    Args:
        norm: one group a channel (wav2vec2, HuBERT) or one group in all (Moonshine).
        values: (batch, channels, time).
        lengths: (batch,) true time steps.
    """
    if norm.num_groups not in (1, norm.num_channels):
        raise UserError(f"group norm with {norm.num_groups} groups is not supported")
    exact = values.float()  # sums over thousands of time steps, whatever the autocast precision
    mean, variance = masked_moments(exact, lengths, over_channels=norm.num_groups == 1)
    scaled = (exact - mean) * torch.rsqrt(variance + norm.eps)
    return (scaled * norm.weight[None, :, None] + norm.bias[None, :, None]).to(values.dtype)


def conv_lengths(lengths: Tensor, kernels: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Output lengths of a stack of unpadded convolutions."""
    for kernel, stride in zip(kernels, strides, strict=True):
        lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
    return lengths


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Fewest input samples for which a stack of unpadded convolutions gives one frame."""
    size = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        size = (size - 1) * stride + kernel
    return size
