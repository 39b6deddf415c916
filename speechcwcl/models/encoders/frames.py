"""Operations on padded batches with true lengths: masks, norms, windows, strides, mixing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from speechcwcl.errors import UserError


def pad(arrays: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Zero-pad to the longest: `(batch, longest, ...)` float32, and `(batch,)` lengths."""
    rows = [torch.tensor(array, dtype=torch.float32) for array in arrays]
    lengths = torch.tensor([len(row) for row in rows])
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths


def valid(lengths: Tensor, size: int) -> Tensor:
    """(batch, size) bool: true within each length."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def zero_beyond(values: Tensor, lengths: Tensor, axis: int = 1) -> Tensor:
    """`values` (batch, ...) with zeros beyond `lengths` along `axis`."""
    mask = valid(lengths, values.shape[axis])
    before = axis % values.dim() - 1
    after = values.dim() - 2 - before
    place = (slice(None), *[None] * before, slice(None), *[None] * after)
    return values.masked_fill(~mask[place], 0.0)


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
        values: (batch, channels, time), anything beyond `lengths`.
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
    """`norm` with its statistics over the true length only.

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


class Windows:
    """Cuts long utterances into windows of frames and puts them together again.

    Args:
        frame_lengths: (batch,) true frames.
        frames: padded frames of the batch.
        size: frames a window; `None` or anything not below `frames` leaves the batch alone.
    """

    def __init__(self, frame_lengths: Tensor, frames: int, size: int | None):
        self.lengths = frame_lengths
        self._frames = frames
        self._active = False
        if size is not None and frames > size:
            self._active = True
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
    """Mean over every `stride` true frames; the last group may be smaller.

    Args:
        frames: (batch, frames, dim), zero beyond `frame_lengths`.
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


class LayerMix(nn.Module):
    """Softmax-weighted sum of hidden layers."""

    def __init__(self, count: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(count))

    def forward(self, states: Tensor) -> Tensor:
        """(batch, frames, layers, dim) -> (batch, frames, dim)."""
        return torch.einsum("btkd,k->btd", states, self.weights.softmax(0))


def by_length(
    function: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, lengths: Tensor, least: int = 16
) -> Tensor:
    """`function(inputs, lengths)`, row by row the same, without computing on most of the padding.

    Rows of similar length go through together, padded to the longest among them only; a batch that
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
