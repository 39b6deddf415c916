"""The meaning of the speech encoder's options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speechcwcl.errors import UserError
from speechcwcl.models.encoders.families import SAMPLE_RATE, Family


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
