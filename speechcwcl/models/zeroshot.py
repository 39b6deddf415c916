"""Zero-shot classification for every model that embeds speech and text into one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from speechcwcl.errors import UserError
from speechcwcl.models.audio_input import Audio
from speechcwcl.models.text import TextEncoder, TextInfo, load_described

UNKNOWN = "unknown"
Labels = Sequence[str] | Mapping[str, str | Sequence[str]]


class ZeroShot:
    """What ``encode_speech``, ``encode_text`` and ``logit_scale`` make possible.

    Attributes:
        text_info: which text encoder it is.
    """

    text_info: TextInfo
    _text: list[TextEncoder]  # none or one: loaded late

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device("cpu")

    @property
    def text_hash(self) -> str:
        """Hash of the text encoder; known without loading it."""
        return self.text_info.hash

    @property
    def text_encoder(self) -> TextEncoder:
        """The text encoder, loaded when first asked for."""
        if not self._text:
            self._text.append(load_described(self.text_info))
        return self._text[0].to(self.device)

    def encode_labels(
        self, labels: Sequence[str | Sequence[str]], templates: Sequence[str] = ("{}",)
    ) -> np.ndarray:
        """One unit-norm row a label: the mean over its texts and the templates, re-normalised.

        Args:
            labels: a text, or several texts, for each label.
            templates: each with one ``{}``.
        """
        texts = [[label] if isinstance(label, str) else list(label) for label in labels]
        for template in templates:
            if template.count("{}") != 1:
                raise UserError(f"template {template!r}: needs exactly one {{}}")
        flat = [t.replace("{}", text) for group in texts for text in group for t in templates]
        embedded = self.encode_text(flat)
        counts = [len(group) * len(templates) for group in texts]
        ends = np.cumsum(counts)
        means = [embedded[e - n : e].mean(axis=0) for n, e in zip(counts, ends, strict=True)]
        return np.stack([mean / np.linalg.norm(mean) for mean in means]).astype(np.float32)

    def classify(
        self,
        audio: Sequence[Audio],
        labels: Labels | None = None,
        templates: Sequence[str] | str | None = None,
        top_k: int | None = None,
        *,
        sample_rate: int = 16000,
        threshold: Any = None,
        unknown: str = UNKNOWN,
        candidate_labels: Labels | None = None,
        hypothesis_template: Sequence[str] | str | None = None,
    ) -> list[list[dict[str, Any]]]:
        """Classify recordings by labels written in words, with no training.

        Args:
            audio: see ``encode_speech``.
            labels: the texts, or ``{label: text or texts}``.
            templates: sentences with one ``{}`` to put the label into; the label as it is when
                left out.
            top_k: labels to return; all when ``None``.
            sample_rate: of the arrays, in Hz.
            threshold: cosine that a label must reach, else the answer is ``unknown``: a number,
                or a :class:`~speechcwcl.models.threshold.Threshold` (checked against model and
                labels).
            unknown: the name of that answer.
            candidate_labels: ``labels`` in the words of transformers' pipeline.
            hypothesis_template: ``templates`` in the words of transformers' pipeline.

        Returns:
            For each recording the best labels first: ``{"label", "score", "cosine"}``; ``score``
            is the softmax over the labels at the model's temperature. With a threshold,
            ``unknown`` competes as one more label, whose cosine is the threshold.
        """
        labels = _one_of("labels", labels, "candidate_labels", candidate_labels)
        given = _one_of("templates", templates, "hypothesis_template", hypothesis_template)
        templates = ("{}",) if given is None else (given,) if isinstance(given, str) else given
        names, texts = split_labels([] if labels is None else labels)
        rows = self.encode_labels(texts, templates)
        if threshold is not None and not isinstance(threshold, int | float):
            threshold = threshold.check(self, names, rows)
        return rank(
            self.encode_speech(audio, sample_rate=sample_rate),
            rows,
            names,
            scale_of(self),
            top_k=top_k,
            threshold=threshold,
            unknown=unknown,
        )


def scale_of(model: Any) -> float:
    """The logit scale of a model as a plain number, be it a tensor or one already."""
    scale = model.logit_scale
    return float(scale.detach()) if hasattr(scale, "detach") else float(scale)


def split_labels(labels: Labels) -> tuple[list[str], list[str | Sequence[str]]]:
    """Names and texts of labels given either way.

    Raises:
        UserError: none, one of them empty, or one given twice (upper case apart).
    """
    if isinstance(labels, str):
        raise UserError(f"classify: the labels are one text, {labels!r}; give a list of texts")
    names = list(labels)
    if not names:
        raise UserError("classify: no labels given")
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"classify: label {name!r} is empty or not text")
        if name.casefold() in seen:
            raise UserError(f"classify: label {name!r} is given twice")
        seen[name.casefold()] = name
    texts = [labels[name] for name in names] if isinstance(labels, Mapping) else names
    return names, texts


def rank(
    speech: np.ndarray,
    rows: np.ndarray,
    names: Sequence[str],
    scale: float,
    *,
    top_k: int | None = None,
    threshold: float | None = None,
    unknown: str = UNKNOWN,
) -> list[list[dict[str, Any]]]:
    """The labels of each recording, the best first; see :meth:`ZeroShot.classify`.

    Args:
        speech: (recordings, dim) unit norm.
        rows: (labels, dim) unit norm.
        names: of the labels.
        scale: 1 / temperature of the softmax.
        top_k: labels to return.
        threshold: the cosine of the further label ``unknown``; none when ``None``.
        unknown: its name.
    """
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k: {top_k} is not at least 1")
    names, cosine = list(names), speech @ rows.T
    if threshold is not None:
        if unknown.casefold() in {name.casefold() for name in names}:
            raise UserError(
                f"classify: with a threshold, {unknown!r} is the answer below it and cannot be a "
                "label too; word the label differently"
            )
        names = [*names, unknown]
        cosine = np.c_[cosine, np.full(len(cosine), threshold, dtype=cosine.dtype)]
    logits = cosine.astype(np.float64) * scale
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    return [
        [
            {"label": names[k], "score": float(s[k]), "cosine": float(c[k])}
            for k in np.argsort(-c, kind="stable")[:top_k]
        ]
        for s, c in zip(scores, cosine, strict=True)
    ]


def _one_of(name: str, value: Any, other_name: str, other: Any) -> Any:
    if value is not None and other is not None:
        raise UserError(f"classify: {name} and {other_name} mean the same; give one of them")
    return other if value is None else value
