"""Windows over the frames of a long recording: what is said somewhere in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechcwcl.errors import UserError


def check_windows(windows: Any, path: Path) -> dict[str, Any] | None:
    """The windows of a config.json: ``{"seconds": [0.8, 1.6], "longer_than": 5.0}``, or none.

    Raises:
        UserError: anything else; names the file.
    """
    if windows is None:
        return None
    known = isinstance(windows, dict) and windows.keys() == {"seconds", "longer_than"}
    seconds = windows["seconds"] if known else None
    some = isinstance(seconds, list) and len(seconds) > 0
    numbers = [*(seconds or []), windows["longer_than"]] if some else [0]
    if all(isinstance(n, int | float) and not isinstance(n, bool) and n > 0 for n in numbers):
        return windows
    raise UserError(f"{path}: 'windows': a list of seconds and longer_than expected")


def windows_over(frames: Tensor, rate: float, seconds: list[float]) -> Iterator[Tensor]:
    """For each length, windows a quarter of it apart, the last one at the end.

    Args:
        frames: (frames, width) of one recording.
        rate: frames a second.
        seconds: of the windows.

    Yields:
        (windows, frames, width) each.
    """
    for length in seconds:
        size = min(len(frames), max(1, round(length * rate)))
        step = max(1, size // 4)
        starts = torch.arange(0, len(frames) - size + step, step).clamp(max=len(frames) - size)
        yield frames[starts[:, None] + torch.arange(size)]
