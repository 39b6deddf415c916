"""Embeddings of label texts and of the true words, each distinct text embedded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from speechcwcl.errors import UserError
from speechcwcl.evaluation import metrics

EncodeText = Callable[[list[str]], np.ndarray]


@dataclass
class TextBook:
    """Unit-norm embeddings of texts, each embedded once."""

    row: dict[str, int]
    vectors: np.ndarray

    @classmethod
    def of(cls, encode_text: EncodeText, texts: Sequence[str]) -> TextBook:
        """Embed the distinct, non-empty ones of ``texts``."""
        unique = sorted({text for text in texts if text})
        vectors = np.asarray(encode_text(unique))
        if vectors.shape[:1] != (len(unique),):
            raise UserError(
                f"the text encoder gave the shape {vectors.shape} for {len(unique)} texts"
            )
        row = {text: index for index, text in enumerate(unique)}
        return cls(row, metrics.unit_rows(vectors, "text embeddings"))

    @property
    def dim(self) -> int:
        """Size of an embedding."""
        return self.vectors.shape[1]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), dim) unit-norm float64."""
        return self.vectors[[self.row[text] for text in texts]]


@dataclass
class Transcripts:
    """The true words of the utterances that have any, embedded."""

    rows: np.ndarray  # (m,) positions among the scored utterances
    unique: np.ndarray  # (u, dim)
    which: np.ndarray  # (m,) row of ``unique``
    targets: np.ndarray  # (m,)

    @classmethod
    def of(cls, book: TextBook, texts: Sequence[str], targets: np.ndarray) -> Transcripts:
        """Gather them; ``texts`` has ``""`` for an utterance without."""
        rows = np.asarray([i for i, text in enumerate(texts) if text], dtype=np.int64)
        unique = sorted({texts[i] for i in rows})
        column = {text: index for index, text in enumerate(unique)}
        which = np.asarray([column[texts[i]] for i in rows], dtype=np.int64)
        vectors = book(unique) if unique else np.zeros((0, book.dim))
        return cls(rows, vectors, which, targets[rows])

    def correct(self, classifier: np.ndarray) -> np.ndarray:
        """(m,) bool: does the transcript itself fall into the right class?"""
        if not len(self.rows):
            return np.zeros(0, dtype=bool)
        scores = metrics.cosine_scores(self.unique, classifier)
        return metrics.top_columns(scores, 1)[self.which, 0] == self.targets

    def cosine(self, speech: np.ndarray) -> dict[str, float] | None:
        """How near the speech comes to its own text: mean and median cosine."""
        if not len(self.rows):
            return None
        cosine = np.einsum("nd,nd->n", speech[self.rows], self.unique[self.which])
        return {
            "n": len(cosine),
            "mean": round(float(np.mean(cosine)), 6),
            "median": round(float(np.median(cosine)), 6),
        }
