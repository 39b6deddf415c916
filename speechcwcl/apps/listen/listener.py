"""Spotting keywords in a stream: windows, embeddings, scores, events.

An energy gate passes what stands out of the noise; from the scores a detector makes events by
smoothing and hysteresis, one a word.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from speechcwcl.apps.listen.scoring import Scorer
from speechcwcl.data.audio import SAMPLE_RATE
from speechcwcl.errors import UserError

if TYPE_CHECKING:
    from speechcwcl.models.aligner import Aligner

FRAME = 320
"""Samples at 16 kHz in a frame: 20 ms."""
_MEMORY = 500  # frames (10 s) over which the noise is looked for
_QUANTILE = 10  # percent of them that are taken to be noise alone
_LOUDEST_FLOOR = -35.0  # dB re full scale: a stream that begins with speech has no noise to show
_QUIETEST = -65.0  # dB: below that there is nothing to hear


class EnergyGate:
    """Tracks the noise floor; causal, so that a stream and a file give the same.

    Args:
        margin: dB over the noise floor.
    """

    def __init__(self, margin: float = 6.0):
        self._margin = margin
        self._levels = np.zeros(0)
        self._rest = np.zeros(0, dtype=np.float32)

    def push(self, wav: np.ndarray) -> np.ndarray:
        """Judge the frames that `wav` completes.

        Args:
            wav: (samples,) float32 at 16 kHz, any number of them.

        Returns:
            (frames,) bool.
        """
        wav = np.concatenate([self._rest, wav])
        count = len(wav) // FRAME
        self._rest = wav[count * FRAME :]
        if not count:
            return np.zeros(0, dtype=bool)
        frames = wav[: count * FRAME].reshape(count, FRAME).astype(np.float64)
        power = frames.var(axis=1)  # a constant offset is no sound
        new = 10 * np.log10(power + 1e-12)
        before = len(self._levels)
        levels = np.concatenate([self._levels, new])
        active = np.zeros(count, dtype=bool)
        for index in range(count):
            here = before + index
            recent = levels[max(0, here + 1 - _MEMORY) : here + 1]
            place = len(recent) * _QUANTILE // 100
            floor = min(np.partition(recent, place)[place], _LOUDEST_FLOOR)
            active[index] = levels[here] > max(floor + self._margin, _QUIETEST)
        self._levels = levels[-(_MEMORY - 1) :]
        return active


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

    A label's score must reach `threshold`; the highest within `patience` steps after it wins
    over all labels. Then nothing is said until `refractory` steps after that peak, and the same
    label again only once its score has fallen below `release * threshold` in between.

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


_FEWEST_ACTIVE = 5  # active frames (of 20 ms) that make a window worth embedding


@dataclass(frozen=True)
class Event:
    """A keyword that was heard.

    Attributes:
        start: in seconds from the beginning of the stream.
        end: in seconds.
        label: the text.
        score: 0 to 1.
        decided: how much of the stream had been heard when it was decided, in seconds.
    """

    start: float
    end: float
    label: str
    score: float
    decided: float


@dataclass(frozen=True)
class Options:
    """How to listen.

    Attributes:
        window: seconds that are classified at a time; about the longest keyword.
        hop: seconds from one window to the next, a multiple of 0.02.
        threshold: 0 to 1; higher gives fewer events, and fewer wrong ones.
        gate: dB over the noise below which nothing is computed; below 0: everything is.
        smooth: seconds over which scores are averaged.
        patience: seconds for which a higher score is waited for.
        refractory: seconds for which nothing else is heard after a word.
    """

    window: float = 1.0
    hop: float = 0.2
    threshold: float = 0.5
    gate: float = 6.0
    smooth: float = 0.6
    patience: float = 0.2
    refractory: float = 0.6

    def __post_init__(self) -> None:
        if not 0.02 <= self.hop <= self.window <= 30:
            raise UserError(
                f"window {self.window:g}, hop {self.hop:g}: 0.02 <= hop <= window <= 30 s must hold"
            )
        if not 0 < self.threshold < 1:
            raise UserError(f"threshold: {self.threshold:g} is not between 0 and 1")

    def steps(self, seconds: float) -> int:
        """Seconds as a number of hops, at least one."""
        return max(1, round(seconds / self.hop))


class Listener:
    """Feed audio with `push` in blocks of any size; the events do not depend on them.

    Each window is embedded as if it were a clip by itself, which is what the model was trained
    on; windows in which nothing stands out of the noise are not embedded at all.

    Args:
        aligner: the model.
        scorer: the labels.
        options: how to listen.
        batch: windows embedded together, at most.
    """

    def __init__(
        self, aligner: Aligner, scorer: Scorer, options: Options | None = None, *, batch: int = 16
    ):
        self.options = options or Options()
        self._aligner, self._scorer, self._batch = aligner, scorer, batch
        self._hop = max(1, round(self.options.hop * SAMPLE_RATE / FRAME))  # in frames
        self._window = max(1, round(self.options.window * SAMPLE_RATE / FRAME))
        steps = self.options.steps
        self._detector = Detector(
            len(scorer.labels),
            self.options.threshold,
            smooth=steps(self.options.smooth) // 2 * 2 + 1,
            patience=steps(self.options.patience),
            refractory=steps(self.options.refractory),
        )
        self._gate = EnergyGate(self.options.gate)
        # Half a window of silence before the stream, so that a word at its beginning is in the
        # middle of one; frame numbers count from there.
        self._lead = self._window // 2
        self._wav = np.zeros(self._lead * FRAME, dtype=np.float32)  # from frame self._first on
        self._active = np.zeros(self._lead, dtype=bool)  # from frame self._first on
        self._first = 0
        self._next = 0  # the step (window) to come
        self._spans: dict[int, tuple[int, int]] = {}  # step -> first and last active frame
        self.embedded = 0
        """Windows that went through the encoder."""

    def push(self, wav: np.ndarray) -> list[Event]:
        """Listen on.

        Args:
            wav: (samples,) float32 at 16 kHz.

        Returns:
            The events that this decides, in order.
        """
        wav = np.asarray(wav, dtype=np.float32)
        self._wav = np.concatenate([self._wav, wav])
        self._active = np.concatenate([self._active, self._gate.push(wav)])
        return self._work()

    def finish(self) -> list[Event]:
        """The stream has ended: decide what was waited for."""
        # The last windows reach beyond the end, as they would if silence followed.
        events = self.push(np.zeros((self._window + 1) * FRAME, dtype=np.float32))
        return events + [self._event(peak, self._next - 1) for peak in self._detector.finish()]

    def _work(self) -> list[Event]:
        events: list[Event] = []
        while True:
            ready = (self._first + len(self._active) - self._window) // self._hop + 1 - self._next
            if ready <= 0:
                return events
            steps = range(self._next, self._next + min(ready, self._batch))
            scores = self._scores(steps)
            for step, row in zip(steps, scores, strict=True):
                peak = self._detector.push(row)
                if peak:
                    events.append(self._event(peak, step))
            self._next = steps[-1] + 1
            self._forget()

    def _scores(self, steps: range) -> np.ndarray:
        """(steps, labels); zero where the gate is closed."""
        result = np.zeros((len(steps), len(self._scorer.labels)))
        rows, waves = [], []
        for row, step in enumerate(steps):
            begin = step * self._hop - self._first
            active = np.flatnonzero(self._active[begin : begin + self._window])
            if self.options.gate < 0 or len(active) >= _FEWEST_ACTIVE:
                first, last = (active[0], active[-1]) if len(active) else (0, self._window - 1)
                self._spans[step] = (self._first + begin + first, self._first + begin + last)
                rows.append(row)
                waves.append(self._wav[begin * FRAME : (begin + self._window) * FRAME])
        if waves:
            self.embedded += len(waves)
            result[rows] = self._scorer(self._aligner.encode_speech(waves))
        return result

    def _event(self, peak: Peak, step: int) -> Event:
        default = (peak.step * self._hop, peak.step * self._hop + self._window - 1)
        first, last = self._spans.get(peak.step, default)
        second = SAMPLE_RATE / FRAME
        decided = (step * self._hop + self._window - self._lead) / second
        return Event(
            start=round(float(first - self._lead) / second, 2),
            end=round(float(last + 1 - self._lead) / second, 2),
            label=self._scorer.labels[peak.label],
            score=round(peak.score, 4),
            decided=round(decided, 2),
        )

    def _forget(self) -> None:
        """Keep only what windows to come need."""
        drop = min(self._next * self._hop - self._first, len(self._active))
        if drop > 0:
            self._wav = self._wav[drop * FRAME :]
            self._active = self._active[drop:]
            self._first += drop
        old = self._next - 4 * self._window // self._hop - 64
        for step in [s for s in self._spans if s < old]:
            del self._spans[step]


def listen(
    aligner: Aligner,
    blocks: Iterable[np.ndarray],
    labels: Sequence[str],
    options: Options | None = None,
    templates: Sequence[str] = ("{}",),
) -> Iterator[Event]:
    """Spot keywords in blocks of audio, as they come.

    Args:
        aligner: the model.
        blocks: (samples,) float32 at 16 kHz each, of any size.
        labels: the words to listen for.
        options: how to listen.
        templates: sentences with one `{}` to put a label into.
    """
    listener = Listener(aligner, Scorer(aligner, labels, templates), options)
    for block in blocks:
        yield from listener.push(block)
    yield from listener.finish()
