"""Speech-text retrieval: which of all texts was said, and which recording says this text.

Equal texts (up to case and spacing) are one text: finding another recording of the same words is
right. Ties count half against the model, so that a collapsed model, for which everything ties, is
near chance and not perfect.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.errors import UserError
from speechcwcl.evaluation import metrics
from speechcwcl.evaluation.metrics import short
from speechcwcl.evaluation.results import write_scores
from speechcwcl.evaluation.scores import cosine_figures
from speechcwcl.zeroshot.classifier import EncodeText

_CELLS = 1 << 23  # score matrix cells held at a time: 64 MB


def evaluate_retrieval(
    speech: np.ndarray,
    texts: Sequence[str],
    encode_text: EncodeText,
    out_dir: str | Path,
    *,
    ids: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Score retrieval both ways and write `out_dir` (see `results`).

    Args:
        speech: (n, dim) speech embeddings; made unit-norm here.
        texts: n transcripts in the same order, none empty.
        encode_text: texts -> (n_texts, dim).
        out_dir: usually `exp/<tag>/eval/<set>/retrieval`.
        ids: n utterance ids for `predictions.tsv`; numbers by default.

    Returns:
        What `scores.json` holds.

    Raises:
        UserError: counts that do not fit, an empty text, no utterance.
    """
    ids = list(map(str, range(len(texts)))) if ids is None else ids
    unique, owner = _check(speech, texts, ids)
    scores, ranks, best, cosine = _score(speech, encode_text(unique), owner)
    header = ["id", "text", "rank", "best_text", "best_score"]
    rows = (
        [i, text, f"{rank:g}", unique[column], f"{value:.6f}"]
        for i, text, rank, column, value in zip(ids, texts, ranks, best, cosine, strict=True)
    )
    write_scores(out_dir, scores, {"predictions.tsv": (header, rows)})
    return scores


def retrieval_scores(speech: np.ndarray, text: np.ndarray, texts: Sequence[str]) -> dict[str, Any]:
    """The same figures from embeddings that are there already, e.g. after each epoch.

    Args:
        speech: (n, dim) speech embeddings.
        text: (n, dim) embeddings of `texts`, row by row.
    """
    _, owner = _check(speech, texts, list(map(str, range(len(texts)))))
    _, first = np.unique(owner, return_index=True)
    return _score(speech, np.asarray(text)[first], owner)[0]


def _score(
    speech: np.ndarray, text: np.ndarray, owner: np.ndarray
) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    """The figures both ways; for each recording the rank of its text, the best text, its cosine."""
    speech = metrics.unit_rows(speech, "speech embeddings")
    text = metrics.unit_rows(text, "text embeddings")
    if text.shape != (owner.max() + 1, speech.shape[1]):
        raise UserError(
            f"text embeddings have the shape {text.shape}, speech embeddings {speech.shape};"
            " they come from different models"
        )
    every = np.arange(len(text))
    ranks, best, cosine = right_ranks(speech, text, owner, every)
    scores = {
        "kind": "retrieval",
        "version": 1,
        "n": len(speech),
        "texts": len(text),
        "speech_to_text": _summary(ranks, len(text)),
        "text_to_speech": _summary(right_ranks(text, speech, every, owner)[0], len(text)),
        "cosine_to_text": cosine_figures(speech, text[owner]),
    }
    return scores, ranks, best, cosine


def unique_texts(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Distinct texts, sorted, and for each given text its number among them.

    Texts that differ in case or spacing only are the same; the first in sorted order stands.
    """
    texts = [" ".join(text.split()) for text in texts]
    first: dict[str, str] = {}
    for text in texts:
        key = text.casefold()
        first[key] = min(first.get(key, text), text)
    number = {key: index for index, key in enumerate(sorted(first))}
    owner = np.asarray([number[text.casefold()] for text in texts], dtype=np.int64)
    return [first[key] for key in number], owner


def right_ranks(
    rows: np.ndarray,
    columns: np.ndarray,
    row_text: np.ndarray,
    column_text: np.ndarray,
    cells: int = _CELLS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank of the best right column for each row; other right ones do not push it down.

    Args:
        rows: (n, dim) unit-norm float64, speech or texts.
        columns: (m, dim) unit-norm float64, the other of the two.
        row_text: (n,) number of the text of each row.
        column_text: (m,) number of the text of each column; right is what has the row's.
        cells: size of the blocks; changes the memory, never the result.

    Returns:
        (ranks (n,) float64 from 1, ties with wrong ones count half; best column (n,) int; its
        cosine (n,)).
    """
    n = len(rows)
    ranks, best, cosine = np.empty(n), np.empty(n, dtype=np.int64), np.empty(n)
    step = max(1, cells // len(columns))
    for start in range(0, n, step):
        block = slice(start, start + step)
        scores = metrics.cosine_scores(rows[block], columns)
        right = row_text[block][:, None] == column_text[None, :]
        own = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        above = ((scores > own) & ~right).sum(axis=1)
        equal = ((scores == own) & ~right).sum(axis=1)
        ranks[block] = 1 + above + equal / 2
        best[block], cosine[block] = scores.argmax(axis=1), scores.max(axis=1)
    return ranks, best, cosine


def _summary(ranks: np.ndarray, texts: int) -> dict[str, Any]:
    found = {key: short(value) for key, value in metrics.rank_summary(ranks).items()}
    interval = metrics.accuracy_figures(ranks <= 1)["interval"]
    # A text with k recordings of n has chance k / n: 1 / texts on average, both ways.
    return {"n": len(ranks), **found, "R@1_interval": interval, "chance": short(1 / texts)}


def _check(
    speech: np.ndarray, texts: Sequence[str], ids: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    if not len(speech) == len(texts) == len(ids):
        raise UserError(
            f"{len(speech)} speech embeddings, {len(texts)} texts and {len(ids)} ids;"
            " embed the set again (stage 7)"
        )
    if not len(texts):
        raise UserError("retrieval: there is no utterance to score")
    for utterance_id, text in zip(ids, texts, strict=True):
        if not text or not text.strip():
            raise UserError(f"retrieval: utterance {utterance_id!r} has no text")
    return unique_texts(texts)
