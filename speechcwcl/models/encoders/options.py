"""Reading a speech model's folder, its hash, and the meaning of the encoder's options."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechcwcl.errors import UserError
from speechcwcl.files import read_json, sha256_json
from speechcwcl.models.encoders.families.base import SAMPLE_RATE, Family

# The settings that change a network's output without changing the shape of a tensor.
_SHAPING = (
    "model_type",
    "num_attention_heads",
    "encoder_attention_heads",
    "encoder_num_attention_heads",
    "hidden_act",
    "activation_function",
    "encoder_hidden_act",
    "layer_norm_eps",
    "do_stable_layer_norm",
    "feat_extract_norm",
    "feat_extract_activation",
    "conv_stride",
    "position_embeddings_type",
    "scale_embedding",
)


def load_config(folder: Path) -> Any:
    """The transformers configuration of a folder; never runs code of the folder.

    Raises:
        UserError: no or unreadable configuration, or a type that transformers does not know.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        why = (str(error).strip().splitlines() or [repr(error)])[0]
        raise UserError(f"{folder}: cannot read config.json: {why}") from error


def feature_config(folder: Path) -> dict[str, Any]:
    """The feature extractor's settings in a model folder, or an empty dictionary."""
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "feature")):
        if (folder / name).is_file():
            data = read_json(folder / name)
            return data if key is None else data.get("feature_extractor", {})
    return {}


def network_hash(family: Family) -> str:
    """Hash of the network: what its configuration does to it, and its tensors without their names.

    Releases of transformers rename tensors and add settings with defaults; neither changes the
    network, and a model trained today should still find its encoder tomorrow.
    """
    config = {name: getattr(family.config, name, None) for name in _SHAPING}
    digests = []
    for tensor in family.model.state_dict().values():
        digest = hashlib.sha256(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        digests.append(digest.hexdigest())
    return sha256_json([config, sorted(digests)])


def positive(name: str, value: Any) -> int:
    """A whole number of at least 1, or a :class:`UserError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name}: {value!r} is not a whole number of 1 or more")
    return value


def wanted_states(layers: str | Sequence[int], depth: int) -> list[int]:
    """The hidden states that ``layers`` asks for, lowest first."""
    if layers == "last":
        return [depth]
    if layers == "mix":
        return list(range(depth + 1))
    listed = not isinstance(layers, str) and isinstance(layers, Sequence) and len(layers) > 0
    if not listed or not all(isinstance(i, int) and -depth - 1 <= i <= depth for i in layers):
        raise UserError(
            f"layers: {layers!r} is not 'last', 'mix' or a list of numbers between 0 and {depth}"
        )
    return sorted({i % (depth + 1) for i in layers})


def cut_layer(freeze: str | int, depth: int, top: int, lora: bool) -> str | int | None:
    """What is frozen: ``"top"`` (all), the layers below a number, or ``None`` (nothing)."""
    if freeze == "all":
        return "top"
    if freeze == "none":
        return 0 if lora else None
    if isinstance(freeze, bool) or not isinstance(freeze, int) or not 0 <= freeze <= depth:
        raise UserError(f"freeze: {freeze!r} is not 'all', 'none' or a number from 0 to {depth}")
    return "top" if freeze >= top and top < depth else freeze


def silence_frames(silence: float | Sequence[float] | None, family: Family) -> tuple[int, int]:
    """Frames of silence before and after a clip.

    Args:
        silence: seconds on either side, ``[before, after]``, or ``None`` for the family's own.
        family: knows its frames.
    """
    value = family.silence if silence is None else silence
    pair = [value, value] if isinstance(value, int | float) else list(value)
    if len(pair) != 2 or not all(isinstance(x, int | float) and 0 <= x <= 30 for x in pair):
        raise UserError(f"silence: {silence!r} is not seconds from 0 to 30, or a pair of such")
    before, after = (round(seconds * SAMPLE_RATE / family.hop) for seconds in pair)
    return before, after
