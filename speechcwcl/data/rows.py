"""Lists that others wrote: tables, JSON lines and JSON, and what their values mean.

This is the one reader of such files. It reads a line at a time, in bounded memory, and is strict:
what it does not understand is named with its line, never guessed at.

- The encoding is UTF-8 or, where the file says so by its first bytes, UTF-16; `.gz` is unpacked.
- `.tsv`: columns between tabs, quotes are ordinary characters. Any other table: columns between
  commas, semicolons or tabs, whichever the header has most of, in quotes or not; a row is one line.
- A text may be a list of several (`["turn it on", "light please"]`, in a table as it is printed):
  one of them is drawn by a hash of the utterance's id, the same one at every reading.
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import io
import math
import os
import tokenize
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from speechcwcl.data.audio import check_samples
from speechcwcl.data.audio.recordings import AUDIO_SUFFIXES
from speechcwcl.data.tables import Problems
from speechcwcl.errors import UserError, closest, require
from speechcwcl.jsons import parse_json

LONGEST_LINE = 1 << 24
"""Characters that a line may have."""

NOT_UTF8 = "the name is not UTF-8, so no list can hold it; rename the file"
_MAGIC = ((b"RIFF", ".wav"), (b"fLaC", ".flac"), (b"OggS", ".ogg"), (b"ID3", ".mp3"))
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_KINDS = {dict: "an object", list: "a list", tuple: "a list", bytes: "bytes", bool: "yes or no"}


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield `(line number, line)` of a text file, without line ends; blank lines are left out.

    Raises:
        UserError: it cannot be read, or a line is neither UTF-8 nor UTF-16, or has no end.
    """
    path, number = Path(path), 0
    try:
        with _opened(path) as stream:
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise UserError(f"{path}:{number}: a line of over {LONGEST_LINE} characters")
                if "\0" in line or not (line.isascii() or is_text(line)):
                    raise UserError(f"{path}:{number}: not UTF-8; is the file damaged?")
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number + 1}: not UTF-16; save the file as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot read: {reason}") from error


def read_head(path: str | Path, size: int = 1 << 16) -> str:
    """The first characters of a text file, whatever they are."""
    try:
        with _opened(Path(path)) as stream:
            return stream.read(size)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read: {error}") from error


def _opened(path: Path) -> IO[str]:
    def binary() -> Any:
        return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")

    with binary() as stream:
        head = stream.read(1 << 16)
    # Of UTF-8 each line is looked at, so that the message can say which one is not.
    wide = head[:2] in _UTF16
    encoding, errors = ("utf-16", "strict") if wide else ("utf-8-sig", "surrogateescape")
    # A carriage return ends a line only where nothing else does; in a sentence it is a blank.
    newline = "\n" if b"\n" in head else None
    return io.TextIOWrapper(binary(), encoding=encoding, errors=errors, newline=newline)


def is_text(line: str) -> bool:
    """Whether it can be written as UTF-8: names on the disk, and JSON, may hold other things."""
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def suffix_of_list(path: str | Path) -> str:
    """`.csv` of `A.CSV` and of `a.csv.gz`."""
    return Path(Path(path).name.lower().removesuffix(".gz")).suffix


