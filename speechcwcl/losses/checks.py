"""Checks of what goes into a loss, worded so that the caller knows which argument is wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from speechcwcl.errors import UserError, require

# Wide enough for rows that were normalised in bfloat16 (under autocast) and widened afterwards.
_TOLERANCE = {torch.float64: 1e-2, torch.float32: 1e-2, torch.bfloat16: 2e-2, torch.float16: 1e-2}


def check_embeddings(**named: Tensor) -> None:
    """Refuse embeddings that are not (rows, dim) unit-norm floating point without NaN.

    Args:
        **named: the embeddings by the name of the caller's argument.

    Raises:
        UserError: names the argument, the first bad row, and what to do.
    """
    for name, value in named.items():
        require(isinstance(value, Tensor), f"{name}: expected a tensor, got {type(value).__name__}")
        require(value.dim() == 2, f"{name}: expected shape (batch, dim), got {tuple(value.shape)}")
        require(
            value.dtype in _TOLERANCE,
            f"{name}: expected a floating-point tensor, got {value.dtype}; use .float()",
        )
        require(value.shape[0] > 0, f"{name}: has no rows")
        require(value.shape[1] > 0, f"{name}: has no columns")
        _check_rows(name, value.detach())


def _check_rows(name: str, value: Tensor) -> None:
    norms = torch.linalg.vector_norm(
        value, dim=1, dtype=torch.promote_types(value.dtype, torch.float32)
    )
    good = (norms - 1.0).abs() <= _TOLERANCE[value.dtype]  # False for NaN and infinity
    if bool(good.all()):
        return
    row = int((~good).nonzero()[0])
    if not bool(torch.isfinite(value[row]).all()):
        raise UserError(
            f"{name}: row {row} holds NaN or infinity; look at the audio of that item, the "
            "learning rate and, in half precision, the gradient scaling"
        )
    if float(norms[row]) < 1e-6:
        raise UserError(f"{name}: row {row} is a zero vector; an empty clip or a dead encoder?")
    raise UserError(
        f"{name}: row {row} has norm {float(norms[row]):.4g}, not 1; "
        f"pass torch.nn.functional.normalize({name}, dim=1)"
    )


def check_pair(speech: Tensor, text: Tensor, ids: Tensor | None = None, least: int = 1) -> None:
    """Check that speech and text are embeddings of the same items on the same device.

    Args:
        speech: (N, dim) unit-norm.
        text: (N, dim) unit-norm.
        ids: (N,) integers, equal where transcripts are equal, or None.
        least: the least N.

    Raises:
        UserError: names the argument.
    """
    if isinstance(speech, Tensor) and isinstance(text, Tensor):
        require(
            speech.device == text.device,
            f"text: is on {text.device}, speech on {speech.device}; use text.to(speech.device)",
        )
    check_embeddings(speech=speech, text=text)
    require(
        speech.shape == text.shape,
        f"text: shape {tuple(text.shape)} does not match speech {tuple(speech.shape)}; "
        "row i of both must be the same item",
    )
    if ids is not None:
        check_ids("text_ids", ids, speech)
    require(
        len(speech) >= least,
        f"speech: needs at least {least} rows to contrast, got {len(speech)}; "
        "use larger batches (or drop the last one), or a text bank",
    )


def check_ids(name: str, ids: Tensor, like: Tensor) -> None:
    """Check a vector of text numbers against the embeddings ``like`` that it belongs to."""
    require(
        isinstance(ids, Tensor) and not ids.is_floating_point() and ids.dtype != torch.bool,
        f"{name}: expected an int64 tensor, got {getattr(ids, 'dtype', type(ids).__name__)}",
    )
    require(
        ids.shape == like.shape[:1],
        f"{name}: expected shape ({len(like)},), got {tuple(ids.shape)}",
    )
    require(
        ids.device == like.device,
        f"{name}: is on {ids.device}, speech on {like.device}; use {name}.to(speech.device)",
    )


def check_scale(scale: Tensor | float) -> None:
    """Refuse a logit scale that is not a positive finite number."""
    number = float(scale.detach() if isinstance(scale, Tensor) else scale)
    require(
        0 < number < float("inf"),
        f"scale: must be a positive number (1 / temperature), got {number}",
    )
