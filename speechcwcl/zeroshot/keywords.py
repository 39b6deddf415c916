"""Keywords: labels as vectors, from their words and from examples, and when none of them is said.

A label's vector is the weighted mean of its text's vector and that of its n examples: 1 to sqrt(n).
The text's may be that of its meaning or of its sound (`voices.speak`).
Cosines with it mean little by themselves: some words are near to everything, and some windows are.
So the cosines of a window with the nearest of some windows of ordinary speech (the cohort) count
against it, and what is left is measured by ordinary speech, whose tail is longer for some labels:

    s = cosine - SHARE * mean of the NEAREST largest cosines with the cohort,
    z = (s - mean) / tail,

where `tail` is how far the highest half per cent of ordinary speech is above its mean, half that of
the label and half that of all labels. Ordinary speech has a z of 0, its highest part about 1. In a
stream the mean over neighbouring windows counts: a word is heard in several, chance in one.

"None of them" is the answer where no label's z reaches a level: a threshold for each label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.errors import UserError, require
from speechcwcl.files import read_json, write_json
from speechcwcl.zeroshot.classifier import unit_rows

FORMAT = "speechcwcl-keywords"
MOST_EXAMPLES = 16
SHARE, NEAREST, COHORT = 0.3, 5, 1500  # chosen on the same streams, as all numbers here are
SMOOTH = 3  # windows on either side that count with one; of 0 to 4
TOP = 0.005  # of ordinary windows: the tail
TOO_NEAR = 0.95  # cosine of two labels that nothing could tell apart
# Measured on the validation streams of tools/make_spotting_sets.py, for the model in the box. One
# label gives 10 ** (RATE[0] - RATE[1] * z) false alarms an hour, and of single words cut out that
# are not its own 10 ** (FALSE[0] - FALSE[1] * z) reach a z. SURE: the z at which an event is as
# likely right as wrong, and the slope around it.
RATE = (3.09, 2.27)
FALSE = (-0.17, 1.84)
SURE = (1.20, 7.64)
_ABOVE = 1e-4  # more than the digits of a file change
_TAIL = 10  # false alarms that an extrapolation is made from


@dataclass(frozen=True)
class Keywords:
    """Labels to be told apart, and from ordinary speech; good for one model.

    Attributes:
        labels: their names.
        rows: (labels, dim) unit norm.
        model: the model's `identity`.
        mean, tail: (labels,) of the s that ordinary speech has with them: the mean of all, and by
            how much the mean of the highest is above it.
        examples: how many clips each was enrolled from.
        spoken: whether the texts stand for their sound, not for their meaning.
        level: the z that an answer must reach; None: the best label is always the answer.
        set_by: how the level was set: `{"by": ..., "target": ...}`.
        cohort: (windows, dim) of ordinary speech.
    """

    labels: list[str]
    rows: np.ndarray
    model: str
    mean: np.ndarray
    tail: np.ndarray
    examples: list[int] = field(default_factory=list)
    spoken: bool = False
    level: float | None = None
    set_by: dict[str, Any] = field(default_factory=dict)
    cohort: np.ndarray | None = field(default=None, repr=False, compare=False)

    @classmethod
    def against(
        cls, labels: Sequence[str], rows: np.ndarray, model: str, ordinary: np.ndarray, **more: Any
    ) -> Keywords:
        """Keywords that are told from ordinary speech.

        Args:
            labels: their names.
            rows: (labels, dim) unit norm.
            model: its identity.
            ordinary: (windows, dim) unit norm.
            **more: other attributes.
        """
        zero = np.zeros(len(labels))
        plain = cls(list(labels), rows, model, zero, zero + 1, **more).ready(ordinary)
        s = plain.z(ordinary)
        mean = s.mean(axis=0)
        highest = np.sort(s, axis=0)[-max(1, round(TOP * len(s))) :]
        return replace(plain, mean=mean, tail=highest.mean(axis=0) - mean + 1e-6)

    def check(self, model: Any) -> None:
        """Raise `UserError` where they are not of this model."""
        if self.model != model.identity:
            raise UserError(
                f"the keywords ({', '.join(self.labels[:3])}, ...) were enrolled with another "
                f"model ({self.model[:12]}, this one is {model.identity[:12]}); enrol them again"
            )

    def ready(self, ordinary: np.ndarray) -> Keywords:
        """The same with their cohort, which is not saved."""
        return replace(self, cohort=ordinary[:: max(1, len(ordinary) // COHORT)])

    def z(self, speech: np.ndarray) -> np.ndarray:
        """(n, dim) unit norm -> (n, labels): how far above ordinary speech."""
        s = speech @ self.rows.T - self._usual(speech)[:, None]
        return (s - self.mean) / self._unit

    def thresholds(self, speech: np.ndarray) -> np.ndarray | None:
        """(n, dim) -> (n, labels): the cosine that each label must reach; None without a level."""
        if self.level is None:
            return None
        return self.mean + self.level * self._unit + self._usual(speech)[:, None]

    @property
    def _unit(self) -> np.ndarray:
        """(labels,): the tails, drawn together, for some minutes of speech show them roughly."""
        return (self.tail + self.tail.mean()) / 2

    def _usual(self, speech: np.ndarray) -> np.ndarray:
        """(n,) the part of the cosines that ordinary speech would have too."""
        if self.cohort is None:
            raise UserError("keywords that were read from a file: open them by model.open_keywords")
        near = min(NEAREST, len(self.cohort))
        cosines = speech @ self.cohort.T
        return SHARE * np.partition(cosines, -near, axis=1)[:, -near:].mean(axis=1)

    def save(self, path: str | Path) -> None:
        """Write them as JSON, vectors included."""
        value = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "cohort"}
        for name, digits in (("rows", 8), ("mean", 9), ("tail", 9)):
            value[name] = np.round(np.asarray(value[name], dtype=float), digits).tolist()
        write_json(path, {"format": FORMAT, "version": 3, **value})

    @classmethod
    def load(cls, path: str | Path) -> Keywords:
        """Read a file of `save`.

        Raises:
            UserError: it is no such file, of a newer version, or damaged.
        """
        value = read_json(path)
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise UserError(f"{path}: not a file of keywords; `speechcwcl classify --save` does")
        version = value.pop("version", None)
        require(version == 3, f"{path}: version {version}, this speechcwcl reads 3; enrol again")
        try:
            for name in ("rows", "mean", "tail"):
                value[name] = np.array(value[name], dtype=np.float64)
            found = cls(**value)
            count = len(found.labels)
            shapes = [len(found.rows), *found.mean.shape, *found.tail.shape]
            whole = shapes == [count] * 3 and found.rows.ndim == 2 and count > 0
            whole = whole and all(isinstance(label, str) for label in found.labels)
            whole = whole and np.isfinite(found.rows).all() and bool((found.tail > 0).all())
            whole = whole and isinstance(found.model, str) and isinstance(found.set_by, dict)
            level = found.level
            whole = whole and (level is None or math.isfinite(level))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: not as expected: {error}; enrol again") from error
        require(bool(whole), f"{path}: not as expected; enrol again")
        return found


def smoothed(z: np.ndarray) -> np.ndarray:
    """(n, labels) of successive windows -> (n - 2 SMOOTH, labels): each with its neighbours.

    Where nothing is heard, -inf, the z of ordinary speech stands in a mean: 0.
    """
    quiet = np.isneginf(z)
    around = np.lib.stride_tricks.sliding_window_view(np.where(quiet, 0, z), 2 * SMOOTH + 1, axis=0)
    return np.where(quiet[SMOOTH:-SMOOTH], -np.inf, around.mean(axis=-1))


def join(texts: np.ndarray, examples: Sequence[np.ndarray | None]) -> np.ndarray:
    """(labels, dim) unit norm: each label's text and examples in one vector.

    Args:
        texts: (labels, dim) unit norm.
        examples: of each label (clips, dim) unit norm; None or empty: the text alone.
    """
    rows = np.array(texts, dtype=np.float64)
    for index, clips in enumerate(examples):
        if clips is not None and len(clips):
            mean = unit_rows(np.asarray(clips, dtype=np.float64).mean(axis=0))
            rows[index] += math.sqrt(len(clips)) * mean
    return unit_rows(rows)


def check_apart(
    labels: Sequence[str], rows: np.ndarray, examples: Sequence[np.ndarray | None]
) -> None:
    """Refuse labels that nothing could tell apart, by their examples or by their vectors.

    Raises:
        UserError: names the nearest two and says how near they are.
    """
    near = rows @ rows.T
    given = [i for i, clips in enumerate(examples) if clips is not None and len(clips)]
    if given:
        means = unit_rows(np.stack([np.mean(examples[i], axis=0) for i in given]))  # type: ignore[arg-type]
        near[np.ix_(given, given)] = np.maximum(near[np.ix_(given, given)], means @ means.T)
    np.fill_diagonal(near, -1)
    first, second = sorted(divmod(int(near.argmax()), len(labels)))
    if near[first, second] >= TOO_NEAR:
        raise UserError(
            f"labels {labels[first]!r} and {labels[second]!r} cannot be told apart: their cosine "
            f"is {near[first, second]:.3f}, {TOO_NEAR:g} and more are too near; word one "
            "differently, or give other examples"
        )


def level_of_share(far: float, labels: int, best: np.ndarray | None) -> float:
    """The level that at most a share of clips that say no label reaches, in expectation.

    The `ceil((n + 1) (1 - far))`-th smallest of `n`: for a further clip like them the expected
    false accept rate is at most `far`.

    Args:
        far: false accept rate to aim at.
        labels: how many there are.
        best: (clips,) the highest z of each clip; None: there are none, and the share is what
            `FALSE` says of single words.

    Raises:
        UserError: there are too few clips to tell.
    """
    if best is None:
        return (FALSE[0] + math.log10(labels / far)) / FALSE[1]
    least = math.ceil((1 - far) / far)
    if len(best) < least:
        raise UserError(
            f"{len(best)} negatives: a false accept rate of {far:g} needs at least {least}; give "
            "more, or a higher --far"
        )
    place = math.ceil((len(best) + 1) * (1 - far))
    return float(np.sort(best)[place - 1]) + _ABOVE


def level_of_rate(target: float, labels: int, peaks: np.ndarray, hours: float) -> float:
    """The level of so many false alarms an hour, of all labels together.

    Args:
        target: false alarms an hour.
        labels: how many are listened for.
        peaks: (n,) the z of all events in recordings that say no label.
        hours: how long the recordings are; 0: there are none, and the rate of ordinary speech is
            what `RATE` says.

    Raises:
        UserError: too few events in them to tell.
    """
    if hours == 0:
        return (RATE[0] + math.log10(labels / target)) / RATE[1]
    count = max(_TAIL, math.floor(target * hours))
    require(
        len(peaks) > count,
        f"the negatives last {60 * hours:.1f} minutes and hold {len(peaks)} stretches of speech; "
        f"more than {count} are needed to set a rate: give more, or leave them out",
    )
    # Beyond so many, the tail is taken for exponential: its mean excess tells how it goes on. That
    # mean is uncertain, and errors towards a low level cost more false alarms than the others save:
    # not count * log(ratio), but this multiple makes the expected rate the target.
    highest = np.sort(peaks)[::-1][: count + 1]
    excess = float((highest[:count] - highest[count]).mean())
    ratio = (count + 1) / (target * hours)
    level = highest[count] + excess * count * (ratio ** (1 / count) - 1)
    return float(np.nextafter(level, np.inf))


def confidence(z: np.ndarray | float) -> np.ndarray:
    """0 to 1: how likely an event of this z is right, if right and wrong ones are as many."""
    return 1 / (1 + np.exp(-SURE[1] * (np.asarray(z, dtype=np.float64) - SURE[0])))


def level_of_confidence(score: float) -> float:
    """The z whose [`confidence`][] is the score.

    Raises:
        UserError: it is not between 0 and 1.
    """
    require(0 < score < 1, f"score: {score:g} is not between 0 and 1")
    return SURE[0] + math.log(score / (1 - score)) / SURE[1]
