"""wav2vec2 and its kin on raw waveforms: HuBERT, WavLM, data2vec-audio."""

from __future__ import annotations

import functools
import math
from typing import Any

from torch import Tensor, nn

from speechcwcl.models.encoders.families import Family
from speechcwcl.models.encoders.frames import (
    attention_mask,
    conv_lengths,
    masked_group_norm,
    receptive_field,
    zero_beyond,
)


class Wav2Vec2(Family):
    """wav2vec2 and HuBERT, with group norm (base models) or layer norm (large ones).

    The group norm of the first convolution takes its statistics over the whole clip; here over its
    true length, where transformers lets the padding of a batch in.
    """

    normalises = True

    def __init__(self, model: nn.Module, feature_config: dict[str, Any]):
        super().__init__(model, feature_config)
        self.min_samples = receptive_field(self.config.conv_kernel, self.config.conv_stride)
        self.hop = math.prod(self.config.conv_stride)  # 320: 50 frames a second, in all there are
        self.layers = self.model.encoder.layers
        # Post-norm layers normalise themselves.
        self._norm_last = getattr(self.config, "do_stable_layer_norm", False)
        self.final_modules = [self.model.encoder.layer_norm] if self._norm_last else []

    def front(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Convolutions, projection, convolutional positions."""
        kernels, strides = self.config.conv_kernel, self.config.conv_stride
        hidden = wav[:, None].to(self.model.feature_extractor.conv_layers[0].conv.weight.dtype)
        steps = zip(self.model.feature_extractor.conv_layers, kernels, strides, strict=True)
        for layer, kernel, stride in steps:
            lengths = conv_lengths(lengths, [kernel], [stride])
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                hidden = masked_group_norm(norm, layer.conv(hidden), lengths)
                hidden = layer.activation(hidden)
            else:
                hidden = layer(hidden)
        projected = self.model.feature_projection(hidden.transpose(1, 2))
        hidden = projected[0] if isinstance(projected, tuple) else projected
        hidden = zero_beyond(hidden, lengths)
        hidden = hidden + self._positions(hidden, lengths)
        encoder = self.model.encoder
        if not self._norm_last:
            hidden = encoder.layer_norm(hidden)
        return encoder.dropout(hidden), lengths

    def _positions(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        embed = self.model.encoder.pos_conv_embed
        if getattr(embed, "batch_norm", None) is None:
            return embed(hidden)
        normed = zero_beyond(embed.batch_norm(hidden.transpose(1, 2)), lengths, axis=-1)
        return embed.activation(embed.padding(embed.conv(normed))).transpose(1, 2)


class Data2VecAudio(Wav2Vec2):
    """data2vec-audio: its positions come from several convolutions one after the other."""

    def _positions(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        hidden = hidden.transpose(1, 2)
        for layer in self.model.encoder.pos_conv_embed.layers:
            # A clip alone has zeros beyond its end before every one of the convolutions.
            hidden = layer(zero_beyond(hidden, lengths, axis=-1))
        return hidden.transpose(1, 2)


class WavLM(Wav2Vec2):
    """WavLM: a relative position bias, owned by the lowest layer, gated in every layer."""

    def __init__(self, model: nn.Module, feature_config: dict[str, Any]):
        super().__init__(model, feature_config)
        layers: Any = self.layers
        for layer in layers:
            # transformers' version takes the projections' weights past their modules, so that LoRA
            # would do nothing, and keeps (heads x frames x frames) weights that nobody reads.
            attend = functools.partial(_attend, layer.attention)
            layer.attention.torch_multi_head_self_attention = attend

    def context(self, hidden: Tensor, frame_lengths: Tensor) -> Any:
        """Padding mask and position bias (batch * heads, frames, frames)."""
        batch, frames = hidden.shape[:2]
        bias = self.model.encoder.layers[0].attention.compute_bias(frames, frames)
        bias = bias.unsqueeze(0).expand(batch, -1, -1, -1).reshape(-1, frames, frames)
        return attention_mask(hidden, frame_lengths), bias

    def layer(self, index: int, hidden: Tensor, context: Any) -> Tensor:
        """Apply one layer."""
        mask, bias = context
        hidden, _ = self.layers[index](hidden, attention_mask=mask, position_bias=bias, index=index)
        return hidden


def _attend(module: Any, hidden: Tensor, mask: Tensor, bias: Tensor) -> tuple[Tensor, None]:
    """Self-attention with a gated position bias (batch * heads, frames, frames)."""
    batch, frames, dim = hidden.shape

    def heads(projected: Tensor) -> Tensor:
        return projected.view(batch, frames, module.num_heads, module.head_dim).transpose(1, 2)

    attended = nn.functional.scaled_dot_product_attention(
        heads(module.q_proj(hidden)),
        heads(module.k_proj(hidden)),
        heads(module.v_proj(hidden)),
        attn_mask=bias.view(batch, module.num_heads, frames, frames) + mask,
        dropout_p=module.dropout if module.training else 0.0,
    )
    return module.out_proj(attended.transpose(1, 2).reshape(batch, frames, dim)), None
