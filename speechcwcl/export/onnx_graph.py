"""The speech side as one graph that any exporter can follow: no step depends on a value.

It calls the same families, layers, pooling and projection as `Aligner`; only what looks at
numbers on the way (Whisper's windows, its FFT) is written another way here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.audio_input import windows_in_block
from speechcwcl.models.encoders.families import Family
from speechcwcl.models.encoders.frames import zero_beyond

# model_type -> why it cannot be exported.
_CANNOT = {"wav2vec2-bert": "its filter bank is computed in double precision with an FFT"}

Merge = Callable[[Tensor], Tensor]


def check_exportable(aligner: Aligner) -> None:
    """Raise `UserError` where the speech encoder's family cannot be exported yet."""
    model_type = aligner.speech_encoder.family.config.model_type
    if model_type in _CANNOT:
        raise UserError(
            f"export: speech encoders of the family {model_type!r} are not supported yet "
            f"({_CANNOT[model_type]}); whisper, wav2vec2, hubert, wavlm, data2vec-audio and "
            "moonshine are"
        )


class SpeechGraph(nn.Module):
    """Waveforms to unit-norm embeddings, front end included."""

    def __init__(self, aligner: Aligner):
        super().__init__()
        check_exportable(aligner)
        self.aligner = aligner
        family = aligner.speech_encoder.family
        self.front = WhisperFront(family) if family.window_frames else PlainFront(family)
        self.eval()

    def forward(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """Same numbers as `aligner.embed_speech`.

        Args:
            wav: (batch, samples) float32 at 16 kHz; what lies beyond `lengths` is not heard.
            lengths: (batch,) int64, in samples, at least 1.

        Returns:
            (batch, dim) unit norm.
        """
        return self.aligner.head(*self.frames(wav, lengths))

    def frames(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, width) of the speech encoder, and their lengths."""
        encoder = self.aligner.speech_encoder
        family, (before, after) = encoder.family, encoder.silence_samples
        wav = zero_beyond(wav, lengths)
        wav = zero_beyond(family.normalise(wav, lengths), lengths)
        # More behind every clip than the shortest one needs: no branch on the length, and at least
        # two frames are left when those of the silence are taken out (an exporter takes a size of
        # one for another case).
        wav = F.pad(wav, (before, after + family.min_samples + family.hop))
        lengths = lengths + before + after
        lengths = lengths.clamp(min=family.min_samples)
        hidden, row_lengths, frame_lengths, merge = self.front(wav, lengths)
        return encoder.above_front(hidden, row_lengths, frame_lengths, merge)


class WindowGraph(SpeechGraph):
    """Blocks of a stream to the embeddings of the windows in them, as `encode_windows` gives."""

    def forward(self, wav: Tensor) -> Tensor:  # type: ignore[override]
        """(blocks, samples) of the length that GRID says -> (blocks, places, dim)."""
        lengths = torch.full((1,), wav.shape[1], device=wav.device).expand(wav.shape[0])
        frames, _ = self.frames(wav, lengths)
        rate = self.aligner.speech_encoder.frame_rate
        return windows_in_block(frames, rate, self.aligner.head)


class PlainFront(nn.Module):
    """The family's own front end: attention sees the whole clip."""

    def __init__(self, family: Family):
        super().__init__()
        self._family = family

    def forward(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Merge]:
        """Hidden frames, their lengths, the clips' lengths, and how to put rows together."""
        hidden, frame_lengths = self._family.front(wav, lengths)
        return zero_beyond(hidden, frame_lengths), frame_lengths, frame_lengths, lambda rows: rows


class WhisperFront(nn.Module):
    """Whisper's front end; clips longer than its position table become several rows.

    The spectrum is a convolution with the windowed sines and cosines, which every runtime has.
    """

    basis: Tensor

    def __init__(self, family: Any):
        super().__init__()
        self._family = family
        self.register_buffer("basis", family.log_mel.fourier_basis())

    def forward(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Merge]:
        """See `PlainFront.forward`."""
        log_mel = self._family.log_mel
        mel, mel_frames = log_mel.from_power(self._power, wav, lengths, wav.shape[1] // log_mel.hop)
        size = 2 * self._family.window_frames
        rows = Rows(mel_frames, mel.shape[-1], size)
        hidden = self._family.convolve(rows.split(mel), rows.lengths)
        if torch.compiler.is_exporting():
            # What attention asks of its shapes. The graph is the same for one row or one frame:
            # the question is only whether a shape of 1 must be broadcast.
            torch._check(hidden.shape[0] != 1)
            torch._check(hidden.shape[1] > 1)
        row_lengths = torch.div(rows.lengths + 1, 2, rounding_mode="floor")
        frame_lengths = torch.div(mel_frames + 1, 2, rounding_mode="floor")
        return hidden, row_lengths, frame_lengths, rows.merge

    def _power(self, padded: Tensor) -> Tensor:
        """(batch, samples) -> (batch, frequencies, frames)."""
        parts = F.conv1d(padded[:, None], self.basis, stride=self._family.log_mel.hop)
        half = self.basis.shape[0] // 2
        return parts[:, :half].square() + parts[:, half:].square()


class Rows:
    """Windows of a batch as rows, all by indices, so that a graph can hold it.

    Args:
        lengths: (batch,) true frames.
        frames: padded frames of the batch.
        size: most frames of a window.
    """

    def __init__(self, lengths: Tensor, frames: int, size: int):
        device = lengths.device
        # Through a tensor, the exporter takes these for numbers of their own; written as min(...)
        # of the input's size they would stand in every shape that follows.
        width = torch.scalar_tensor(frames, dtype=torch.int64).clamp(min=4, max=size)
        count = torch.div(frames + width - 1, width, rounding_mode="floor")
        self._width, self._count = _number(width, 4), _number(count, 1)
        offsets = torch.arange(self._count, device=device) * self._width
        most = torch.scalar_tensor(self._width, dtype=torch.int64, device=device)
        counted = (lengths[:, None] - offsets[None, :]).clamp(min=0).minimum(most).flatten()
        full = counted > 0
        chosen = torch.nonzero(full).flatten()
        self.lengths = counted[chosen]
        self._frames = frames
        self._batch = lengths.shape[0]
        clip = torch.div(chosen, self._count, rounding_mode="floor")
        self._first = clip * frames + (chosen - clip * self._count) * self._width
        self._place = (torch.cumsum(full.long(), 0) - 1).view(self._batch, -1)

    def split(self, mel: Tensor) -> Tensor:
        """(batch, mels, frames) -> (windows, mels, width), zero beyond the clips."""
        flat = mel.transpose(1, 2).reshape(-1, mel.shape[1])
        steps = torch.arange(self._width, device=mel.device)
        index = (self._first[:, None] + steps[None, :]).clamp(max=flat.shape[0] - 1)
        return zero_beyond(flat[index].transpose(1, 2), self.lengths, axis=-1)

    def merge(self, windows: Tensor) -> Tensor:
        """(windows, half the width, dim) -> (batch, half the frames, dim)."""
        width = windows.shape[1]
        time = torch.arange((self._frames + 1) // 2, device=windows.device)
        window = torch.div(time, width, rounding_mode="floor")
        row = self._place[:, window]
        index = row * width + (time - window * width)[None, :]
        return windows.reshape(-1, windows.shape[-1])[index]


def _number(value: Tensor, least: int) -> int:
    number: Any = value.item()  # not int(...), which an exporter would take for a constant
    torch._check(number >= least)
    return number
