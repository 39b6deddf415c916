"""Moonshine's encoder: raw waveforms of any length, rotary positions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechcwcl.models.encoders.families.base import (
    Family,
    attention_mask,
    conv_lengths,
    load_pretrained,
    masked_group_norm,
    masked_moments,
    receptive_field,
)

_KERNELS, _STRIDES = (127, 7, 3), (64, 3, 2)


class Moonshine(Family):
    """Moonshine encoders; a full checkpoint works too, its decoder is never read into memory."""

    model_types = ("moonshine",)
    min_samples = receptive_field(_KERNELS, _STRIDES)

    @classmethod
    def build(cls, config: Any) -> nn.Module:
        """A random encoder."""
        from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder

        config._attn_implementation = "sdpa"
        return MoonshineEncoder(config)

    @classmethod
    def load(cls, folder: Path, config: Any) -> nn.Module:
        """The encoder of any Moonshine folder."""
        from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder

        return load_pretrained(MoonshineEncoder, folder, config, {r"^(model\.)?encoder\.": ""})

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers."""
        return self.model.layers

    @property
    def final_modules(self) -> list[nn.Module]:
        """The final layer norm."""
        return [self.model.layer_norm]

    @property
    def hop(self) -> int:
        """384 samples: about 41.7 frames a second."""
        return math.prod(_STRIDES)

    def normalise(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """As it is, unless the checkpoint asks for zero mean and unit variance."""
        if not self.feature_config.get("do_normalize", False):
            return wav
        mean, variance = masked_moments(wav[:, None], lengths, over_channels=False)
        return (wav - mean[:, 0]) * torch.rsqrt(variance[:, 0] + 1e-7)

    def front(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Three convolutions, the first with a norm over the whole clip."""
        model = self.model
        hidden = torch.tanh(model.conv1(wav[:, None].to(model.conv1.weight.dtype)))
        first = conv_lengths(lengths, _KERNELS[:1], _STRIDES[:1])
        hidden = masked_group_norm(model.groupnorm, hidden, first)
        hidden = F.gelu(model.conv3(F.gelu(model.conv2(hidden))))
        return hidden.transpose(1, 2), conv_lengths(first, _KERNELS[1:], _STRIDES[1:])

    def context(self, hidden: Tensor, frame_lengths: Tensor) -> Any:
        """Attention mask and rotary positions."""
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        return attention_mask(hidden, frame_lengths), self.model.rotary_emb(hidden, positions)

    def layer(self, index: int, hidden: Tensor, context: Any) -> Tensor:
        """Apply one layer."""
        mask, rotary = context
        return self.layers[index](hidden, attention_mask=mask, position_embeddings=rotary)
