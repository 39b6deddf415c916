"""Score folders: what `exp/<tag>/eval/<set>/<protocol>/` holds, written whole and read back.

`scores.json` is removed first and written last, so a folder with one is complete; everything in
it is a function of the embeddings and the protocol (no times, no paths of this machine).
Tables are tab-separated; a tab, line break or backslash inside a value stands as `\\t`, `\\n`,
`\\r`, `\\\\`. What is read back may have been edited by anybody: it is checked before use.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Len
from typing_extensions import TypedDict  # pydantic wants it below Python 3.12

from speechcwcl.errors import UserError
from speechcwcl.files import atomic_write, read_json, read_text, write_json

SCORES = "scores.json"
PROBE = "probe.json"
_VERSION = 1
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_BACK = {escaped: character for character, escaped in _ESCAPES.items()}
Bounds = Annotated[list[float], Len(2, 2)]
Texts = Annotated[list[str], Len(1)]


Table = tuple[Sequence[str], Iterable[Sequence[Any]]]  # header and rows


# The shapes of scores.json and probe.json, checked when they are read.
class Accuracy(TypedDict):
    top1: float
    interval: Bounds


class CosineToText(TypedDict):
    n: int
    mean: float
    median: float


class OneTemplate(TypedDict):
    template: str
    top1: float
    text_bound: float | None


class Templates(TypedDict):
    each: Annotated[list[OneTemplate], Len(1)]
    min: float
    mean: float
    max: float


class Contrast(TypedDict):
    within: float
    between: float | None


class ProtocolFacts(TypedDict):
    name: str
    hash: str
    description: str
    labels: Annotated[list[tuple[str, Texts]], Len(1)]
    templates: Texts


class ZeroShotScores(TypedDict):
    protocol: ProtocolFacts
    n: int
    ignored: int
    classes: int
    classes_present: int
    chance: float
    majority: float
    top1: float
    top1_interval: Bounds
    top5: float
    macro_f1: float
    text_bound: Accuracy | None
    cosine_to_text: CosineToText | None
    templates: Templates
    similarity: Contrast


Ranks = TypedDict(
    "Ranks",
    {
        "n": int,
        "R@1": float,
        "R@5": float,
        "R@10": float,
        "R@1_interval": Bounds,
        "median_rank": float,
        "chance": float,
    },
)


class RetrievalScores(TypedDict):
    n: int
    texts: int
    speech_to_text: Ranks
    text_to_speech: Ranks


class Draws(TypedDict):
    mean: float
    low: float
    high: float


class ProbeFigures(TypedDict):
    train_set: str
    n_train: int
    draws: int
    zero_shot: Accuracy
    probe: dict[str, Accuracy]  # kind of vectors -> ...
    few_shot: dict[str, dict[str, dict[str, Draws]]]  # kind -> shots -> method -> ...


def write_embeddings(
    folder: str | Path,
    ids: Sequence[str],
    speech: np.ndarray,
    corpus: dict[str, Any] | None = None,
) -> None:
    """Write `exp/<tag>/eval/<set>/`: `speech.npy`, `ids.txt` and the corpus card.

    Args:
        ids: n utterance ids.
        speech: (n, dim) embeddings, row i for `ids[i]`; kept as float32.
        corpus: what the data folder's `corpus.json` says; the report shows it.
    """
    if len(ids) != len(speech):
        raise UserError(f"{folder}: {len(ids)} ids for {len(speech)} embeddings")
    folder = Path(folder)
    _save_array(folder / "speech.npy", np.asarray(speech, dtype=np.float32))
    if corpus is not None:
        write_json(folder / "corpus.json", corpus)
    with atomic_write(folder / "ids.txt") as stream:
        stream.writelines(f"{utterance_id}\n" for utterance_id in ids)


def read_embeddings(folder: str | Path) -> tuple[list[str], np.ndarray]:
    """Read back `write_embeddings`: (ids, speech (n, dim) float32)."""
    folder = Path(folder)
    ids = read_text(folder / "ids.txt").removesuffix("\n").split("\n")
    speech = _load_array(folder / "speech.npy")
    if speech.ndim != 2 or len(speech) != len(ids):
        raise UserError(
            f"{folder}: ids.txt has {len(ids)} lines, speech.npy the shape {speech.shape};"
            " embed the set again (stage 7)"
        )
    return ids, speech


def write_scores(
    folder: str | Path,
    scores: dict[str, Any],
    tables: Mapping[str, Table],
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a score folder.

    Args:
        folder: what it holds already is replaced; a probe of other embeddings is removed.
        tables: file name -> header and rows.
        arrays: file name -> array.
    """
    folder = Path(folder)
    try:
        for name in (PROBE, SCORES):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder}: cannot write: {reason}; choose another folder") from error
    for name, (header, rows) in tables.items():
        write_table(folder / name, header, rows)
    for name, array in (arrays or {}).items():
        _save_array(folder / name, array)
    write_json(folder / SCORES, scores)


