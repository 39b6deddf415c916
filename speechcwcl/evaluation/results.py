"""Score folders: what ``exp/<tag>/eval/<set>/<protocol>/`` holds, written whole and read back.

``scores.json`` is removed first and written last, so a folder with one is complete; everything in
it is a function of the embeddings and the protocol (no times, no paths of this machine).
Tables are tab-separated; a tab, line break or backslash inside a value stands as ``\\t``, ``\\n``,
``\\r``, ``\\\\``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.errors import UserError
from speechcwcl.evaluation import metrics
from speechcwcl.files import atomic_write, read_json, read_text, write_json

SCORES = "scores.json"
PROBE = "probe.json"
_VERSION = 1
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


@dataclass
class ZeroShotResult:
    """Everything :func:`.zeroshot.score_zeroshot` finds out, ready to be written."""

    scores: dict[str, Any]
    utterances: Sequence[Any]
    targets: np.ndarray
    ranking: np.ndarray
    class_scores: np.ndarray
    confusion: np.ndarray
    bound_recall: np.ndarray | None
    classifier: np.ndarray
    similarity: np.ndarray
    similarity_rows: np.ndarray


@dataclass
class RetrievalResult:
    """Everything :func:`.retrieval.score_retrieval` finds out, ready to be written."""

    scores: dict[str, Any]
    ids: list[str]
    texts: list[str]
    ranks: np.ndarray
    best_texts: list[str]
    best_scores: np.ndarray


def write_embeddings(
    folder: str | Path,
    ids: Sequence[str],
    speech: np.ndarray,
    corpus: dict[str, Any] | None = None,
) -> None:
    """Write ``exp/<tag>/eval/<set>/``: ``speech.npy``, ``ids.txt`` and the corpus card.

    Args:
        folder: the set's folder.
        ids: n utterance ids.
        speech: (n, dim) embeddings, row i for ``ids[i]``; kept as float32.
        corpus: what the data folder's ``corpus.json`` says; the report shows it.
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
    """Read back :func:`write_embeddings`: (ids, speech (n, dim) float32)."""
    folder = Path(folder)
    ids = read_text(folder / "ids.txt").removesuffix("\n").split("\n")
    speech = _load_array(folder / "speech.npy")
    if speech.ndim != 2 or len(speech) != len(ids):
        raise UserError(
            f"{folder}: ids.txt has {len(ids)} lines, speech.npy the shape {speech.shape};"
            " embed the set again (stage 7)"
        )
    return ids, speech


def write_zeroshot(folder: str | Path, result: ZeroShotResult) -> None:
    """Write a zero-shot score folder."""
    folder = Path(folder)
    _unfinish(folder)
    protocol = result.scores["protocol"]
    labels = [label for label, _ in protocol["labels"]]
    _write_predictions(folder / "predictions.tsv", result, labels)
    _write_per_class(folder / "per_class.tsv", result, protocol["labels"])
    _write_per_speaker(folder / "per_speaker.tsv", result)
    rows = ([labels[i], *map(int, row)] for i, row in enumerate(result.confusion))
    write_table(folder / "confusion.tsv", ["true \\ predicted", *labels], rows)
    _save_array(folder / "label_embeddings.npy", result.classifier)
    _save_array(folder / "similarity.npy", result.similarity)
    picked = result.similarity_rows
    rows = ([result.utterances[i].id, labels[result.targets[i]]] for i in picked)
    write_table(folder / "similarity.tsv", ["id", "label"], rows)
    write_json(folder / SCORES, result.scores)


def write_retrieval(folder: str | Path, result: RetrievalResult) -> None:
    """Write a retrieval score folder: ``scores.json`` and ``predictions.tsv``."""
    folder = Path(folder)
    _unfinish(folder)
    rows = (
        [i, text, f"{rank:g}", best, f"{score:.6f}"]
        for i, text, rank, best, score in zip(
            result.ids,
            result.texts,
            result.ranks,
            result.best_texts,
            result.best_scores,
            strict=True,
        )
    )
    header = ["id", "text", "rank", "best_text", "best_score"]
    write_table(folder / "predictions.tsv", header, rows)
    write_json(folder / SCORES, result.scores)


def _write_predictions(path: Path, result: ZeroShotResult, labels: list[str]) -> None:
    """id, label, prediction, correct, score; the next best labels; the words and the recording."""
    k = result.ranking.shape[1]
    header = ["id", "label", "prediction", "correct", "score", "label_score"]
    header += [name for n in range(2, k + 1) for name in (f"top{n}", f"score{n}")]
    header += ["text", "audio", "start", "end"]

    def row(i: int) -> list[Any]:
        utterance, target, ranked = result.utterances[i], result.targets[i], result.ranking[i]
        scores = result.class_scores[i]
        line: list[Any] = [utterance.id, labels[target], labels[ranked[0]]]
        line += [int(ranked[0] == target), f"{scores[ranked[0]]:.6f}", f"{scores[target]:.6f}"]
        for column in ranked[1:]:
            line += [labels[column], f"{scores[column]:.6f}"]
        for name in ("text", "audio", "start", "end"):
            value = getattr(utterance, name, None)
            line.append("" if value is None else value)
        return line

    write_table(path, header, (row(i) for i in range(len(result.targets))))


