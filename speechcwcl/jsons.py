"""JSON that anybody may have written: one line of `UserError` for whatever is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from speechcwcl.errors import UserError


def parse_json(text: str | bytes, where: str, *, line: bool = True) -> Any:
    """A JSON value that anybody may have written.

    Args:
        text: JSON, as text or in UTF-8.
        where: begins the message: a file; or a file and a line, with
        line: false.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=_finite)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        at = f"{where}:{error.lineno}" if line else where
        raise UserError(f"{at}: not valid JSON: {error.msg}") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: not valid JSON: half a character (a lone \\ud...)") from error
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{where}: not valid JSON: nested too deeply") from error
    return value


def of_kind(path: str | Path, value: Any, text: str, kind: Any) -> Any:
    """A value (and the JSON it came from) as a kind: any type that pydantic can check."""
    if kind in (dict, list, str):
        if not isinstance(value, kind):
            raise UserError(f"{path}: holds a {type(value).__name__}, not a {kind.__name__}")
        return value
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from error


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) >= 1 << 64:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no number")
    return value
