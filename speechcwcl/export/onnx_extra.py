"""The packages of the extra ``onnx``, imported only when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from speechcwcl.errors import UserError


def needs(*names: str) -> list[Any]:
    """Import packages of the extra ``onnx``.

    Raises:
        UserError: one of them is not installed.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise UserError(
            f"ONNX models need {error.name or names[0]}: pip install speechcwcl[onnx]"
        ) from error