def _write_per_class(path: Path, result: ZeroShotResult, labels: list[Any]) -> None:
    figures = metrics.class_figures(result.confusion)
    bound = result.bound_recall

    def row(i: int) -> list[Any]:
        values = [figures.precision[i], figures.recall[i], figures.f1[i]]
        known = bound is not None and np.isfinite(bound[i])
        return [
            labels[i][0],
            labels[i][1][0],
            int(figures.support[i]),
            int(figures.predicted[i]),
            *(f"{value:.6f}" for value in values),
            f"{bound[i]:.6f}" if known else "",
        ]

    header = ["label", "text", "support", "predicted", "precision", "recall", "f1", "text_bound"]
    write_table(path, header, (row(i) for i in range(len(labels))))


def _write_per_speaker(path: Path, result: ZeroShotResult) -> None:
    """speaker, support, accuracy, the hardest first; no row where nobody is known to speak."""
    found: dict[str, list[bool]] = {}
    for utterance, target, ranked in zip(
        result.utterances, result.targets, result.ranking, strict=True
    ):
        if speaker := getattr(utterance, "speaker", None):
            found.setdefault(speaker, []).append(bool(ranked[0] == target))
    rows = sorted((float(np.mean(right)), name, len(right)) for name, right in found.items())
    write_table(
        path,
        ["speaker", "support", "accuracy"],
        ([name, count, f"{share:.6f}"] for share, name, count in rows),
    )


@dataclass
class ScoreFolder:
    """A complete score folder, its files read when asked for.

    Attributes:
        path: the folder.
        set_name, protocol: its place in ``eval/<set>/<protocol>``.
        scores: ``scores.json``.
    """

    path: Path
    set_name: str
    protocol: str
    scores: dict[str, Any] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> ScoreFolder:
        """Read ``scores.json``.

        Raises:
            UserError: absent, unreadable, or of a version that this code does not know.
        """
        path = Path(path)
        scores = read_json(path / SCORES)
        version = scores.get("version") if isinstance(scores, dict) else None
        if version != _VERSION or scores.get("kind") not in ("zeroshot", "retrieval"):
            raise UserError(
                f"{path / SCORES}: not a score file of version {_VERSION}; score again (stage 8)"
            )
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
        """``probe.json``, the supervised reference; None where it was not measured."""
        path = self.path / PROBE
        return read_json(path) if path.exists() else None

    @cached_property
    def predictions(self) -> list[dict[str, str]]:
        """Rows of ``predictions.tsv``."""
        return read_table(self.path / "predictions.tsv")

    @cached_property
    def per_class(self) -> list[dict[str, str]]:
        """Rows of ``per_class.tsv``."""
        return read_table(self.path / "per_class.tsv")

    @cached_property
    def per_speaker(self) -> list[dict[str, str]]:
        """Rows of ``per_speaker.tsv``; none in a folder of an earlier version."""
        path = self.path / "per_speaker.tsv"
        return read_table(path) if path.exists() else []

    @cached_property
    def confusion(self) -> np.ndarray:
        """(classes, classes) int64: row = true class, column = predicted."""
        rows = read_table(self.path / "confusion.tsv")
        return np.asarray([list(row.values())[1:] for row in rows], dtype=np.int64)

    @cached_property
    def label_embeddings(self) -> np.ndarray:
        """(classes, dim) unit-norm float32."""
        return _load_array(self.path / "label_embeddings.npy")

    @cached_property
    def similarity(self) -> tuple[np.ndarray, list[str], list[str]]:
        """The figure's (s, s) cosines, speech by text, with the ids and labels of its rows."""
        rows = read_table(self.path / "similarity.tsv")
        matrix = _load_array(self.path / "similarity.npy").astype(np.float32)
        return matrix, [row["id"] for row in rows], [row["label"] for row in rows]


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a tab-separated table, atomically."""
    with atomic_write(path) as stream:
        for row in itertools.chain([header], rows):
            stream.write("\t".join(escape(value) for value in row) + "\n")


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a table of :func:`write_table`; a line with another number of columns is an error."""
    lines = read_text(path).removesuffix("\n").split("\n")
    header = [_unescape(value) for value in lines[0].split("\t")]
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        values = line.split("\t")
        if len(values) != len(header):
            raise UserError(f"{path}:{number}: {len(values)} columns instead of {len(header)}")
        rows.append(dict(zip(header, map(_unescape, values), strict=True)))
    return rows


def escape(value: Any) -> str:
    """A value as a cell of a tab-separated table."""
    text = str(value)
    if not any(character in text for character in _ESCAPES):
        return text
    return "".join(_ESCAPES.get(character, character) for character in text)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    back = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}
    out, i = [], 0
    while i < len(text):
        pair = text[i : i + 2]
        out.append(back.get(pair, text[i]))
        i += 2 if pair in back else 1
    return "".join(out)


def _unfinish(folder: Path) -> None:
    try:
        for name in (PROBE, SCORES):  # a probe of other embeddings would be stale
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder}: cannot write: {reason}; choose another folder") from error


def _save_array(path: Path, array: np.ndarray) -> None:
    with atomic_write(path, "wb") as stream:
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)


def _load_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path}: not a whole .npy file; score again (stages 7, 8)") from error
