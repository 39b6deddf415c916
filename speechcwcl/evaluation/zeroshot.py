"""Zero-shot classification: the label texts, embedded, are the classifier.

``class vector = mean over templates and synonyms of the unit-norm text embeddings, re-normalised``
(the prompt ensemble of CLIP); ``score = cosine(speech, class vector)``; no training on labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.errors import UserError
from speechcwcl.evaluation import metrics
from speechcwcl.evaluation.results import ZeroShotResult, write_zeroshot
from speechcwcl.evaluation.similarity import contrast, sample_rows, similarity_matrix
from speechcwcl.evaluation.texts import EncodeText, TextBook, Transcripts
from speechcwcl.zeroshot.classifier import class_vectors
from speechcwcl.zeroshot.protocol import Protocol


def evaluate_zeroshot(
    speech: np.ndarray,
    utterances: Sequence[Any],
    protocol: Protocol,
    encode_text: EncodeText,
    out_dir: str | Path,
    *,
    info: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Score one protocol on one set and write ``out_dir`` (see :mod:`.results`).

    Args:
        speech: (n, dim) speech embeddings; made unit-norm here.
        utterances: n of them, in the same order: ``id``, ``labels``, and where known ``text``,
            ``audio``, ``start``, ``end``.
        protocol: labels, texts and templates.
        encode_text: texts -> (n_texts, dim), the frozen text encoder as the model uses it.
        out_dir: usually ``exp/<tag>/eval/<set>/<protocol name>``.
        info: plain JSON kept in ``scores.json`` under ``"info"`` (manifest hash, model hash, ...).

    Returns:
        What ``scores.json`` holds.

    Raises:
        UserError: counts or dimensions that do not fit, a label that the protocol does not know.
    """
    result = score_zeroshot(speech, utterances, protocol, encode_text)
    if info:
        result.scores["info"] = info
    write_zeroshot(out_dir, result)
    return result.scores


def score_zeroshot(
    speech: np.ndarray,
    utterances: Sequence[Any],
    protocol: Protocol,
    encode_text: EncodeText,
) -> ZeroShotResult:
    """:func:`evaluate_zeroshot` without writing anything."""
    if len(speech) != len(utterances):
        raise UserError(
            f"{len(speech)} speech embeddings for {len(utterances)} utterances;"
            " embed the set again (stage 7)"
        )
    kept, wanted = protocol.assign(utterances)
    speech = metrics.unit_rows(np.asarray(speech)[kept], "speech embeddings")
    chosen = [utterances[i] for i in kept]
    texts = [(getattr(u, "text", None) or "").strip() for u in chosen]
    book = TextBook.of(encode_text, [*_all_prompts(protocol), *texts])
    if book.dim != speech.shape[1]:
        raise UserError(
            f"speech embeddings have {speech.shape[1]} dimensions, text embeddings {book.dim};"
            " they come from different models"
        )
    classifier = build_classifier(protocol, book)
    scores = metrics.cosine_scores(speech, classifier)
    transcripts = Transcripts.of(book, texts, wanted)
    figures, confusion, bound_recall = _figures(protocol, scores, wanted, classifier, transcripts)
    figures["ignored"] = len(utterances) - len(kept)
    figures["cosine_to_text"] = transcripts.cosine(speech)
    figures["templates"] = _sensitivity(protocol, book, speech, wanted, transcripts)
    sample = sample_rows(chosen, wanted)
    similarity = similarity_matrix(speech, transcripts, classifier, wanted, sample)
    figures["similarity"] = contrast(similarity, wanted[sample])
    return ZeroShotResult(
        scores=figures,
        utterances=chosen,
        targets=wanted,
        ranking=metrics.top_columns(scores, min(5, scores.shape[1])),
        class_scores=scores,
        confusion=confusion,
        bound_recall=bound_recall,
        classifier=classifier.astype(np.float32),
        similarity=similarity.astype(np.float16),
        similarity_rows=sample,
    )


