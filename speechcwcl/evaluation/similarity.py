"""The similarity matrix speech x text, sorted by class: what the report draws for each run."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from speechcwcl.evaluation import metrics
from speechcwcl.evaluation.texts import Transcripts

FIGURE_ROWS = 420


def sample_rows(
    utterances: Sequence[Any], targets: np.ndarray, limit: int = FIGURE_ROWS
) -> np.ndarray:
    """Positions for the similarity figure, sorted by class: the same few of each class whatever
    the order of the set, chosen by the hash of their ids, so that runs show the same clips."""
    share = max(1, limit // len(np.unique(targets)))
    picked: list[int] = []
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        by_hash = sorted(members, key=lambda i: sha256(utterances[i].id.encode()).digest())
        picked += sorted(by_hash[:share], key=lambda i: utterances[i].id)
    return np.asarray(picked, dtype=np.int64)


def similarity_matrix(
    speech: np.ndarray,
    transcripts: Transcripts,
    classifier: np.ndarray,
    targets: np.ndarray,
    sample: np.ndarray,
) -> np.ndarray:
    """(s, s) cosines of the sampled speech (rows) with the sampled texts (columns).

    An utterance without a transcript is represented by its class vector.
    """
    text = classifier[targets]
    text[transcripts.rows] = transcripts.unique[transcripts.which]
    return metrics.cosine_scores(speech[sample], text[sample])


def contrast(similarity: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
    """Mean cosine within and between classes over the figure: the contrast that one sees in it."""
    same = targets[:, None] == targets[None, :]
    between = round(float(similarity[~same].mean()), 6) if (~same).any() else None
    return {"within": round(float(similarity[same].mean()), 6), "between": between}
