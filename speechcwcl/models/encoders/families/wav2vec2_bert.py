"""w2v-bert 2.0: Kaldi filter banks in torch, conformer layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from speechcwcl.models.encoders.families import Family
from speechcwcl.models.encoders.frames import (
    attention_mask,
    masked_moments,
    valid,
    zero_beyond,
)

_WINDOW, _HOP, _FFT = 400, 160, 512


class FilterBank:
    """Kaldi's log mel filter bank of a batch, as the SeamlessM4T feature extractor computes it."""

    def __init__(self, mels: int):
        from transformers.audio_utils import mel_filter_bank

        filters = mel_filter_bank(
            num_frequency_bins=_FFT // 2 + 1,
            num_mel_filters=mels,
            min_frequency=20,
            max_frequency=8000,
            sampling_rate=16000,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
        self._filters = torch.from_numpy(filters).double()
        self._window = torch.from_numpy(np.hanning(_WINDOW) ** 0.85).double()

    def __call__(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the filter bank, normalised per band over each clip's true frames.

        Args:
            wav: (batch, samples) at 16 kHz, at least 560 samples.
            lengths: (batch,) in samples.

        Returns:
            (batch, frames, mels) at 100 Hz, zero beyond each clip, and (batch,) frame counts.
        """
        counts = torch.div(lengths - _WINDOW, _HOP, rounding_mode="floor") + 1
        # In double precision: the logarithm of a nearly silent band magnifies rounding.
        frames = (wav.double() * 2**15).unfold(1, _WINDOW, _HOP)[:, : int(counts.max())]
        frames = frames - frames.mean(-1, keepdim=True)
        # The first sample of a frame has no predecessor; Kaldi takes the sample itself.
        previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        frames = (frames - 0.97 * previous) * self._window.to(wav.device)
        power = torch.view_as_real(torch.fft.rfft(frames, _FFT)).square().sum(-1)
        mel = (power @ self._filters.to(wav.device)).clamp_(min=1.192092955078125e-07).log_()
        mean, variance = masked_moments(mel.transpose(1, 2), counts, over_channels=False)
        unbiased = variance * (counts / (counts - 1).clamp(min=1))[:, None, None]
        normed = (mel.transpose(1, 2) - mean) * torch.rsqrt(unbiased + 1e-7)
        return zero_beyond(normed.transpose(1, 2), counts).float(), counts


class Wav2Vec2Bert(Family):
    """w2v-bert 2.0 encoders; two filter-bank frames side by side make one frame of 20 ms."""

    min_samples = _WINDOW + _HOP

    def __init__(self, model: nn.Module, feature_config: dict[str, Any]):
        super().__init__(model, feature_config)
        self._stride = feature_config.get("stride", 2)
        self.hop = _HOP * self._stride
        self.layers, self.final_modules = self.model.encoder.layers, []
        self.filter_bank = FilterBank(self.config.feature_projection_input_dim // self._stride)

    def front(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Filter bank, stacking, projection."""
        features, counts = self.filter_bank(wav, lengths)
        size = features.shape[1] // self._stride
        features = features[:, : size * self._stride].reshape(len(wav), size, -1)
        counts = torch.div(counts, self._stride, rounding_mode="floor")
        hidden, _ = self.model.feature_projection(features)
        return self.model.encoder.dropout(zero_beyond(hidden, counts)), counts

    def context(self, hidden: Tensor, frame_lengths: Tensor) -> Any:
        """Attention mask, mask of the convolutions, positions."""
        embed = self.model.encoder.embed_positions
        positions = embed(hidden) if embed is not None else None
        masks = attention_mask(hidden, frame_lengths), valid(frame_lengths, hidden.shape[1])
        return (*masks, positions)

    def layer(self, index: int, hidden: Tensor, context: Any) -> Tensor:
        """Apply one layer."""
        mask, convolved, positions = context
        return self.layers[index](
            hidden,
            attention_mask=mask,
            conv_attention_mask=convolved,
            relative_position_embeddings=positions,
        )
