"""Small operations on (batch, frames, ...) tensors with true lengths: windows, strides, mixing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from speechcwcl.models.encoders.families.base import valid


class Windows:
    """Cuts long utterances into windows of frames and puts them together again.

    Args:
        frame_lengths: (batch,) true frames.
        frames: padded frames of the batch.
        size: frames a window; ``None`` or anything not below ``frames`` leaves the batch alone.
    """

    def __init__(self, frame_lengths: Tensor, frames: int, size: int | None):
        self._active = size is not None and frames > size
        self.lengths = frame_lengths
        self._frames = frames
        if self._active:
            self._size = size
            self._count = -(-frames // size)
            offsets = torch.arange(self._count, device=frame_lengths.device) * size
            lengths = (frame_lengths[:, None] - offsets[None, :]).clamp(0, size).flatten()
            # Windows that hold only padding would cost time and mean nothing.
            self._rows = torch.nonzero(lengths > 0).flatten()
            self._all = lengths.numel()
            self.lengths = lengths[self._rows]

    def split(self, hidden: Tensor) -> Tensor:
        """(batch, frames, dim) -> (windows, size, dim)."""
        if not self._active:
            return hidden
        batch, frames, dim = hidden.shape
        hidden = nn.functional.pad(hidden, (0, 0, 0, self._count * self._size - frames))
        return hidden.view(batch * self._count, self._size, dim)[self._rows]

    def merge(self, windows: Tensor) -> Tensor:
        """(windows, size, dim) -> (batch, frames, dim)."""
        if not self._active:
            return windows
        full = windows.new_zeros(self._all, *windows.shape[1:])
        full = full.index_copy(0, self._rows, windows)
        return full.view(-1, self._count * self._size, windows.shape[-1])[:, : self._frames]


def stride_mean(frames: Tensor, frame_lengths: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Mean over every ``stride`` true frames; the last group may be smaller.

    Args:
        frames: (batch, frames, dim), zero beyond ``frame_lengths``.
        frame_lengths: (batch,).
        stride: frames a group.

    Returns:
        (batch, ceil(frames / stride), dim) and (batch,) lengths.
    """
    if stride == 1:
        return frames, frame_lengths
    batch, size, dim = frames.shape
    groups = -(-size // stride)
    padded = nn.functional.pad(frames, (0, 0, 0, groups * stride - size))
    total = padded.view(batch, groups, stride, dim).sum(2)
    starts = torch.arange(groups, device=frames.device) * stride
    counts = (frame_lengths[:, None] - starts[None, :]).clamp(1, stride)
    lengths = torch.div(frame_lengths + stride - 1, stride, rounding_mode="floor")
    return total / counts[:, :, None].to(total.dtype), lengths


def zero_padding(frames: Tensor, frame_lengths: Tensor) -> Tensor:
    """Zero (batch, frames, ...) beyond the lengths."""
    mask = valid(frame_lengths, frames.shape[1])
    return frames.masked_fill(~mask.view(*mask.shape, *[1] * (frames.dim() - 2)), 0.0)


class LayerMix(nn.Module):
    """Softmax-weighted sum of hidden layers.

    Args:
        count: number of layers.
    """

    def __init__(self, count: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(count))

    def forward(self, states: Tensor) -> Tensor:
        """(batch, frames, layers, dim) -> (batch, frames, dim)."""
        return torch.einsum("btkd,k->btd", states, self.weights.softmax(0))


def by_length(
    function: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, lengths: Tensor, least: int = 16
) -> Tensor:
    """``function(inputs, lengths)``, row by row the same, without computing on most of the padding.

    Rows of like length go through together, padded to the longest among them only; a batch that
    mixes all lengths, as a contrastive loss wants it, costs little more than a sorted one.

    Args:
        function: from (rows, times, ...) and (rows,) to (rows, dim), each row for itself.
        inputs: (batch, times, ...), padded beyond the lengths.
        lengths: (batch,) true times.
        least: rows that go together at least.

    Returns:
        (batch, dim), in the order given.
    """
    order = lengths.argsort(descending=True)
    falling = lengths[order].tolist()
    starts = [0]
    for row, length in enumerate(falling):
        if row - starts[-1] >= least and length < 0.8 * falling[starts[-1]]:
            starts.append(row)
    parts = [
        function(inputs[rows, : falling[start]], lengths[rows])
        for start, rows in zip(starts, order.tensor_split(starts[1:]), strict=True)
    ]
    return torch.cat(parts)[order.argsort()]
