"""Speech-text retrieval: which of all texts was said, and which recording says this text.

Equal texts (up to case and spacing) are one text: finding another recording of the same words is
right. Ties count half against the model, so that a collapsed model, for which everything ties, is
near chance and not perfect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.errors import UserError
from speechcwcl.evaluation import metrics
from speechcwcl.evaluation.results import RetrievalResult, write_retrieval

CUTOFFS = (1, 5, 10)
_CELLS = 1 << 23  # score matrix cells held at a time: 64 MB


def evaluate_retrieval(
    speech: np.ndarray,
    texts: Sequence[str],
    encode_text: Callable[[list[str]], np.ndarray],
    out_dir: str | Path,
    *,
    ids: Sequence[str] | None = None,
    info: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Score retrieval both ways and write ``out_dir`` (see :mod:`.results`).

    Args:
        speech: (n, dim) speech embeddings; made unit-norm here.
        texts: n transcripts in the same order, none empty.
        encode_text: texts -> (n_texts, dim).
        out_dir: usually ``exp/<tag>/eval/<set>/retrieval``.
        ids: n utterance ids for ``predictions.tsv``; numbers by default.
        info: plain JSON kept in ``scores.json`` under ``"info"``.

    Returns:
        What ``scores.json`` holds.

    Raises:
        UserError: counts that do not fit, an empty text, no utterance.
    """
    ids = [str(i) for i in range(len(texts))] if ids is None else list(ids)
    result = score_retrieval(speech, texts, encode_text, ids)
    if info:
        result.scores["info"] = info
    write_retrieval(out_dir, result)
    return result.scores


def score_retrieval(
    speech: np.ndarray,
    texts: Sequence[str],
    encode_text: Callable[[list[str]], np.ndarray],
    ids: Sequence[str],
) -> RetrievalResult:
    """:func:`evaluate_retrieval` without writing anything."""
    _check(speech, texts, ids)
    unique, owner = unique_texts(texts)
    scores, ranks, best, best_score = _score(speech, encode_text(unique), owner)
    return RetrievalResult(
        scores=scores,
        ids=list(ids),
        texts=list(texts),
        ranks=ranks,
        best_texts=[unique[i] for i in best],
        best_scores=best_score,
    )


def retrieval_scores(speech: np.ndarray, text: np.ndarray, texts: Sequence[str]) -> dict[str, Any]:
    """The same figures from embeddings that are there already, e.g. after each epoch.

    Args:
        speech: (n, dim) speech embeddings.
        text: (n, dim) embeddings of ``texts``, row by row.
        texts: n transcripts, to know which are equal.
    """
    _check(speech, texts, [str(i) for i in range(len(texts))])
    unique, owner = unique_texts(texts)
    first = np.full(len(unique), -1)
    first[owner[::-1]] = np.arange(len(texts))[::-1]
    return _score(speech, np.asarray(text)[first], owner)[0]


def _score(
    speech: np.ndarray, text: np.ndarray, owner: np.ndarray
) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    speech = metrics.unit_rows(speech, "speech embeddings")
    text = metrics.unit_rows(text, "text embeddings")
    if text.shape != (owner.max() + 1, speech.shape[1]):
        raise UserError(
            f"text embeddings have the shape {text.shape}, speech embeddings {speech.shape};"
            " they come from different models"
        )
    ranks, best, best_score = speech_to_text_ranks(speech, text, owner)
    back = text_to_speech_ranks(speech, text, owner)
    cosine = np.einsum("nd,nd->n", speech, text[owner])
    scores = {
        "kind": "retrieval",
        "version": 1,
        "n": len(speech),
        "texts": len(text),
        "speech_to_text": _summary(ranks, chance=1 / len(text)),
        # A text with k recordings of n has chance k / n: 1 / texts on average.
        "text_to_speech": _summary(back, chance=1 / len(text)),
        "cosine_to_text": {
            "n": len(cosine),
            "mean": round(float(cosine.mean()), 6),
            "median": round(float(np.median(cosine)), 6),
        },
    }
    return scores, ranks, best, best_score


def unique_texts(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Distinct texts, sorted, and for each given text its number among them.

    Texts that differ in case or spacing only are the same; the first in sorted order stands.
    """
    texts = [" ".join(text.split()) for text in texts]
    keys = [text.casefold() for text in texts]
    first: dict[str, str] = {}
    for key, text in zip(keys, texts, strict=True):
        first[key] = min(first.get(key, text), text)
    order = sorted(first)
    number = {key: index for index, key in enumerate(order)}
    owner = np.asarray([number[key] for key in keys], dtype=np.int64)
    return [first[key] for key in order], owner


def speech_to_text_ranks(
    speech: np.ndarray, text: np.ndarray, owner: np.ndarray, cells: int = _CELLS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank of the right text for each recording.

    Args:
        speech: (n, dim) unit-norm float64.
        text: (m, dim) unit-norm float64, distinct texts.
        owner: (n,) the right row of ``text``.
        cells: size of the blocks; changes the memory, never the result.

    Returns:
        (ranks (n,) float64 from 1, ties count half; best text (n,) int; its score (n,)).
    """
    n, m = len(speech), len(text)
    ranks, best, best_score = np.empty(n), np.empty(n, dtype=np.int64), np.empty(n)
    step = max(1, cells // m)
    for start in range(0, n, step):
        block = slice(start, start + step)
        scores = metrics.cosine_scores(speech[block], text)
        rows = np.arange(len(scores))
        own = scores[rows, owner[block]][:, None]
        above, equal = (scores > own).sum(axis=1), (scores == own).sum(axis=1) - 1
        ranks[block] = 1 + above + equal / 2
        best[block] = scores.argmax(axis=1)
        best_score[block] = scores.max(axis=1)
    return ranks, best, best_score


def text_to_speech_ranks(
    speech: np.ndarray, text: np.ndarray, owner: np.ndarray, cells: int = _CELLS
) -> np.ndarray:
    """Rank of the best right recording for each text, among all recordings.

    A text's other right recordings do not push each other down.

    Returns:
        (m,) float64 from 1, ties with wrong recordings count half.
    """
    n, m = len(speech), len(text)
    ranks = np.empty(m)
    step = max(1, cells // n)
    for start in range(0, m, step):
        scores = metrics.cosine_scores(text[start : start + step], speech)
        right = owner[None, :] == np.arange(start, start + len(scores))[:, None]
        own = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        above = ((scores > own) & ~right).sum(axis=1)
        equal = ((scores == own) & ~right).sum(axis=1)
        ranks[start : start + step] = 1 + above + equal / 2
    return ranks


def _summary(ranks: np.ndarray, chance: float) -> dict[str, Any]:
    found = {key: round(v, 6) for key, v in metrics.rank_summary(ranks, CUTOFFS).items()}
    interval = [round(v, 6) for v in metrics.accuracy_interval(ranks <= 1)]
    return {"n": len(ranks), **found, "R@1_interval": interval, "chance": round(chance, 6)}


def _check(speech: np.ndarray, texts: Sequence[str], ids: Sequence[str]) -> None:
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
