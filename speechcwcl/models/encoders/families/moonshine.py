"""Moonshine's encoder: raw waveforms of any length, rotary positions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechcwcl.models.encoders.families import Family
from speechcwcl.models.encoders.frames import (
    attention_mask,
    conv_lengths,
    masked_group_norm,
    receptive_field,
)

_KERNELS, _STRIDES = (127, 7, 3), (64, 3, 2)


class Moonshine(Family):
    """Moonshine encoders."""

    encoder = "moonshine.modeling_moonshine.MoonshineEncoder"
    normalises = False
    min_samples = receptive_field(_KERNELS, _STRIDES)
    hop = math.prod(_STRIDES)  # about 41.7 frames a second

    def __init__(self, model: nn.Module, feature_config: dict[str, Any]):
        super().__init__(model, feature_config)
        self.layers, self.final_modules = self.model.layers, [self.model.layer_norm]

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
