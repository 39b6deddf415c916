"""The supervised reference beside a zero-shot figure: linear probe and few shots.

*Linear probe*: multinomial logistic regression on frozen vectors with every label of a training
set; the strength of its L2 penalty is chosen on a part of that set (speakers that the rest does not
have, where there are enough). *Few shots*: k examples a class, drawn several times, through the
nearest centroid, through logistic regression, and through the label texts and the k examples
together. All of them are measured on the utterances of the zero-shot figure.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.errors import UserError
from speechcwcl.evaluation import metrics
from speechcwcl.evaluation.metrics import short
from speechcwcl.evaluation.results import PROBE, write_table
from speechcwcl.files import write_json

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SHOTS = (1, 4, 16)
DRAWS = 20
# A penalty on standardised features, for so few examples that none can be spared to choose one.
_FEW_PENALTY = 1e-2
_VALID_SHARE = 0.2
_VERSION = 1
PROBE_NOTE = (
    "The same test utterances with labels to learn from. *Embedding*: the model's vectors;"
    " *encoder*: the mean frame of the speech encoder as it was before training. Top-1 in per cent;"
    " the interval is over test utterances or over drawings of the examples."
)


@dataclass
class ProbeSet:
    """Labelled utterances of one set, as several kinds of vectors."""

    name: str  # of the set
    ids: list[str]  # n each
    speakers: list[str]  # n each
    classes: np.ndarray  # (n,) column of the class of each
    vectors: dict[str, np.ndarray]  # kind -> (n, dim)


def fit_logistic(x: np.ndarray, y: np.ndarray, penalty: float) -> Any:
    """Multinomial logistic regression on standardised features, by scikit-learn.

    Minimises `mean cross entropy + penalty / 2 * |weight|^2`, the biases free; convex, so that
    the result depends on nothing but its input.

    Args:
        x: (n, dim) features.
        y: (n,) classes; one that does not occur is never predicted.

    Returns:
        A fitted estimator: `predict((m, dim)) -> (m,)` classes.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(y)) == 1:  # after the held-out speakers are taken away
        return DummyClassifier().fit(x, y)
    regression = LogisticRegression(C=1 / (penalty * len(y)), tol=1e-5, max_iter=5000)
    with warnings.catch_warnings():  # few examples a class are what few shots are about
        warnings.filterwarnings("ignore", "The number of unique classes")
        return make_pipeline(StandardScaler(), regression).fit(x, y)


def held_out(ids: Sequence[str], speakers: Sequence[str]) -> np.ndarray:
    """(n,) bool: about a fifth of a training set, to choose the penalty on.

    Whole speakers where there are three or more, so that what is chosen serves unseen ones; else
    single utterances. Chosen by hash: the same whatever the order.
    """
    names = list(speakers) if len(set(speakers)) >= 3 else list(ids)
    order = sorted(set(names), key=lambda name: sha256(name.encode()).digest())
    chosen = set(order[: max(1, round(_VALID_SHARE * len(order)))])
    return np.asarray([name in chosen for name in names])


def linear_probe(
    train: np.ndarray,
    train_classes: np.ndarray,
    valid: np.ndarray,
    test: np.ndarray,
    test_classes: np.ndarray,
) -> dict[str, Any]:
    """Choose the penalty on the held-out part, fit on all of it, score.

    Args:
        train: (n, dim); train_classes: (n,).
        valid: (n,) bool, which of them are held out for the choice.
        test: (m, dim); test_classes: (m,).

    Returns:
        `top1`, `interval`, `penalty`, `valid` (accuracy with each penalty).
    """
    scores = {}
    for penalty in PENALTIES:
        fitted = fit_logistic(train[~valid], train_classes[~valid], penalty)
        scores[penalty] = fitted.score(train[valid], train_classes[valid])
    best = max(PENALTIES, key=lambda penalty: (scores[penalty], penalty))
    correct = fit_logistic(train, train_classes, best).predict(test) == test_classes
    return {
        **metrics.accuracy_figures(correct),
        "penalty": best,
        "valid": {f"{penalty:g}": short(score) for penalty, score in scores.items()},
    }


