"""Spotting keywords in a stream: an energy gate, windows, peaks of their scores, events.

A window is heard where something stands out of the noise. In each the label with the highest z
counts; an event is where that reaches the level and is higher than for a while before and than
right after. What rises further once an event is told is the same word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechcwcl.data.audio import SAMPLE_RATE
from speechcwcl.errors import UserError
from speechcwcl.zeroshot.grid import GRID
from speechcwcl.zeroshot.keywords import SMOOTH, Keywords, confidence, smoothed

FRAME = 320
"""Samples at 16 kHz in a frame of the gate: 20 ms."""
_MEMORY = 500  # frames (10 s) over which the noise is looked for
_QUANTILE = 10  # percent of them that are taken to be noise alone
_LOUDEST_FLOOR = -35.0  # dB re full scale: a stream that begins with speech has no noise to show
_QUIETEST = -65.0  # dB: below that there is nothing to hear
_FEWEST_ACTIVE = 5  # active frames that make a window worth hearing
APART = 5  # steps (0.8 s) within which one event is told
AFTER = 1  # steps that are waited for; waiting for 2, 3 or 5 finds as much on validation streams
_BEFORE, _BEHIND = APART + SMOOTH, AFTER + SMOOTH  # neighbours that a decision looks at
_BATCH = 8  # blocks embedded together, at most


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
class Heard:
    """The windows of some steps.

    Attributes:
        rows: (steps, dim) unit norm; zero where there is nothing to hear.
        heard: (steps,) bool.
        spans: (steps, 2) first and last active frame of each, counted from the stream's beginning.
    """

    rows: np.ndarray
    heard: np.ndarray
    spans: np.ndarray

    def z(self, keywords: Keywords) -> np.ndarray:
        """(steps, labels); -inf where there is nothing to hear."""
        z = keywords.z(self.rows)
        z[~self.heard] = -np.inf
        return z


class Windows:
    """Feed audio in blocks of any size, get embedded windows; they do not depend on the blocks.

    Args:
        model: anything with `encode_windows` and `dim`.
        gate: dB over the noise below which nothing is computed; below 0: everything is.
    """

    def __init__(self, model: Any, gate: float = 6.0):
        self._model, self._always = model, gate < 0
        self._gate = EnergyGate(max(gate, 0.0))
        # Half a window of silence before the stream, so that a word at its beginning is in the
        # middle of one.
        self._lead = round(GRID.length * SAMPLE_RATE / 2) // FRAME
        self._wav = np.zeros(self._lead * FRAME, dtype=np.float32)
        self._active = np.zeros(self._lead, dtype=bool)
        self._block = 0
        self.blocks = 0
        """Blocks that went through the encoder."""

    def push(self, wav: np.ndarray) -> Iterator[Heard]:
        """Take (samples,) float32 at 16 kHz; give the windows that are complete."""
        wav = np.asarray(wav, dtype=np.float32)
        self._wav = np.concatenate([self._wav, wav])
        self._active = np.concatenate([self._active, self._gate.push(wav)])
        size, hop = GRID.block_samples, GRID.hop_samples
        while len(self._active) * FRAME >= size:
            count = min(_BATCH, (len(self._active) * FRAME - size) // hop + 1)
            yield self._embed(count)
            self._wav = self._wav[count * hop :]
            self._active = self._active[count * hop // FRAME :]
            self._block += count

    def finish(self) -> Iterator[Heard]:
        """The last windows reach beyond the end, as they would if silence followed."""
        yield from self.push(np.zeros(GRID.block_samples, dtype=np.float32))

    def _embed(self, count: int) -> Heard:
        steps = count * GRID.places
        step, size = GRID.step_samples // FRAME, round(GRID.length * SAMPLE_RATE / FRAME)
        spans = np.zeros((steps, 2), dtype=np.int64)
        heard = np.zeros(steps, dtype=bool)
        base = self._block * GRID.hop_samples // FRAME - self._lead
        for index in range(steps):
            active = np.flatnonzero(self._active[index * step : index * step + size])
            heard[index] = self._always or len(active) >= _FEWEST_ACTIVE
            ends = (active[0], active[-1]) if len(active) else (0, size - 1)
            spans[index] = base + index * step + np.array(ends)
        rows = np.zeros((count, GRID.places, self._model.dim), dtype=np.float32)
        wanted = np.flatnonzero(heard.reshape(count, -1).any(axis=1))
        if len(wanted):
            starts = wanted * GRID.hop_samples
            blocks = [self._wav[at : at + GRID.block_samples] for at in starts]
            rows[wanted] = self._model.encode_windows(np.stack(blocks))
            self.blocks += len(wanted)
        rows = rows.reshape(steps, -1)
        rows[~heard] = 0
        return Heard(rows, heard, spans)


def embed_stream(model: Any, wav: np.ndarray) -> np.ndarray:
    """(windows, dim) float32 of the windows of a recording in which something is heard."""
    return np.concatenate([part.rows[part.heard] for part in heard_in(model, wav)])


def heard_in(model: Any, wav: np.ndarray) -> list[Heard]:
    """All windows of a recording, (samples,) float32 at 16 kHz."""
    windows = Windows(model)
    return [*windows.push(wav), *windows.finish()]


def peaks(values: np.ndarray, before: int = APART, after: int = AFTER) -> np.ndarray:
    """Where a value is above those before it and no lower than those after it.

    Args:
        values: (n,); -inf where there is nothing to hear.
        before: how many before it; the first so many are never a peak.
        after: how many after it; the last so many are never a peak.

    Returns:
        Positions, ascending.
    """
    if len(values) <= before + after:
        return np.zeros(0, dtype=np.int64)
    around = np.lib.stride_tricks.sliding_window_view(values, before + after + 1)
    here = around[:, before]
    best = (here > around[:, :before].max(axis=1)) & (here >= around.max(axis=1))
    return np.flatnonzero(best & (here > -np.inf)) + before


def _tops(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, labels) -> positions of events at any level, and their (events, labels); the first and
    last steps are only neighbours."""
    z = smoothed(z)
    at = peaks(z.max(axis=1))
    return at + SMOOTH, z[at]


