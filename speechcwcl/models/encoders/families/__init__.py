"""The families of speech encoders that can be aligned."""

from __future__ import annotations

import importlib
from typing import Any

from speechcwcl.errors import UserError
from speechcwcl.models.encoders.families.base import Family

# model_type of a config.json -> (module, class); imported only when needed.
_FAMILIES = {
    "wav2vec2": ("wav2vec2", "Wav2Vec2"),
    "hubert": ("wav2vec2", "Wav2Vec2"),
    "wavlm": ("wav2vec2", "WavLM"),
    "data2vec-audio": ("wav2vec2", "Data2VecAudio"),
    "wav2vec2-bert": ("wav2vec2_bert", "Wav2Vec2Bert"),
    "whisper": ("whisper", "Whisper"),
    "moonshine": ("moonshine", "Moonshine"),
}
MODEL_TYPES = tuple(_FAMILIES)

__all__ = ["MODEL_TYPES", "Family", "family_class"]


def family_class(config: Any, where: str) -> type[Family]:
    """The family that reads a transformers configuration.

    Args:
        config: a transformers ``PreTrainedConfig``.
        where: the folder or id it came from, for the message.

    Raises:
        UserError: not a speech encoder that we know.
    """
    known = _FAMILIES.get(config.model_type)
    if known is None:
        raise UserError(
            f"{where}: model type {config.model_type!r} is not a speech encoder that speechcwcl "
            f"knows ({', '.join(MODEL_TYPES)})"
        )
    module, name = known
    return getattr(importlib.import_module(f"speechcwcl.models.encoders.families.{module}"), name)