def few_shot(
    train: np.ndarray,
    train_classes: np.ndarray,
    test: np.ndarray,
    test_classes: np.ndarray,
    classes: int,
    text: np.ndarray | None = None,
    *,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """k labelled examples a class, `draws` times, for each k of `SHOTS`.

    Args:
        train: (n, dim); train_classes: (n,). Examples are drawn from these; a class with fewer
            than k gives all it has.
        test: (m, dim); test_classes: (m,).
        text: (classes, dim) unit-norm class vectors of the label texts, if they share the space.
        draws: drawings, the same for every method.

    Returns:
        k -> method -> `mean`, `low`, `high` over the drawings (2.5 and 97.5 percentiles).
        Methods: `centroid` (nearest by cosine), `logistic`, and with `text` also
        `text+shots`: cosine to the sum of the class's text vector and its centroid.
    """
    rows, unit = metrics.unit_rows(test, "test"), metrics.unit_rows(train, "train")
    found: dict[str, Any] = {}
    for k in SHOTS:
        results: dict[str, list[float]] = {}
        for draw in range(draws):
            chosen = _draw(train_classes, k, np.random.default_rng((0, k, draw)))
            centroids, known = _centroids(unit[chosen], train_classes[chosen], classes)
            fitted = fit_logistic(train[chosen], train_classes[chosen], _FEW_PENALTY)
            predicted = {
                "centroid": np.argmax(np.where(known, rows @ centroids.T, -np.inf), axis=1),
                "logistic": fitted.predict(test),
            }
            if text is not None:
                both = metrics.unit_rows(centroids + text, "text + centroid")
                predicted["text+shots"] = np.argmax(rows @ both.T, axis=1)
            for method, guess in predicted.items():
                results.setdefault(method, []).append(float(np.mean(guess == test_classes)))
        found[str(k)] = {}
        for method, values in results.items():
            mean, low, high = np.mean(values), *np.quantile(values, metrics.TAILS)
            found[str(k)][method] = {"mean": short(mean), "low": short(low), "high": short(high)}
    return found


def _draw(classes: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """Positions of up to `k` examples of every class."""
    members = [np.flatnonzero(classes == c) for c in np.unique(classes)]
    return np.concatenate([random.choice(m, min(k, len(m)), replace=False) for m in members])


def _centroids(x: np.ndarray, y: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(classes, dim) unit-norm means, zero for a class without examples; (classes,) bool."""
    total = np.zeros((classes, x.shape[1]))
    np.add.at(total, y, x)
    norm = np.linalg.norm(total, axis=1)
    known = norm > 0
    return total / np.where(known, norm, 1.0)[:, None], known


def evaluate_probe(
    train: ProbeSet,
    test: ProbeSet,
    classifier: np.ndarray,
    out_dir: str | Path,
    *,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Measure everything and write `probe.json` and `probe.tsv`.

    Args:
        train: where labels are learned from.
        test: the utterances of the zero-shot figure; kinds as `train`, `embedding` among them.
        classifier: (classes, dim) unit-norm label texts, in the space of `embedding`.

    Returns:
        What `probe.json` holds.

    Raises:
        UserError: the two sets share utterances, or no class of the test is in the training set.
    """
    if shared := set(train.ids) & set(test.ids):
        raise UserError(
            f"{train.name} and {test.name} share {len(shared)} utterances (first: "
            f"{min(shared)!r}); a probe needs others to train on"
        )
    trained = np.unique(train.classes)
    if len(trained) < 2 or not np.isin(test.classes, trained).any():
        raise UserError(f"{train.name}: fewer than two classes of {test.name} in it")
    valid, classes = held_out(train.ids, train.speakers), len(classifier)
    rows = metrics.unit_rows(test.vectors["embedding"], "speech embeddings")
    zero = metrics.top_columns(metrics.cosine_scores(rows, classifier), 1)[:, 0] == test.classes
    found: dict[str, Any] = {
        "version": _VERSION,
        "train_set": train.name,
        "n_train": len(train.ids),
        "n_valid": int(valid.sum()),
        "speakers_train": len(set(train.speakers)),
        "speakers_shared": len(set(train.speakers) & set(test.speakers)),
        "classes_trained": len(trained),
        "n": len(test.ids),
        "classes": classes,
        "draws": draws,
        "zero_shot": metrics.accuracy_figures(zero),
        "probe": {},
        "few_shot": {},
    }
    for kind, vectors in train.vectors.items():
        x, z = np.asarray(vectors, np.float64), np.asarray(test.vectors[kind], np.float64)
        text = np.asarray(classifier, np.float64) if kind == "embedding" else None
        found["probe"][kind] = linear_probe(x, train.classes, valid, z, test.classes)
        found["few_shot"][kind] = few_shot(
            x, train.classes, z, test.classes, classes, text, draws=draws
        )
    write_table(Path(out_dir) / "probe.tsv", *probe_rows(found))
    write_json(Path(out_dir) / PROBE, found)
    return found


def probe_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table: a row a method; top-1 and its interval in per cent, and over what it was taken."""
    header = ["vectors", "labels", "method", "top-1", "low", "high", "interval over"]

    def row(kind: str, labels: str, method: str, *values: float, over: str) -> list[str]:
        return [kind, labels, method, *(f"{100 * value:.1f}" for value in values), over]

    zero = found["zero_shot"]
    rows = [
        row("embedding", "0", "label texts", zero["top1"], *zero["interval"], over="utterances")
    ]
    over = f"{found['draws']} draws"
    for kind, shots in found["few_shot"].items():
        for k, methods in shots.items():
            for method, s in methods.items():
                values = (s["mean"], s["low"], s["high"])
                rows.append(row(kind, f"{k} a class", method, *values, over=over))
    for kind, one in found["probe"].items():
        values = (one["top1"], *one["interval"])
        labels = f"all {found['n_train']}"
        rows.append(row(kind, labels, "linear probe", *values, over="utterances"))
    return header, rows
