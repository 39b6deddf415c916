"""Zero-shot scores: the label texts, embedded, are the classifier; no training on labels.

The class vectors are those of `speechcwcl.zeroshot.classifier`; a score is the cosine of a
recording and a class vector. Beside it stands the *text bound*: the true words classified in the
same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.errors import UserError, require
from speechcwcl.evaluation import metrics
from speechcwcl.evaluation.metrics import short
from speechcwcl.evaluation.results import Table, write_scores
from speechcwcl.zeroshot.classifier import EncodeText, class_vectors, prompt_means
from speechcwcl.zeroshot.keywords import Keywords, level_of_share
from speechcwcl.zeroshot.protocol import Protocol

FAR = 0.05  # of other words that get a label, where a protocol has `unknown`
FIGURE_ROWS = 420  # of the similarity matrix


@dataclass
class ZeroShotResult:
    """Everything [`score_zeroshot`][] finds out, ready to be written."""

    scores: dict[str, Any]  # what `scores.json` holds
    utterances: Sequence[Any]  # those that were scored, n of them
    targets: np.ndarray  # (n,) the column of the class of each
    ranking: np.ndarray  # (n, up to 5) the best columns, best first
    class_scores: np.ndarray  # (n, classes) cosines
    by_class: metrics.ClassFigures  # figures of each class
    bound_recall: np.ndarray  # (classes,) recall of the true text, NaN where a class has none
    classifier: np.ndarray  # (classes, dim) unit-norm float32
    similarity: np.ndarray  # (s, s) float16 cosines, sampled speech by sampled text
    sample: np.ndarray  # (s,) positions of the sample in `utterances`


@dataclass
class Transcripts:
    """The true words of the utterances that have any."""

    rows: np.ndarray  # (m,) positions among the scored utterances
    vectors: np.ndarray  # (m, dim) unit-norm float64
    targets: np.ndarray  # (m,) the class of each

    def correct(self, classifier: np.ndarray) -> np.ndarray:
        """(m,) bool: do the words themselves fall into the right class?"""
        best = metrics.top_columns(metrics.cosine_scores(self.vectors, classifier), 1)
        return best[:, 0] == self.targets


def evaluate_zeroshot(
    speech: np.ndarray,
    utterances: Sequence[Any],
    protocol: Protocol,
    encode_text: EncodeText,
    out_dir: str | Path,
    ordinary: np.ndarray | None = None,
    scale: float | None = None,
) -> dict[str, Any]:
    """Score one protocol on one set and write `out_dir` (see `results`).

    Args:
        speech: (n, dim) speech embeddings; made unit-norm here.
        utterances: n of them, in the same order: `id`, `labels`, and where known `text`,
            `audio`, `start`, `end`, `speaker`.
        encode_text: texts -> (n_texts, dim), the frozen text encoder as the model uses it.
        out_dir: usually `exp/<tag>/eval/<set>/<protocol name>`.
        ordinary: (n, dim) embeddings of ordinary speech; for protocols with `unknown`.
        scale: the model's `logit_scale`, where it has one, for the reliability of its scores.

    Returns:
        What `scores.json` holds.

    Raises:
        UserError: counts or dimensions that do not fit, a label that the protocol does not know.
    """
    result = score_zeroshot(speech, utterances, protocol, encode_text, ordinary, scale)
    labels = list(protocol.texts.items())
    tables = {
        "predictions.tsv": _predictions(result, protocol.ids),
        "per_class.tsv": _per_class(result, labels),
        "per_speaker.tsv": _per_speaker(result),
        "confusion.tsv": (
            ["true \\ predicted", *protocol.ids],
            ([i, *row] for i, row in zip(protocol.ids, result.by_class.confusion, strict=True)),
        ),
        "similarity.tsv": (
            ["id", "label"],
            ([result.utterances[i].id, protocol.ids[result.targets[i]]] for i in result.sample),
        ),
    }
    arrays = {"label_embeddings.npy": result.classifier, "similarity.npy": result.similarity}
    write_scores(out_dir, result.scores, tables, arrays)
    return result.scores


def score_zeroshot(
    speech: np.ndarray,
    utterances: Sequence[Any],
    protocol: Protocol,
    encode_text: EncodeText,
    ordinary: np.ndarray | None = None,
    scale: float | None = None,
) -> ZeroShotResult:
    """[`evaluate_zeroshot`][] without writing anything."""
    if len(speech) != len(utterances):
        raise UserError(
            f"{len(speech)} speech embeddings for {len(utterances)} utterances;"
            " embed the set again (stage 7)"
        )
    kept, wanted = protocol.assign(utterances)
    speech = metrics.unit_rows(np.asarray(speech)[kept], "speech embeddings")
    chosen = [utterances[i] for i in kept]
    texts = [(getattr(u, "text", None) or "").strip() for u in chosen]
    embedded = embed_once(encode_text, [*protocol.every_prompt(), *texts])
    means = prompt_means(list(protocol.labels.values()), protocol.templates, embedded)
    classifier = metrics.unit_rows(means.mean(axis=0), "class vectors")
    if classifier.shape[1] != speech.shape[1]:
        raise UserError(
            f"speech embeddings have {speech.shape[1]} dimensions, text embeddings"
            f" {classifier.shape[1]}; they come from different models"
        )
    rows = np.flatnonzero([bool(text) for text in texts])
    transcripts = Transcripts(rows, embedded([texts[i] for i in rows]), wanted[rows])
    scores = metrics.cosine_scores(speech, classifier)
    if protocol.unknown:
        scores = _above_threshold(scores, speech, classifier, protocol, ordinary)
    ranking = metrics.top_columns(scores, min(5, scores.shape[1]))
    by_class = metrics.class_figures(wanted, ranking[:, 0], len(classifier))
    figures = _figures(protocol, ranking, wanted, by_class)
    bound_recall = _add_bound(figures, transcripts, classifier)
    if scale is not None:  # the score of `classify`: softmax over the labels
        best = np.exp(scale * (scores - scores.max(axis=1, keepdims=True))).sum(axis=1)
        figures["reliability"] = metrics.reliability(1 / best, ranking[:, 0] == wanted)
    figures["ignored"] = len(utterances) - len(kept)
    figures["cosine_to_text"] = cosine_figures(speech[rows], transcripts.vectors)
    figures["templates"] = _sensitivity(protocol, means, speech, wanted, transcripts)
    sample = _sample_rows(chosen, wanted)
    similarity = _similarity(speech, transcripts, classifier[wanted], sample)
    figures["similarity"] = _contrast(similarity, wanted[sample])
    return ZeroShotResult(
        scores=figures,
        utterances=chosen,
        targets=wanted,
        ranking=ranking,
        class_scores=scores,
        by_class=by_class,
        bound_recall=bound_recall,
        classifier=classifier.astype(np.float32),
        similarity=similarity.astype(np.float16),
        sample=sample,
    )


def _above_threshold(
    scores: np.ndarray,
    speech: np.ndarray,
    classifier: np.ndarray,
    protocol: Protocol,
    ordinary: np.ndarray | None,
) -> np.ndarray:
    """(n, classes): how far each cosine is above its label's threshold, and 0 for `unknown`.

    The thresholds are set so that about `FAR` of other words pass one, without looking at any.
    """
    require(ordinary is not None, f"protocol {protocol.name!r}: unknown needs ordinary speech")
    assert ordinary is not None
    names = list(protocol.named)
    known = np.isin(protocol.ids, names)
    level = level_of_share(FAR, len(names), None)
    keywords = Keywords.against(names, classifier[known], "", ordinary, level=level)
    above = np.zeros_like(scores)
    above[:, known] = scores[:, known] - keywords.thresholds(speech)
    return np.round(above, metrics.DECIMALS)


def embed_once(encode_text: EncodeText, texts: Sequence[str]) -> EncodeText:
    """Embed each distinct, non-empty text once.

    Returns:
        A function that looks texts up: (texts, dim) unit-norm float64.
    """
    unique = sorted({text for text in texts if text})
    vectors = np.asarray(encode_text(unique))
    if vectors.shape[:1] != (len(unique),):
        raise UserError(f"the text encoder gave the shape {vectors.shape} for {len(unique)} texts")
    rows = metrics.unit_rows(vectors, "text embeddings")
    number = {text: index for index, text in enumerate(unique)}
    return lambda asked: rows[np.asarray([number[text] for text in asked], dtype=np.int64)]


def build_classifier(protocol: Protocol, encode_text: EncodeText) -> np.ndarray:
    """(classes, dim) unit-norm float64: the class vectors of a protocol.

    Args:
        encode_text: texts -> (n_texts, dim).
    """
    embedded = embed_once(encode_text, protocol.every_prompt())
    return class_vectors(list(protocol.labels.values()), embedded, protocol.templates)


def accuracy(speech: np.ndarray, classifier: np.ndarray, wanted: np.ndarray) -> float:
    """Top-1 accuracy alone, e.g. after each epoch.

    Args:
        speech: (n, dim) speech embeddings.
        classifier: (classes, dim), from [`build_classifier`][].
        wanted: (n,) the column of the class of each.
    """
    scores = metrics.cosine_scores(metrics.unit_rows(speech, "speech embeddings"), classifier)
    return float(np.mean(metrics.top_columns(scores, 1)[:, 0] == wanted))


def cosine_figures(speech: np.ndarray, text: np.ndarray) -> dict[str, Any] | None:
    """How near the speech comes to its own text: mean and median cosine; None without a text.

    Args:
        speech: (m, dim) unit norm.
        text: (m, dim) unit norm, row by row.
    """
    if not len(speech):
        return None
    cosine = np.einsum("nd,nd->n", speech, text)
    return {"n": len(cosine), "mean": short(cosine.mean()), "median": short(np.median(cosine))}


def _figures(
    protocol: Protocol, ranking: np.ndarray, wanted: np.ndarray, by_class: metrics.ClassFigures
) -> dict[str, Any]:
    """The figures of a set as a whole."""
    classes, largest = len(protocol.labels), int(np.argmax(by_class.support))
    one = metrics.accuracy_figures(ranking[:, 0] == wanted)
    return {
        "kind": "zeroshot",
        "version": 1,
        "protocol": protocol.describe(),
        "n": len(wanted),
        "classes": classes,
        "classes_present": int(np.sum(by_class.support > 0)),
        "chance": short(1 / classes),
        "majority": short(by_class.support[largest] / len(wanted)),
        "majority_label": protocol.ids[largest],
        "top1": one["top1"],
        "top1_interval": one["interval"],
        "top5": short(np.mean((ranking == wanted[:, None]).any(axis=1))),
        "macro_f1": short(by_class.macro_f1),
        "text_bound": None,
    }


def _add_bound(
    figures: dict[str, Any], transcripts: Transcripts, classifier: np.ndarray
) -> np.ndarray:
    """Put the text bound into `figures`; gives the recall of the true text by class."""
    right, classes = transcripts.correct(classifier), len(classifier)
    if len(right):
        figures["text_bound"] = {"n": len(right), **metrics.accuracy_figures(right)}
    having = np.bincount(transcripts.targets, minlength=classes)
    found = np.bincount(transcripts.targets[right], minlength=classes)
    return np.where(having > 0, found / np.maximum(having, 1), np.nan)


def _sensitivity(
    protocol: Protocol,
    means: np.ndarray,
    speech: np.ndarray,
    wanted: np.ndarray,
    transcripts: Transcripts,
) -> dict[str, Any]:
    """Top-1 with each template alone: how much hangs on the wording."""
    each: list[dict[str, Any]] = []
    for template, mean in zip(protocol.templates, means, strict=True):
        alone = metrics.unit_rows(mean, "class vectors")
        bound = short(np.mean(transcripts.correct(alone))) if len(transcripts.rows) else None
        top1 = short(accuracy(speech, alone, wanted))
        each.append({"template": template, "top1": top1, "text_bound": bound})
    values = [one["top1"] for one in each]
    summary = {"min": min(values), "mean": short(np.mean(values)), "max": max(values)}
    return {"each": each, **summary}


def _sample_rows(utterances: Sequence[Any], wanted: np.ndarray) -> np.ndarray:
    """Positions for the similarity figure, sorted by class: the same few of each class whatever
    the order of the set, chosen by the hash of their ids, so that runs show the same clips."""
    present = np.unique(wanted)
    share = max(1, FIGURE_ROWS // len(present))
    picked: list[int] = []
    for column in present:
        members = np.flatnonzero(wanted == column).tolist()
        by_hash = sorted(members, key=lambda i: sha256(utterances[i].id.encode()).digest())
        picked += sorted(by_hash[:share], key=lambda i: utterances[i].id)
    return np.asarray(picked, dtype=np.int64)


def _similarity(
    speech: np.ndarray, transcripts: Transcripts, text: np.ndarray, sample: np.ndarray
) -> np.ndarray:
    """(s, s) cosines of the sampled speech (rows) with the sampled texts (columns).

    An utterance without a transcript is represented by its class vector, which is in `text`.
    """
    text[transcripts.rows] = transcripts.vectors
    return metrics.cosine_scores(speech[sample], text[sample])


def _contrast(similarity: np.ndarray, wanted: np.ndarray) -> dict[str, float | None]:
    """Mean cosine within and between classes over the figure: the contrast that one sees in it."""
    same = wanted[:, None] == wanted[None, :]
    between = short(similarity[~same].mean()) if (~same).any() else None
    return {"within": short(similarity[same].mean()), "between": between}


def _predictions(result: ZeroShotResult, labels: list[str]) -> Table:
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

    return header, (row(i) for i in range(len(result.targets)))


def _per_class(result: ZeroShotResult, labels: list[tuple[str, str]]) -> Table:
    found = result.by_class
    counts = zip(labels, found.support, found.confusion.sum(axis=0), strict=True)
    shares = zip(found.precision, found.recall, found.f1, result.bound_recall, strict=True)
    header = ["label", "text", "support", "predicted", "precision", "recall", "f1", "text_bound"]
    return header, (
        [*label, support, predicted, *("" if np.isnan(x) else f"{x:.6f}" for x in four)]
        for (label, support, predicted), four in zip(counts, shares, strict=True)
    )


def _per_speaker(result: ZeroShotResult) -> Table:
    """speaker, support, accuracy, the hardest first; no row where nobody is known to speak."""
    found: dict[str, list[bool]] = {}
    correct = result.ranking[:, 0] == result.targets
    for utterance, right in zip(result.utterances, correct, strict=True):
        if speaker := getattr(utterance, "speaker", None):
            found.setdefault(speaker, []).append(bool(right))
    rows = sorted((float(np.mean(right)), name, len(right)) for name, right in found.items())
    header = ["speaker", "support", "accuracy"]
    return header, ([name, count, f"{share:.6f}"] for share, name, count in rows)
