"""How much a window of speech sounds like each label, and not like anything else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from speechcwcl.errors import UserError
from speechcwcl.yamls import read_yaml

if TYPE_CHECKING:
    from speechcwcl.models.aligner import Aligner

BACKGROUND = Path(__file__).with_name("background.yaml")
# Chosen on synthetic speech (valid words, voices of the mini corpus; tools/benchmarks/listen.py):
# how much of the background's cosine counts against a label, how many background texts that is the
# mean of, and the logit at which an event is as likely right as wrong. The last was chosen for the
# demo's model: a model of your own may want another --threshold.
WEIGHT = 0.5
NEAREST = 5
BIAS = 3.7
# A background text that means nearly the same as a label would count against it.
_TOO_CLOSE = 0.8


def background_texts(path: Path = BACKGROUND) -> list[str]:
    """The built-in texts that stand for all other speech: words, phrases, sentences."""
    groups = read_yaml(path).values
    return [text for texts in groups.values() for text in texts]


class Scorer:
    """Scores speech embeddings against labels written in words.

    A softmax over a few labels always sums to 1, whatever is said. So the score is that of a
    detector for each label by itself: with the model's logit scale s,

        score = sigmoid( s * ( <speech, label> - WEIGHT * mean of the NEAREST largest
                               <speech, background text> ) - BIAS )

    Args:
        aligner: the model.
        labels: the texts, none twice.
        templates: sentences with one `{}` to put the label into.
        background: other texts; the built-in ones when `None`.
    """

    def __init__(
        self,
        aligner: Aligner,
        labels: Sequence[str],
        templates: Sequence[str] = ("{}",),
        background: Sequence[str] | None = None,
    ):
        labels = list(labels)
        if not labels or not all(label.strip() for label in labels):
            raise UserError("no labels: give words to listen for, as in --labels 'go;stop'")
        if len(set(labels)) < len(labels):
            twice = next(name for name in labels if labels.count(name) > 1)
            raise UserError(f"label {twice!r} is given twice")
        self.labels = labels
        self._scale = float(aligner.logit_scale.detach())
        self._labels = aligner.encode_labels(labels, templates)
        texts = background_texts() if background is None else list(background)
        rows = aligner.encode_text(texts)
        near = (rows @ aligner.encode_text(labels).T).max(axis=1) > _TOO_CLOSE
        self._background = rows[~near]
        if len(self._background) < NEAREST:
            raise UserError(f"background: fewer than {NEAREST} texts are unlike the labels")

    def __call__(self, speech: np.ndarray) -> np.ndarray:
        """Score embeddings.

        Args:
            speech: (windows, dim) float32 unit norm.

        Returns:
            (windows, labels), 0 to 1.
        """
        others = np.partition(speech @ self._background.T, -NEAREST, axis=1)[:, -NEAREST:]
        margin = speech @ self._labels.T - WEIGHT * others.mean(axis=1, keepdims=True)
        return 1 / (1 + np.exp(BIAS - self._scale * margin.astype(np.float64)))
