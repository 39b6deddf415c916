"""Figures of merit on plain numpy arrays: accuracy with its interval, F1, confusions, ranks.

Nothing here depends on the order of the utterances or on how they were batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speechcwcl.errors import UserError

RESAMPLES = 10_000
LEVEL = 0.95
# Scores are cosines of float32 vectors, so what lies beyond this many digits is rounding noise,
# which depends on the shape of the matrix product; cut off, equal scores are equal everywhere.
DECIMALS = 7


def unit_rows(x: np.ndarray, what: str) -> np.ndarray:
    """Rows scaled to length one, in float64.

    Args:
        x: (n, dim), any float.
        what: what the rows are, for the error message.

    Raises:
        UserError: not a matrix, a value that is not finite, or a row of zeros.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2:
        raise UserError(f"{what}: expected a matrix (n, dim), got the shape {x.shape}")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        raise UserError(f"{what}: {bad.size} of {len(x)} rows are not finite (first: row {bad[0]})")
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    zero = np.flatnonzero(norm[:, 0] == 0)
    if zero.size:
        raise UserError(f"{what}: {zero.size} of {len(x)} rows are all zero (first: row {zero[0]})")
    return x / norm


def cosine_scores(rows: np.ndarray, columns: np.ndarray, chunk: int = 8192) -> np.ndarray:
    """Cosines between unit rows, rounded so that they do not depend on the batch.

    Args:
        rows: (n, dim) unit-norm float64.
        columns: (c, dim) unit-norm float64.
        chunk: rows a product; changes the memory, never the result.

    Returns:
        (n, c) float64.
    """
    scores = np.empty((len(rows), len(columns)))
    for start in range(0, len(rows), chunk):
        block = rows[start : start + chunk] @ columns.T
        np.round(block, DECIMALS, out=scores[start : start + chunk])
    return scores


def top_columns(scores: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` best columns of each row, best first; equal scores in column order. (n, k) int."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def accuracy_interval(
    correct: np.ndarray, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of an accuracy, over utterances.

    Drawing n utterances with replacement out of n of which k are right gives a number of right
    ones that is binomial (n, k / n): it is drawn as such, so that the order cannot matter. Where
    all are right, or all wrong, a bootstrap says nothing (every draw is the same); the exact
    binomial bound takes its place.

    Args:
        correct: (n,) bool.

    Returns:
        (low, high), fractions.
    """
    n, k = len(correct), int(np.sum(correct))
    tail = (1 - level) / 2
    if n == 0:
        return 0.0, 1.0
    if k in (0, n):
        reach = 1 - tail ** (1 / n)
        return (0.0, reach) if k == 0 else (1 - reach, 1.0)
    draws = np.random.default_rng(seed).binomial(n, k / n, resamples) / n
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float, float]:
    """How much better ``second`` is than ``first`` on the SAME utterances, with an interval.

    Args:
        first: (n,) bool, right or wrong under one run.
        second: (n,) bool, the same utterances in the same order under another.

    Returns:
        (difference of the accuracies, low, high), fractions, by the paired bootstrap.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if len(first) != len(second):
        raise UserError(f"cannot pair {len(first)} with {len(second)} utterances")
    n = len(first)
    if n == 0:
        return 0.0, 0.0, 0.0
    won, lost = int(np.sum(second & ~first)), int(np.sum(first & ~second))
    shares = [won / n, lost / n, (n - won - lost) / n]
    draws = np.random.default_rng(seed).multinomial(n, shares, resamples)
    difference = (draws[:, 0] - draws[:, 1]) / n
    tail = (1 - level) / 2
    low, high = np.quantile(difference, [tail, 1 - tail])
    return (won - lost) / n, float(low), float(high)


def confusion_matrix(targets: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts, (classes, classes) int64: row = true class, column = predicted class."""
    flat = np.bincount(targets * classes + predictions, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


@dataclass(frozen=True)
class ClassFigures:
    """Per-class figures, each (classes,).

    A class with no utterance has recall 0; a class that is never predicted has precision 0.
    """

    support: np.ndarray
    predicted: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that occur in the data."""
        present = self.support > 0
        return float(self.f1[present].mean()) if present.any() else 0.0


def class_figures(confusion: np.ndarray) -> ClassFigures:
    """Precision, recall and F1 of every class, from a confusion matrix."""
    hits = np.diag(confusion).astype(np.float64)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    return ClassFigures(support, predicted, precision, recall, f1)


def top_confusions(confusion: np.ndarray, limit: int = 12) -> list[tuple[int, int, int]]:
    """The most frequent mistakes: (true class, predicted class, count), most frequent first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = [divmod(int(flat), len(confusion)) for flat in order]
    return [(t, p, int(wrong[t, p])) for t, p in pairs if wrong[t, p] > 0]


def rank_summary(ranks: np.ndarray, cutoffs: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Recall at each cutoff (``"R@1"`` ...) and the median rank, from ranks that start at 1."""
    summary = {f"R@{k}": float(np.mean(ranks <= k)) for k in cutoffs}
    summary["median_rank"] = float(np.median(ranks))
    return summary