def read_table(
    path: str | Path, needed: tuple[str, ...] = (), problems: Problems | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield `(line number, column -> value)` of a table with a header line.

    Args:
        needed: columns that must be there.
        problems: takes a line for every row that is not yielded: too few or too many columns, or
            a quote that does not end on its line; without it the first one is an error.

    Raises:
        UserError: the file is empty, lacks a needed column, or names one twice.
    """
    path = Path(path)
    lines = read_lines(path)
    number, header = next(lines, (1, ""))
    if header.lower().startswith("sep="):  # as a spreadsheet writes it
        number, header = next(lines, (2, ""))
    separator = separator_of(path, header)
    columns = [name.strip() for name in _cells(f"{path}:{number}", header, separator, path)]
    for name in needed:
        if name not in columns:
            raise UserError(f"{path}:{number}: {no_column(name, columns)}")
    twice = next((name for at, name in enumerate(columns) if name and name in columns[:at]), None)
    if twice:
        raise UserError(f"{path}:{number}: two columns are called {twice!r}")
    for number, line in lines:
        where = f"{path}:{number}"
        try:
            cells = _cells(where, line, separator, path)
            if len(cells) != len(columns):
                more = " (more columns than the header has)" if len(cells) > len(columns) else ""
                raise UserError(f"{where}: {len(cells)} columns instead of {len(columns)}{more}")
        except UserError as error:
            if problems is None:
                raise
            problems.add(str(error))
            continue
        yield number, {name: cell for name, cell in zip(columns, cells, strict=True) if name}


def no_column(name: str, columns: list[str]) -> str:
    """The end of a message: a column is missing, and which are there."""
    return f"no column {name!r}{closest(name, columns)}; it has {', '.join(columns) or 'none'}"


def named_column(word: str, default: str = "", wanted: str = "NAME=VALUE") -> tuple[str, str]:
    """`"field=column"` -> both; without `=`, the default field, if there is one."""
    name, equals, value = word.partition("=")
    if not equals and default:
        name, value = default, word
    if not name or not value:
        raise UserError(f"{word!r}: expected {wanted}")
    return name, value


def separator_of(path: str | Path, header: str) -> str:
    """What stands between the columns of a table."""
    if suffix_of_list(path) == ".tsv":
        return "\t"
    return max(",;\t", key=header.count)  # the first of them where there is none


def _cells(where: str, line: str, separator: str, path: Path) -> list[str]:
    if suffix_of_list(path) == ".tsv":
        return line.split(separator)
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{where}: a quote does not end on its line, or ends in the middle of a column ({error}"
            '); write a quote inside of a column twice (""), and no line ends'
        ) from error


def read_json_lines(path: str | Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number, object)`; a line that is not an object is a problem."""
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            value = parse_json(line, where, line=False)
        except UserError as error:
            problems.add(str(error))
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            problems.add(f"{where}: not an object but {kind_of(value)}")


def kind_of(value: Any) -> str:
    """What a value is, for messages."""
    if isinstance(value, list | tuple):
        kinds = sorted({type(item).__name__ for item in value})
        return f"a list of {' and '.join(kinds) or 'nothing'}"
    return _KINDS.get(type(value), f"{type(value).__name__} {str(value)[:40]}")


def one_text(value: Any, where: str, key: str) -> str | None:
    """The text of an utterance, its words with one space between them; None where there is none.

    Args:
        value: a text, or a list of texts, of which one is drawn by a hash of `key`.
        where: begins the message.

    Raises:
        UserError: it is anything else; the message names the kind.
    """
    value = _unprinted(value, where)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: the text is {kind_of(value)}, not words or a list of texts")
    if texts is value:  # of several, one that is not empty
        texts = [text for text in texts if text.strip()] or [""]
    digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
    text = " ".join(texts[int.from_bytes(digest[:8], "big") % len(texts)].split())
    if not is_text(text):
        raise UserError(f"{where}: the text holds half a character ({ascii(text)[:40]})")
    return text


def one_word(value: Any, where: str, role: str) -> str:
    """A label, speaker or id as text; empty where there is none."""
    value = _unprinted(value, where)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str | int | float):
        raise UserError(f"{where}: the {role} is {kind_of(value)}, not one word or number")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with gaps
    if not is_text(str(value)):
        raise UserError(f"{where}: the {role} holds half a character ({ascii(value)[:40]})")
    return str(value)


def _unprinted(value: Any, where: str) -> Any:
    """The list or object that a text is the print of; anything else as it is.

    `['a', 'b']` in a column is how such a list comes out of a table, not what anybody says.
    """
    if not isinstance(value, str) or value[:1] not in ("[", "{") or value[-1:] not in ("]", "}"):
        return value.tolist() if hasattr(value, "tolist") else value
    try:
        found = ast.literal_eval(value)
        tokens = list(tokenize.generate_tokens(io.StringIO(value).readline))
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        return value
    words = sum(token.type == tokenize.STRING for token in tokens)
    if isinstance(found, list) and words > len(found):
        raise UserError(f"{where}: {value[:40]!r} looks like a printed array without commas")
    return found


def seconds(value: Any, where: str, name: str) -> float | None:
    """A time in seconds; None for an empty one."""
    if value is None or value == "":
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise UserError(f"{where}: {name} {str(value)[:40]!r} is not a time")
    return number


def on_the_hub(path: str) -> bool:
    """Whether a path names a file of a dataset on the hub."""
    return path.startswith("hf://datasets/")


def hub_file(path: str) -> bytes:
    """What is in a file of a dataset on the hub."""
    import fsspec

    try:
        with fsspec.open(path, "rb") as stream:
            return stream.read()
    except Exception as error:
        text = str(error).strip() or type(error).__name__
        raise UserError(f"{path}: {text.splitlines()[0]}") from error


def audio_of(value: Any, *, local: bool) -> bytes | str | tuple[np.ndarray, int] | None:
    """What a record holds of its audio: a file's bytes, or its path, or samples and their rate.

    Paths of this machine count in local datasets only: one of the hub must not name its files.

    Raises:
        UserError: samples that are none.
    """
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, dict):
        return None
    if value.get("array") is not None and value.get("sampling_rate"):
        return _samples(value["array"]), int(value["sampling_rate"])
    if value.get("bytes"):
        return value["bytes"]
    path = value.get("path")
    if not isinstance(path, str) or not path:
        return None
    if on_the_hub(path):
        return path
    return os.path.abspath(path) if local else None


def _samples(value: Any) -> np.ndarray:
    """`(samples,)` float32 of an array that somebody decoded."""
    try:
        wav = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise UserError("its array is not of numbers") from None
    require(wav.ndim == 1, f"its array has the shape {wav.shape}; one channel of samples is read")
    check_samples("its array", wav)
    return wav


def suffix_of(data: bytes, name: str) -> str:
    """The suffix of an audio file, from its first bytes, else from its name."""
    for magic, suffix in _MAGIC:
        if data.startswith(magic):
            return suffix
    if data[:1] == b"\xff" and data[1:2] and data[1] & 0xE0 == 0xE0:
        return ".mp3"
    suffix = Path(name).suffix.lower()
    return suffix if suffix in AUDIO_SUFFIXES else ".audio"