def build_classifier(
    protocol: Protocol,
    encode_text: EncodeText | TextBook,
    templates: Sequence[str] | None = None,
) -> np.ndarray:
    """Class vectors: the mean over templates and synonyms, re-normalised.

    Args:
        protocol: labels and their texts.
        encode_text: texts -> (n_texts, dim), or a book that holds every prompt.
        templates: which ones; all of the protocol's by default.

    Returns:
        (classes, dim) unit-norm float64.
    """
    chosen = protocol.templates if templates is None else templates
    return class_vectors(list(protocol.labels.values()), encode_text, chosen)


def targets(utterances: Sequence[Any], protocol: Protocol) -> np.ndarray:
    """(n,) int64: the column of each utterance's class, -1 where the protocol ignores it."""
    kept, columns = protocol.assign(utterances)
    wanted = np.full(len(utterances), -1, dtype=np.int64)
    wanted[kept] = columns
    return wanted


def accuracy(speech: np.ndarray, classifier: np.ndarray, wanted: np.ndarray) -> float:
    """Top-1 accuracy alone, e.g. after each epoch.

    Args:
        speech: (n, dim) speech embeddings.
        classifier: (classes, dim), from :func:`build_classifier`.
        wanted: (n,) from :func:`targets`; entries of -1 are left out.
    """
    kept = wanted >= 0
    rows = metrics.unit_rows(np.asarray(speech)[kept], "speech embeddings")
    scores = metrics.cosine_scores(rows, classifier)
    return float(np.mean(metrics.top_columns(scores, 1)[:, 0] == wanted[kept]))


def _all_prompts(protocol: Protocol) -> list[str]:
    filled = (prompts for t in protocol.templates for prompts in protocol.prompts(t))
    return [prompt for prompts in filled for prompt in prompts]


def _figures(
    protocol: Protocol,
    scores: np.ndarray,
    wanted: np.ndarray,
    classifier: np.ndarray,
    transcripts: Transcripts,
) -> tuple[dict[str, Any], np.ndarray, np.ndarray | None]:
    """The scalar figures, the confusion matrix, and the recall of the true text by class."""
    classes = len(classifier)
    ranking = metrics.top_columns(scores, min(5, classes))
    correct = ranking[:, 0] == wanted
    confusion = metrics.confusion_matrix(wanted, ranking[:, 0], classes)
    figures = metrics.class_figures(confusion)
    largest = int(np.argmax(figures.support))
    result: dict[str, Any] = {
        "kind": "zeroshot",
        "version": 1,
        "protocol": protocol.describe(),
        "n": len(wanted),
        "classes": classes,
        "classes_present": int(np.sum(figures.support > 0)),
        "chance": _short(1 / classes),
        "majority": _short(figures.support[largest] / len(wanted)),
        "majority_label": protocol.ids[largest],
        "top1": _short(np.mean(correct)),
        "top1_interval": [_short(v) for v in metrics.accuracy_interval(correct)],
        "top5": _short(np.mean((ranking == wanted[:, None]).any(axis=1))),
        "macro_f1": _short(figures.macro_f1),
        "text_bound": None,
    }
    bound = transcripts.correct(classifier)
    if not len(bound):
        return result, confusion, None
    result["text_bound"] = {
        "n": len(bound),
        "top1": _short(np.mean(bound)),
        "interval": [_short(v) for v in metrics.accuracy_interval(bound)],
    }
    having = np.bincount(transcripts.targets, minlength=classes)
    right = np.bincount(transcripts.targets[bound], minlength=classes)
    return result, confusion, np.where(having > 0, right / np.maximum(having, 1), np.nan)


def _sensitivity(
    protocol: Protocol,
    book: TextBook,
    speech: np.ndarray,
    wanted: np.ndarray,
    transcripts: Transcripts,
) -> dict[str, Any]:
    """Top-1 with each template alone: how much hangs on the wording."""
    each = []
    for template in protocol.templates:
        alone = build_classifier(protocol, book, [template])
        best = metrics.top_columns(metrics.cosine_scores(speech, alone), 1)[:, 0]
        bound = transcripts.correct(alone)
        each.append(
            {
                "template": template,
                "top1": _short(np.mean(best == wanted)),
                "text_bound": _short(np.mean(bound)) if len(bound) else None,
            }
        )
    values = [one["top1"] for one in each]
    summary = {"min": min(values), "mean": _short(np.mean(values)), "max": max(values)}
    return {"each": each, **summary}


def _short(value: float) -> float:
    return round(float(value), 6)
