"""Whisper's encoder on clips of any length: log-mel in torch, positions sliced, no 30 s padding."""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechcwcl.models.encoders.families import Family
from speechcwcl.models.encoders.frames import zero_beyond
from speechcwcl.models.towers import WhisperEncoder, WhisperSettings, load_whisper

_FFT = 400
_HOP = 160


class LogMel:
    """Whisper's log-mel spectrogram of a batch, each clip as if it were alone.

    The clip is reflected at its own end (not at the batch's), and the dynamic range is clamped to
    8 decades below the clip's own maximum.
    """

    def __init__(self, mels: int):
        self.hop = _HOP
        self.filters = torch.from_numpy(_mel_filters(mels)).float().T.contiguous()
        self._window = torch.hann_window(_FFT, device="cpu")  # in outlines too: no decomposition

    def __call__(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the spectrogram.

        Args:
            wav: (batch, samples) at 16 kHz.
            lengths: (batch,) in samples, more than 200.

        Returns:
            (batch, mels, frames) at 100 Hz, zero beyond each clip, and (batch,) frame counts.
        """
        most = int(torch.div(lengths, _HOP, rounding_mode="floor").max())
        return self.from_power(self._power, wav, lengths, most)

    def from_power(
        self, power: Callable[[Tensor], Tensor], wav: Tensor, lengths: Tensor, most: int
    ) -> tuple[Tensor, Tensor]:
        """As calling it, with another way to the power spectrum.

        Args:
            power: (batch, samples) -> (batch, frequencies, frames), no padding at the ends.
            wav: (batch, samples).
            lengths: (batch,).
            most: frames to compute, at least those of the longest clip.
        """
        frames = torch.div(lengths, _HOP, rounding_mode="floor")
        padded = _reflect(wav.float(), lengths, (most - 1) * _HOP + _FFT)
        mel = (self.filters.to(wav.device) @ power(padded)).clamp(min=1e-10).log10()
        floor = mel.masked_fill(
            torch.arange(most, device=wav.device) >= frames[:, None, None], -torch.inf
        )
        mel = torch.maximum(mel, floor.amax(dim=(1, 2), keepdim=True) - 8.0)
        return zero_beyond((mel + 4.0) / 4.0, frames, axis=-1), frames

    def _power(self, padded: Tensor) -> Tensor:
        window = self._window.to(padded.device)
        spectrum = torch.stft(padded, _FFT, _HOP, window=window, center=False, return_complex=True)
        return torch.view_as_real(spectrum).square().sum(-1)

    def fourier_basis(self) -> Tensor:
        """(2 x frequencies, 1, window): windowed cosines, then sines, for a runtime with no FFT."""
        step = torch.arange(_FFT, dtype=torch.float64)
        angle = torch.arange(1 + _FFT // 2, dtype=torch.float64)[:, None] * step * (2 * pi / _FFT)
        basis = torch.cat([angle.cos(), angle.sin()]) * self._window.double()
        return basis.float()[:, None]


def _mel_filters(mels: int) -> np.ndarray:
    """(frequencies, mels) float64: triangles on Slaney's scale, of equal area, up to 8 kHz."""
    step = np.log(6.4) / 27.0  # above 1 kHz, which is mel 15, the scale is logarithmic
    centres = np.linspace(0.0, 15.0 + np.log(8.0) * (27.0 / np.log(6.4)), mels + 2)
    hertz = 200.0 * centres / 3.0
    high = centres >= 15.0
    hertz[high] = 1000.0 * np.exp(step * (centres[high] - 15.0))
    width = np.diff(hertz)
    slopes = hertz[None, :] - np.linspace(0, 8000, 1 + _FFT // 2)[:, None]
    falling, rising = -slopes[:, :-2] / width[:-1], slopes[:, 2:] / width[1:]
    return np.maximum(0.0, np.minimum(falling, rising)) * (2.0 / (hertz[2:] - hertz[:-2]))


def _reflect(wav: Tensor, lengths: Tensor, size: int) -> Tensor:
    """Pad by half a window on both sides, mirroring at each clip's own ends."""
    position = (torch.arange(size, device=wav.device) - _FFT // 2).abs()[None, :]
    last = lengths[:, None] - 1
    mirrored = torch.where(position > last, 2 * last - position, position)
    return wav.gather(1, mirrored.clamp_(min=0).minimum(last))


class Whisper(Family):
    """Whisper encoders.

    Clips longer than the position table (30 s) are encoded in windows of that length, whose frames
    are put one after the other; the spectrogram is still taken over the whole clip.
    """

    encoder = "whisper.modeling_whisper.WhisperEncoder"
    min_samples = 2 * _HOP
    hop = 2 * _HOP  # 50 frames a second
    # It was trained on clips inside 30 s of silence. A little silence on both sides gives most of
    # that back: spoken digits of unseen speakers, linear probe on the mean frame: 91.6 % without,
    # 97.2 % with 0.2 s, 97.8 % with 0.3 s before and 1 s after.
    silence = (0.2, 0.2)

    @classmethod
    def build(cls, config: Any) -> nn.Module:
        """In plain torch where that is the same network."""
        if isinstance(config, WhisperSettings):
            return WhisperEncoder(config)
        return super().build(config)

    @classmethod
    def load(cls, folder: Path, config: Any) -> nn.Module:
        """In plain torch where that is the same network and the weights lie in one file."""
        if isinstance(config, WhisperSettings):
            model = load_whisper(folder, config)
            if model is not None:
                return model
            from transformers import WhisperConfig  # knows more files, and says what is wrong

            config = WhisperConfig.from_pretrained(folder)
        return super().load(folder, config)

    def __init__(self, model: nn.Module, feature_config: dict[str, Any]):
        super().__init__(model, feature_config)
        self.window_frames: int = self.config.max_source_positions
        self.log_mel = LogMel(self.config.num_mel_bins)
        self.layers, self.final_modules = self.model.layers, [self.model.layer_norm]
        model.embed_positions.requires_grad_(False)  # sinusoids

    def front(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel, two convolutions, sinusoidal positions."""
        mel, mel_frames = self.log_mel(wav, lengths)
        window = 2 * self.window_frames
        count = -(-mel.shape[-1] // window)
        parts = []
        for index in range(count):
            part = mel[..., index * window : (index + 1) * window]
            parts.append(self.convolve(part, (mel_frames - index * window).clamp(min=0)))
        # An odd frame count only occurs in a clip's last window, so the windows' counts add up.
        return torch.cat(parts, dim=1), torch.div(mel_frames + 1, 2, rounding_mode="floor")

    def convolve(self, mel: Tensor, mel_frames: Tensor) -> Tensor:
        """(batch, mels, frames) of at most a window -> (batch, frames / 2, dim), positions in."""
        model = self.model
        hidden = F.gelu(model.conv1(mel.to(model.conv1.weight.dtype)))
        # The second convolution must see zeros after the clip, as it does when it is alone.
        hidden = F.gelu(model.conv2(zero_beyond(hidden, mel_frames, axis=-1))).transpose(1, 2)
        hidden = hidden + model.embed_positions.weight[: hidden.shape[1]]
        return zero_beyond(hidden, torch.div(mel_frames + 1, 2, rounding_mode="floor"))
