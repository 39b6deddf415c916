"""Just enough of two binary formats to take the tensors out: CTranslate2 and ONNX."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from speechcwcl.errors import UserError

_CTRANSLATE2_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_ONNX_FLOAT = 1


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise ValueError("ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str) -> int:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        return self.take(self.number("H")).rstrip(b"\0").decode()


def read_ctranslate2(path: Path) -> dict[str, torch.Tensor]:
    """The variables of a CTranslate2 `model.bin` (format 6), scalars included."""
    cursor = _Cursor(path.read_bytes())
    tensors = {}
    try:
        version = cursor.number("I")
        if version != 6:
            raise ValueError(f"format {version}, expected 6")
        cursor.text(), cursor.number("I")  # the specification's name and revision
        for _ in range(cursor.number("I")):
            name = cursor.text()
            shape = [cursor.number("I") for _ in range(cursor.number("B"))]
            kind = _CTRANSLATE2_TYPES[cursor.number("B")]
            data = np.frombuffer(cursor.take(cursor.number("I")), dtype=kind)
            tensors[name] = torch.from_numpy(data.reshape(shape).copy())
    except (ValueError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: not a CTranslate2 model: {error}") from error
    return tensors


def read_onnx(path: Path) -> tuple[dict[str, torch.Tensor], list[tuple[str, list[str]]]]:
    """The float32 tensors of an ONNX file, and its steps as (name, names of the inputs)."""
    tensors, steps = {}, []
    try:
        graph = next(value for field, value in _fields(memoryview(path.read_bytes())) if field == 7)
        for field, value in _fields(graph):
            if field == 5:
                tensors |= _onnx_tensor(value)
            elif field == 1:
                parts = list(_fields(value))
                name = next((bytes(v).decode() for f, v in parts if f == 3), "")
                steps.append((name, [bytes(v).decode() for f, v in parts if f == 1]))
    except (ValueError, IndexError, StopIteration, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: not an ONNX model: {error}") from error
    return tensors, steps


def _onnx_tensor(message: memoryview) -> dict[str, torch.Tensor]:
    shape: list[int] = []
    kind, name, raw = 0, "", b""
    for field, value in _fields(message):
        if field == 1:
            shape += [value] if isinstance(value, int) else list(_varints(value))
        elif field == 2:
            kind = value
        elif field == 8:
            name = bytes(value).decode()
        elif field == 9:
            raw = bytes(value)
    if kind != _ONNX_FLOAT or not raw:
        return {}
    array = np.frombuffer(raw, dtype=np.float32).reshape(shape)
    return {name: torch.from_numpy(array.copy())}


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return result, at


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protocol buffer message: number, and value (an int or the bytes)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError("broken message")
        yield key >> 3, data[at : at + size]
        at += size
