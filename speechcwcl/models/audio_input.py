"""Recordings as users hand them over (files, arrays, tensors), in padded batches and in windows."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from tqdm import tqdm

from speechcwcl.data.audio import audio_info, check_samples, load_audio
from speechcwcl.data.audio.resampling import resample
from speechcwcl.errors import UserError
from speechcwcl.zeroshot.grid import GRID

if TYPE_CHECKING:  # an exported model does without torch
    from torch import Tensor

Audio: TypeAlias = "str | os.PathLike | np.ndarray | Tensor"
_RATE = 16000


def embed_all(
    audio: Sequence[Audio],
    dim: int,
    embed: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    batch_seconds: float,
    sample_rate: int,
    progress: bool = False,
) -> np.ndarray:
    """Embed recordings in batches of similar length.

    Args:
        audio: files, or one-dimensional arrays or tensors.
        embed: (batch, samples) and (batch,) lengths -> (batch, dim).
        batch_seconds: most seconds of audio, padding included, in one batch.
        sample_rate: of the arrays, in Hz.

    Returns:
        (recordings, dim) float32, in the order given.
    """
    audio = listed(audio)
    rows = np.zeros((len(audio), dim), dtype=np.float32)
    sizes = [samples(item, index, sample_rate) for index, item in enumerate(audio)]
    with tqdm(total=len(audio), desc="embed speech", unit="clip", disable=not progress) as bar:
        for chosen in batches(sizes, batch_seconds):
            rows[chosen] = embed(*_padded([load_one(audio[i], i, sample_rate) for i in chosen]))
            bar.update(len(chosen))
    return rows


def listed(audio: Sequence[Audio]) -> list[Audio]:
    """Recordings in a list; one alone would be taken apart.

    Raises:
        UserError: a path, or one waveform.
    """
    if isinstance(audio, str | os.PathLike) or getattr(audio, "ndim", 0) == 1:
        what = "one waveform" if hasattr(audio, "ndim") else f"the path {audio}"
        raise UserError(f"audio: a list of recordings is expected, not {what}; put it into [ ]")
    return list(audio)


def samples(item: Audio, index: int, sample_rate: int) -> int:
    """About how many samples at 16 kHz a recording has, without decoding it."""
    if isinstance(item, str | os.PathLike):
        return max(1, int(audio_info(os.fspath(item)).duration * _RATE))
    return max(1, int(_array(item, index).size * _RATE / sample_rate))


def batches(sizes: Sequence[float], batch_seconds: float) -> list[list[int]]:
    """Indices in batches of similar length, padding included at most `batch_seconds` each."""
    if batch_seconds <= 0:
        raise UserError(f"batch_seconds: {batch_seconds} is not above 0")
    most = batch_seconds * _RATE
    result: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda i: (sizes[i], i)):
        # Sorted upwards, so the newcomer is the longest of its batch.
        if result and sizes[index] * (len(result[-1]) + 1) <= most:
            result[-1].append(index)
        else:
            result.append([index])
    return result


def _padded(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(a) for a in arrays], dtype=np.int64)
    padded = np.zeros((len(arrays), int(lengths.max()), *arrays[0].shape[1:]), dtype=np.float32)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded, lengths


def load_one(item: Audio, index: int, sample_rate: int, rate: int = _RATE) -> np.ndarray:
    """(samples,) float32 at `rate` Hz of a file, or of an array at `sample_rate` Hz.

    Args:
        index: its number, for messages.
        sample_rate: of an array.
    """
    if isinstance(item, str | os.PathLike):
        return load_audio(os.fspath(item), sample_rate=rate)
    array = _array(item, index)
    if np.issubdtype(array.dtype, np.integer):
        array = array / float(np.iinfo(array.dtype).max + 1)
    clip = np.ascontiguousarray(array, dtype=np.float32)
    check_samples(f"recording {index + 1}", clip)
    return clip if sample_rate == rate else resample(clip, sample_rate, rate)


def _array(item: Any, index: int) -> np.ndarray:
    torch: Any = sys.modules.get("torch")
    tensor = torch is not None and isinstance(item, torch.Tensor)
    if not tensor and not isinstance(item, np.ndarray):
        raise UserError(
            f"recording {index + 1}: a {type(item).__name__}; give a path, or a one-dimensional "
            "array or tensor of samples"
        )
    if tensor:
        moved: Any = item.detach().cpu()  # numpy has no bfloat16
        array = (moved.float() if moved.dtype == torch.bfloat16 else moved).numpy()
    else:
        array = item.astype(np.float32) if item.dtype.name == "bfloat16" else item
    if array.dtype.kind not in "iuf":
        raise UserError(
            f"recording {index + 1}: samples of type {array.dtype}; give integers or floats"
        )
    if array.ndim > 1 and max(array.shape) == array.size:
        array = array.reshape(-1)
    if array.ndim != 1:
        raise UserError(f"recording {index + 1}: shape {array.shape}; give one channel of samples")
    if array.size == 0:
        raise UserError(f"recording {index + 1}: no samples")
    return array


def check_windows(windows: Any, path: Path) -> dict[str, Any] | None:
    """The windows of a config.json: `{"seconds": [0.8, 1.6], "longer_than": 5.0}`, or none.

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
    import torch

    for length in seconds:
        size = min(len(frames), max(1, round(length * rate)))
        step = max(1, size // 4)
        starts = torch.arange(0, len(frames) - size + step, step).clamp(max=len(frames) - size)
        yield frames[starts[:, None] + torch.arange(size)]


def windows_in_block(
    frames: Tensor, rate: float, head: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Embed the windows of `GRID` over the frames of blocks.

    Args:
        frames: (blocks, frames, width); all of them are true.
        rate: frames a second.
        head: frames and lengths -> (rows, dim).

    Returns:
        (blocks, places, dim).
    """
    import torch

    size = max(1, round(GRID.length * rate))
    starts = [round(place * GRID.step * rate) for place in range(GRID.places)]
    rows = torch.cat([frames[:, start : start + size] for start in starts])
    lengths = torch.full((1,), rows.shape[1], device=rows.device).expand(rows.shape[0])
    return head(rows, lengths).unflatten(0, (GRID.places, -1)).transpose(0, 1)
