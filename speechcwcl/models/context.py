"""Layers between a frozen encoder's frames and the pooling: words in the light of one another."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from speechcwcl.errors import UserError
from speechcwcl.models.encoders.frames import valid


class Context(nn.Module):
    """A few pre-norm transformer layers over the true frames, each after a short convolution.

    A frozen recogniser's frames say which sounds are where; what a sentence means depends on which
    words stand together, and a weighted mean of frames cannot tell that.

    Args:
        dim: width of a frame, a multiple of ``heads``.
        layers: how many.
        heads: of the attention.
        hidden: width of the feed-forward part.
        kernel: frames that the depthwise convolution sees (odd); 0 leaves it out.
        dropout: in the layers, not on the attention's weights.
    """

    def __init__(
        self,
        dim: int,
        layers: int = 1,
        heads: int = 6,
        hidden: int = 768,
        kernel: int = 5,
        dropout: float = 0.1,
    ):
        super().__init__()
        if layers < 1 or heads < 1 or dim % heads:
            raise UserError(f"context: {heads} heads do not divide {dim} channels evenly")
        if kernel < 0 or (kernel and kernel % 2 == 0):
            raise UserError(f"context: kernel {kernel} is not odd")
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, heads, hidden, dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        for block in self.blocks:  # dropout here would rule out the fused attention kernels
            block.self_attn.dropout = 0.0
        self.convs = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
            for _ in range(layers if kernel else 0)
        )

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, dim), (batch,) -> (batch, frames, dim); zeros beyond the lengths."""
        outside = ~valid(lengths, frames.shape[1])
        for number, block in enumerate(self.blocks):
            if len(self.convs):
                inside = frames.masked_fill(outside[:, :, None], 0.0)
                frames = frames + self.convs[number](inside.transpose(1, 2)).transpose(1, 2)
            frames = block(frames, src_key_padding_mask=outside)
        return frames.masked_fill(outside[:, :, None], 0.0)


def build_context(options: dict[str, Any] | None, dim: int) -> Context | None:
    """A :class:`Context` from its options; None for none."""
    if not options:
        return None
    try:
        return Context(dim, **options)
    except TypeError as error:
        known = "layers, heads, hidden, kernel, dropout"
        raise UserError(f"context: {error}; there is {known}") from error