@dataclass
class ScoreFolder:
    """A complete score folder, its files read when asked for."""

    path: Path
    set_name: str  # its place in `eval/<set>/<protocol>`
    protocol: str
    # `scores.json`: all of it, with at least what `ZeroShotScores` or `RetrievalScores` lists
    scores: dict[str, Any] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> ScoreFolder:
        """Read `scores.json`.

        Raises:
            UserError: absent, unreadable, or not what this code writes.
        """
        path = Path(path)
        scores = read_json(path / SCORES, dict)
        kind, version = scores.get("kind"), scores.get("version")
        if version != _VERSION or kind not in ("zeroshot", "retrieval"):
            raise UserError(
                f"{path / SCORES}: not a score file of version {_VERSION}; score again (stage 8)"
            )
        shape = ZeroShotScores if kind == "zeroshot" else RetrievalScores
        scores = _with_shape(path / SCORES, shape)
        return cls(path, path.parent.name, path.name, scores)

    @property
    def is_retrieval(self) -> bool:
        """Retrieval, or zero-shot classification?"""
        return self.scores["kind"] == "retrieval"

    @property
    def label_texts(self) -> dict[str, str]:
        """Label id -> its first text, in column order."""
        return {label: texts[0] for label, texts in self.scores["protocol"]["labels"]}

    @cached_property
    def probe(self) -> dict[str, Any] | None:
        """`probe.json`, the supervised reference; None where it was not measured."""
        path = self.path / PROBE
        return _with_shape(path, ProbeFigures) if path.exists() else None

    @cached_property
    def predictions(self) -> list[dict[str, str]]:
        """Rows of `predictions.tsv`."""
        path = self.path / "predictions.tsv"
        if self.is_retrieval:
            return read_table(path, ("id",), ("rank",))
        words, maybe = (
            ("id", "label", "prediction", "correct"),
            ("score2", "score3", "start", "end"),
        )
        return read_table(path, words, ("score",), maybe)

    @cached_property
    def per_class(self) -> list[dict[str, str]]:
        """Rows of `per_class.tsv`."""
        numbers = ("support", "precision", "recall", "f1")
        return read_table(self.path / "per_class.tsv", ("label",), numbers, ("text_bound",))

    @cached_property
    def per_speaker(self) -> list[dict[str, str]]:
        """Rows of `per_speaker.tsv`; none in a folder of an earlier version."""
        path = self.path / "per_speaker.tsv"
        return read_table(path, ("speaker",), ("support", "accuracy")) if path.exists() else []

    @cached_property
    def confusion(self) -> np.ndarray:
        """(classes, classes) int64: row = true class, column = predicted."""
        path, labels = self.path / "confusion.tsv", list(self.label_texts)
        rows = read_table(path, (), labels)
        if [next(iter(row.values())) for row in rows] != labels:
            raise UserError(f"{path}: not the labels of {SCORES}; score again (stage 8)")
        return np.asarray([[float(row[name]) for name in labels] for row in rows], dtype=np.int64)

    @cached_property
    def similarity(self) -> tuple[np.ndarray, list[str], list[str]]:
        """The figure's (s, s) cosines, speech by text, with the ids and labels of its rows."""
        rows = read_table(self.path / "similarity.tsv", ("id", "label"))
        path = self.path / "similarity.npy"
        matrix, size = _load_array(path), len(rows)
        if matrix.shape != (size, size) or not np.isfinite(matrix).all():
            raise UserError(f"{path}: not {size} by {size} cosines; score again (stage 8)")
        return matrix, [row["id"] for row in rows], [row["label"] for row in rows]


def _with_shape(path: Path, shape: Any) -> dict[str, Any]:
    """A JSON file that holds at least what `shape` lists; all of it is given."""
    try:
        read_json(path, shape)
    except UserError as error:
        raise UserError(f"{error}; score again (stage 8)") from error
    return read_json(path, dict)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a tab-separated table, atomically."""
    with atomic_write(path) as stream:
        for row in itertools.chain([header], rows):
            stream.write("\t".join(escape(value) for value in row) + "\n")


def read_table(
    path: Path, words: Sequence[str] = (), numbers: Sequence[str] = (), maybe: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Read a table of `write_table`.

    Args:
        words: columns that must be there.
        numbers: columns that must be there and hold finite numbers.
        maybe: columns that hold finite numbers or nothing, or are not there.

    Raises:
        UserError: a column is missing, a line has another number of columns, or no number where
            one is needed.
    """
    lines = read_text(path).removesuffix("\n").split("\n")
    header = [_unescape(value) for value in lines[0].split("\t")]
    for name in (*words, *numbers):
        if name not in header:
            raise UserError(f"{path}:1: no column {name!r}; score again (stage 8)")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        values = line.split("\t")
        if len(values) != len(header):
            raise UserError(f"{path}:{number}: {len(values)} columns instead of {len(header)}")
        row = dict(zip(header, map(_unescape, values), strict=True))
        for name in (*numbers, *(name for name in maybe if row.get(name))):
            if not _is_number(row[name]):
                raise UserError(f"{path}:{number}: {name}: {row[name][:60]!r} is not a number")
        rows.append(row)
    return rows


def text_table(rows: Sequence[Sequence[str]], *, numbers_from: int | None = None) -> str:
    """Rows as lines with aligned columns, those from `numbers_from` on to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = len(widths) if numbers_from is None else numbers_from
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def escape(value: Any) -> str:
    """A value as a cell of a tab-separated table."""
    return re.sub(r"[\\\t\n\r]", lambda found: _ESCAPES[found[0]], str(value))


def _unescape(text: str) -> str:
    return re.sub(r"\\[\\tnr]", lambda found: _BACK[found[0]], text)


def _save_array(path: Path, array: np.ndarray) -> None:
    with atomic_write(path, "wb") as stream:
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)


def _load_array(path: Path) -> np.ndarray:
    """Mapped first, so that a header cannot ask for more memory than the file has bytes."""
    try:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False), dtype=np.float32)
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error
    except (ValueError, EOFError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: not a whole .npy file; score again (stages 7, 8)") from error
