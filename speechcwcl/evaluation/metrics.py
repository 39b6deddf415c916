"""Figures of merit on plain numpy arrays: accuracy with its interval, F1, confusions, ranks.

Nothing here depends on the order of the utterances or on how they were batched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from speechcwcl.errors import UserError

RESAMPLES = 10_000
TAILS = (0.025, 0.975)
# Scores are cosines of float32 vectors, so what lies beyond this many digits is rounding noise,
# which depends on the shape of the matrix product; cut off, equal scores are equal everywhere.
DECIMALS = 7


def unit_rows(x: np.ndarray, what: str) -> np.ndarray:
    """Rows scaled to length one, in float64.

    Args:
        x: (n, dim), any float.

    Raises:
        UserError: not a matrix, a value that is not finite, or a row of zeros.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2:
        raise UserError(f"{what}: expected a matrix (n, dim), got the shape {x.shape}")
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    for problem, rows in (("not finite", ~np.isfinite(norm[:, 0])), ("all zero", norm[:, 0] == 0)):
        if rows.any():
            first = int(np.argmax(rows))
            raise UserError(
                f"{what}: {rows.sum()} of {len(x)} rows are {problem} (first: row {first})"
            )
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
    """The `k` best columns of each row, best first; equal scores in column order. (n, k) int."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def short(value: Any) -> float:
    """A figure as score files keep it."""
    return round(float(value), 6)


def accuracy_interval(correct: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of an accuracy, over utterances.

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
    if n == 0:
        return 0.0, 1.0
    if k in (0, n):
        from scipy.stats import binomtest

        exact = binomtest(k, n).proportion_ci(TAILS[1] - TAILS[0], method="exact")
        return float(exact.low), float(exact.high)
    draws = np.random.default_rng(0).binomial(n, k / n, RESAMPLES) / n
    low, high = np.quantile(draws, TAILS)
    return float(low), float(high)


def reliability(
    score: np.ndarray, right: np.ndarray, weight: Any = 1.0, bins: int = 8
) -> list[dict[str, float]]:
    """Of answers by score (n,) in [0, 1]: their mean score, the share that is right, how many."""
    rows, place = [], np.minimum((score * bins).astype(int), bins - 1)
    weight = np.broadcast_to(np.asarray(weight, dtype=np.float64), score.shape)
    for here in (place == index for index in np.unique(place)):
        mean, share = (np.average(x[here], weights=weight[here]) for x in (score, right))
        rows.append({"score": short(mean), "right": short(share), "n": int(here.sum())})
    return rows


def accuracy_figures(correct: np.ndarray) -> dict[str, Any]:
    """`top1` and its `interval`, of (n,) bool, as score files keep them."""
    return {
        "top1": short(np.mean(correct)),
        "interval": [short(bound) for bound in accuracy_interval(correct)],
    }


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """How much better `second` is than `first` on the SAME utterances, with its interval.

    Args:
        first: (n,) bool, right or wrong under one run.
        second: (n,) bool, the same utterances in the same order under another.

    Returns:
        (difference of the accuracies, low, high), fractions, by the paired bootstrap at 95 %.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if len(first) != len(second):
        raise UserError(f"cannot pair {len(first)} with {len(second)} utterances")
    n = len(first)
    if n == 0:
        return 0.0, 0.0, 0.0
    won, lost = int(np.sum(second & ~first)), int(np.sum(first & ~second))
    shares = [won / n, lost / n, (n - won - lost) / n]
    draws = np.random.default_rng(0).multinomial(n, shares, RESAMPLES)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, TAILS)
    return (won - lost) / n, float(low), float(high)


@dataclass(frozen=True)
class ClassFigures:
    """What is right and wrong by class.

    A class with no utterance has recall 0; a class that is never predicted has precision 0.
    """

    confusion: np.ndarray  # (classes, classes) counts: row = true class, column = predicted class
    precision: np.ndarray  # (classes,)
    recall: np.ndarray  # (classes,)
    f1: np.ndarray  # (classes,)

    @property
    def support(self) -> np.ndarray:
        """(classes,) utterances of each class."""
        return self.confusion.sum(axis=1)

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that occur in the data."""
        return float(self.f1[self.support > 0].mean())


def class_figures(targets: np.ndarray, predictions: np.ndarray, classes: int) -> ClassFigures:
    """Confusion matrix, precision, recall and F1 of (n,) true and predicted classes."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    every = np.arange(classes)
    precision, recall, f1, _ = precision_recall_fscore_support(
        targets, predictions, labels=every, zero_division=0
    )
    confusion = confusion_matrix(targets, predictions, labels=every)
    return ClassFigures(confusion, precision, recall, f1)


def top_confusions(confusion: np.ndarray, limit: int = 12) -> list[tuple[int, int, int]]:
    """The most frequent mistakes: (true class, predicted class, count), most frequent first."""
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = [divmod(int(flat), len(confusion)) for flat in order]
    return [(t, p, int(wrong[t, p])) for t, p in pairs if wrong[t, p] > 0]


def rank_summary(ranks: np.ndarray) -> dict[str, float]:
    """Recall at 1, 5 and 10 (`"R@1"` ...) and the median rank, from ranks that start at 1."""
    summary = {f"R@{k}": float(np.mean(ranks <= k)) for k in (1, 5, 10)}
    summary["median_rank"] = float(np.median(ranks))
    return summary
