"""From scores over time to events: smoothing, hysteresis, one event a word."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from speechcwcl.errors import UserError


@dataclass(frozen=True)
class Peak:
    """A decision.

    Attributes:
        label: its number.
        step: the step at which the smoothed score was highest.
        score: that score.
    """

    label: int
    step: int
    score: float


class Detector:
    """Feed the scores step by step; get at most one decision a step.

    A label's score must reach ``threshold``; the highest within ``patience`` steps after it wins
    over all labels. Then nothing is said until ``refractory`` steps after that peak, and the same
    label again only once its score has fallen below ``release * threshold`` in between.

    Args:
        labels: how many.
        threshold: 0 to 1.
        smooth: steps in the mean; an odd number, half of them are waited for.
        patience: steps.
        refractory: steps.
        release: share of the threshold.
    """

    def __init__(
        self,
        labels: int,
        threshold: float,
        *,
        smooth: int = 3,
        patience: int = 2,
        refractory: int = 3,
        release: float = 0.8,
    ):
        if not 0 < threshold < 1:
            raise UserError(f"threshold: {threshold:g} is not between 0 and 1")
        if smooth < 1 or smooth % 2 == 0:
            raise UserError(f"smooth: {smooth} is not an odd number of steps")
        self.threshold = threshold
        self._patience, self._refractory, self._release = patience, refractory, release
        self._armed = np.ones(labels, dtype=bool)
        self._recent: deque[np.ndarray] = deque([np.zeros(labels)] * smooth, maxlen=smooth)
        self._half = smooth // 2
        self._step = -1 - self._half
        self._best: Peak | None = None
        self._blocked_until = -1

    def push(self, scores: np.ndarray) -> Peak | None:
        """One step.

        Args:
            scores: (labels,), 0 to 1; 0 where there is nothing to hear.
        """
        self._recent.append(np.asarray(scores, dtype=np.float64))
        self._step += 1
        if self._step < 0:
            return None
        smoothed = np.mean(self._recent, axis=0)
        self._armed |= smoothed < self._release * self.threshold
        if self._step >= self._blocked_until:
            allowed = np.where(self._armed, smoothed, 0.0)
            label = int(allowed.argmax())
            score = float(allowed[label])
            if score >= self.threshold and (self._best is None or score > self._best.score):
                self._best = Peak(label, self._step, score)
        if self._best and self._step >= self._best.step + self._patience:
            return self._decide()
        return None

    def finish(self) -> list[Peak]:
        """What was still waited for."""
        last = [self.push(np.zeros(len(self._armed))) for _ in range(self._half + self._patience)]
        return [peak for peak in last if peak]

    def _decide(self) -> Peak | None:
        peak, self._best = self._best, None
        assert peak is not None
        self._armed[peak.label] = False
        self._blocked_until = peak.step + self._refractory
        return peak
