"""The text side of a model: which frozen encoder, loaded late, and the space it is moved into."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from speechcwcl.errors import UserError
from speechcwcl.models.encoders.text import TextEncoder, TextInfo, describe_text


class TextSide:
    """A frozen text encoder that is known from its files and loaded when it is first needed.

    Not a module: its weights are in no checkpoint and do not move with the model they belong to.

    Args:
        text: a source (see :func:`~speechcwcl.models.encoders.text.describe_text`), a description,
            or a loaded encoder.
        pooling: of a source; see there.

    Attributes:
        info: the description.
    """

    def __init__(self, text: str | os.PathLike | TextInfo | TextEncoder, pooling: str = "auto"):
        self._loaded = text if isinstance(text, TextEncoder) else None
        if isinstance(text, TextEncoder):
            text = text.info
        self.info = text if isinstance(text, TextInfo) else describe_text(text, pooling)

    @property
    def hash(self) -> str:
        """Hash of the encoder; known without loading it."""
        return self.info.hash

    def encoder(self, device: torch.device | str = "cpu") -> TextEncoder:
        """The encoder on a device.

        Raises:
            UserError: it cannot be had, or is not the one that was described (its hash differs).
        """
        if self._loaded is None:
            self._loaded = TextEncoder.from_pretrained(self.info.source, self.info.pooling)
            if self._loaded.hash != self.info.hash:
                self._loaded = None
                raise UserError(
                    f"text encoder {self.info.source!r}: not the one this model was trained with "
                    "(its hash differs)"
                )
        return self._loaded.to(device)

    def drop(self) -> None:
        """Let the encoder's memory go; it is loaded again when it is needed."""
        self._loaded = None

    def encode(self, texts: Sequence[str], mean: Tensor, *, batch_size: int = 64) -> np.ndarray:
        """Embed texts into the aligned space.

        Args:
            texts: any number.
            mean: (dim,) of :func:`centred`; the encoder computes where it lies.
            batch_size: texts a batch.

        Returns:
            (texts, dim) float32 unit norm.
        """
        raw = self.encoder(mean.device).encode(texts, batch_size=batch_size)
        return centred(raw, mean).numpy()


def centred(raw: Tensor | np.ndarray, mean: Tensor) -> Tensor:
    """(texts, dim) of the encoder -> (texts, dim) ``raw - mean`` re-normalised: the aligned space.

    Args:
        raw: unit-norm embeddings.
        mean: (dim,); zero leaves the text space as it is.
    """
    raw = torch.as_tensor(raw)
    return nn.functional.normalize(raw - mean.to(raw.device), dim=-1)