def possible_events(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All events of a recording, at any level.

    Args:
        z: (steps, labels) of `Heard.z`.

    Returns:
        The steps, ascending; (events, labels) the z there, with the neighbours'.
    """
    nothing = np.full((_BEFORE, z.shape[1]), -np.inf)
    steps, there = _tops(np.concatenate([nothing, z, nothing[:_BEHIND]]))
    return steps - _BEFORE, there


def decided(step: int) -> float:
    """How much of a stream must have been heard to decide about a step, in seconds."""
    return ((step + _BEHIND) // GRID.places + 1) * GRID.hop + GRID.length / 2


@dataclass(frozen=True)
class Event:
    """A keyword that was heard.

    Attributes:
        start: in seconds from the beginning of the stream.
        end: in seconds.
        label: the text.
        score: 0 to 1; see [`confidence`][speechcwcl.zeroshot.keywords.confidence].
        z: how far above ordinary speech; see `speechcwcl.zeroshot.keywords`.
        decided: how much of the stream had been heard when it was decided, in seconds.
    """

    start: float
    end: float
    label: str
    score: float
    z: float
    decided: float


class Spotter:
    """Feed audio with `push` in blocks of any size; the events do not depend on them.

    Args:
        model: the model of the keywords.
        keywords: what to listen for.
        level: the z that an event must reach; None: the keywords' own.
        gate: see [`Windows`][].
        began: seconds that are added to the times of events.
    """

    def __init__(
        self,
        model: Any,
        keywords: Keywords,
        *,
        level: float | None = None,
        gate: float = 6.0,
        began: float = 0.0,
    ):
        level = keywords.level if level is None else level
        if level is None:
            raise UserError("the keywords have no threshold; say how many false alarms an hour")
        self.keywords, self._began, self._level = keywords, began, level
        self._windows = Windows(model, gate)
        kept = _BEFORE + _BEHIND
        self._z = np.full((kept, len(keywords.labels)), -np.inf)  # of the last steps
        self._spans = np.zeros((kept, 2), dtype=np.int64)
        self._first = -kept  # the step that the first of them is
        self._told = -APART - 1  # the step of the last event
        self._heard = 0  # samples

    @property
    def now(self) -> float:
        """Seconds of the stream until now."""
        return self._began + self._heard / SAMPLE_RATE

    def push(self, wav: np.ndarray) -> list[Event]:
        """Listen on: (samples,) float32 at 16 kHz; the events that this decides, in order."""
        self._heard += len(wav)
        return self._events(self._windows.push(wav))

    def finish(self) -> list[Event]:
        """The stream has ended: decide what was waited for."""
        events = self._events(self._windows.finish())
        nothing = np.full((_BEHIND, self._z.shape[1]), -np.inf)
        return events + self._decide(nothing, np.zeros((_BEHIND, 2), dtype=np.int64))

    def _events(self, found: Iterator[Heard]) -> list[Event]:
        events = []
        for part in found:
            events += self._decide(part.z(self.keywords), part.spans)
        return events

    def _decide(self, z: np.ndarray, spans: np.ndarray) -> list[Event]:
        """Events among the steps that now have all their neighbours."""
        self._z = np.concatenate([self._z, z])
        self._spans = np.concatenate([self._spans, spans])
        found = []
        for at, there in zip(*_tops(self._z), strict=True):
            if there.max() >= self._level and self._first + at - self._told > APART:
                self._told = self._first + at
                found.append(self._event(int(at), there))
        self._first += len(z)
        kept = _BEFORE + _BEHIND
        self._z, self._spans = self._z[-kept:], self._spans[-kept:]
        return found

    def _event(self, at: int, there: np.ndarray) -> Event:
        first, last = self._spans[at] * FRAME / SAMPLE_RATE
        label = int(there.argmax())
        z = float(there[label])
        return Event(
            start=round(self._began + max(0.0, float(first)), 2),
            end=round(self._began + float(last) + FRAME / SAMPLE_RATE, 2),
            label=self.keywords.labels[label],
            score=round(float(confidence(z)), 4),
            z=round(z, 3),
            decided=round(self._began + decided(self._first + at), 2),
        )
