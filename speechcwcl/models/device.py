"""The device that a verb's `--device` names: tried out, or refused in one line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from speechcwcl.errors import UserError, closest, first_line

PRECISIONS = ("fp32", "bf16", "fp16")

# oneDNN keeps what it prepared for the last 1,024 shapes. Every batch of speech has a shape of its
# own, so that took gigabytes within hours of audio and was never used again.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


def check_device(device: str | torch.device | None, precision: str = "fp32") -> str:
    """The device by its name, tried out.

    Args:
        device: `cpu`, `cuda`, `cuda:0`, ...; `None`: a GPU when there is one.
        precision: `fp32`, `bf16` or `fp16`, which has to be possible there.

    Raises:
        UserError: there is no such device here, or it has no such precision.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    name = str(device)
    # It plans anew for each shape, and every batch of speech has another length.
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        torch.zeros(1, device=name).tolist()
    except Exception as error:  # torch raises another class for each way to lack a device
        why = first_line(error).split(". ")[0].rstrip(".")
        raise UserError(f"--device {name}: {why}; use --device cpu") from error
    if precision not in PRECISIONS:
        near = closest(str(precision), PRECISIONS)
        raise UserError(f"precision: {precision!r} is none of {', '.join(PRECISIONS)}{near}")
    if precision == "fp16" and torch.device(name).type == "cpu":
        raise UserError("precision: fp16 needs a GPU; on a CPU use bf16 or fp32")
    return name


def has_bf16() -> bool:
    """Whether this processor has instructions for bfloat16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Build networks as outlines: sizes without memory, and without their random numbers.

    On the device `meta`, torch's initialisers import its compiler, which takes seconds.
    """
    with torch.device("meta"), _NoInitialisers():
        yield


class _NoInitialisers(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
