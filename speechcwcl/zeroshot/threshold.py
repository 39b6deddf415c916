"""When to answer "unknown": a threshold on the best label's cosine, set on negatives.

A recording that says none of the labels still has a best label. Its cosine tells said labels from
other words better than the softmax score or the lead over the second label does (section "Unknown"
of tools/benchmarks/README.md).

The threshold is the cosine that at most a share `far` (false accept rate) of the negatives
reaches: the `ceil((n + 1) (1 - far))`-th smallest best cosine of `n` negatives, for each kind
of them, and the highest of these. For a further recording like the negatives the expected false
accept rate is then at most `far`.

The best negatives are the user's own: recordings of the place and the voices that say none of the
labels. Without them there are two surrogates: noises, and the recordings at hand played backwards,
which have the voice, the room and the microphone, and say nothing. These make it stricter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechcwcl.data.audio import SAMPLE_RATE, load_audio
from speechcwcl.errors import UserError, require
from speechcwcl.files import read_json, write_json
from speechcwcl.zeroshot.classifier import Labels, split_labels

FORMAT = "speechcwcl-threshold"
NOISES = 80
# A model kept in another precision moves cosines by less, another model by more.
_PROBE_TOLERANCE = 0.01
# Below so many recordings, each is played backwards at three speeds.
_FEW = 60


@dataclass(frozen=True)
class Threshold:
    """A calibrated threshold; good for one model and one list of labels.

    Attributes:
        cosine: what the best label must reach.
        far: the false accept rate aimed at.
        negatives: kind -> `{"n", "threshold", "accepted"}`; `accepted` is the share of these
            negatives at or above `cosine`.
        labels: the names.
        templates: as used.
        probe: (labels,) cosines of a made sound with the labels: they tell model and wording.
    """

    cosine: float
    far: float
    negatives: dict[str, dict[str, float]]
    labels: list[str]
    templates: list[str]
    probe: list[float]

    @classmethod
    def fit(
        cls,
        model: Any,
        names: Sequence[str],
        rows: np.ndarray,
        templates: Sequence[str],
        best: Mapping[str, np.ndarray],
        far: float = 0.05,
    ) -> Threshold:
        """Set the threshold.

        Args:
            model: an aligner, or anything with its `encode_speech`.
            names: of the labels.
            rows: (labels, dim) of `encode_labels`.
            templates: for the record.
            best: kind of negatives -> (n,) their best cosines ([`best_cosines`][]).
            far: false accept rate to aim at.

        Raises:
            UserError: `far` is no share, or too few negatives to tell.
        """
        require(0 < far < 1, f"far: {far} is not between 0 and 1, such as 0.05")
        least = math.ceil((1 - far) / far)
        cuts = {}
        for kind, cosines in best.items():
            if len(cosines) < least:
                raise UserError(
                    f"{len(cosines)} negatives ({kind}): a false accept rate of {far:g} needs at "
                    f"least {least}; give more, or a higher --far"
                )
            place = math.ceil((len(cosines) + 1) * (1 - far))
            cuts[kind] = float(np.nextafter(np.sort(cosines)[place - 1], np.float32(2)))
        cosine = max(cuts.values())
        shares = {
            kind: {
                "n": len(cosines),
                "threshold": round(cuts[kind], 6),
                "accepted": round(float(np.mean(cosines >= cosine)), 6),
            }
            for kind, cosines in best.items()
        }
        return cls(cosine, far, shares, list(names), list(templates), _probe(model, rows))

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_json(path, {"format": FORMAT, "version": 1, **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> Threshold:
        """Read a file of [`save`][].

        Raises:
            UserError: it is no such file.
        """
        value = read_json(path)
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise UserError(
                f"{path}: not a threshold file; `speechcwcl classify --calibrate` writes one"
            )
        version = value.pop("version", None)
        if version != 1:
            raise UserError(f"{path}: version {version}, this speechcwcl reads 1; calibrate again")
        try:
            found = cls(**value)
            whole = math.isfinite(found.cosine) and len(found.probe) == len(found.labels)
        except TypeError as error:
            raise UserError(f"{path}: not as expected: {error}; calibrate again") from error
        require(whole, f"{path}: not as expected; calibrate again")
        return found

    def check(self, model: Any, names: Sequence[str], rows: np.ndarray) -> float:
        """The cosine, if model, labels and wording are those that it was set for.

        Raises:
            UserError: they are not.
        """
        if sorted(names) != sorted(self.labels):
            extra = sorted(set(names) ^ set(self.labels))
            raise UserError(
                f"the threshold was set for other labels ({extra[0]!r} differs); it depends on all "
                "of them: calibrate again"
            )
        before = dict(zip(self.labels, self.probe, strict=True))
        now = dict(zip(names, _probe(model, rows), strict=True))
        if max(abs(before[name] - now[name]) for name in names) > _PROBE_TOLERANCE:
            raise UserError(
                "the threshold was set for another model or other templates; calibrate again"
            )
        return self.cosine


def calibrate(
    model: Any,
    labels: Labels,
    templates: Sequence[str] = ("{}",),
    *,
    negatives: Iterable[Any] | None = None,
    recordings: Iterable[Any] = (),
    far: float = 0.05,
) -> Threshold:
    """Set a threshold from Python; the verb `classify --calibrate` does the same.

    Args:
        model: an aligner.
        labels: see `classify`.
        templates: see `classify`.
        negatives: recordings that say none of the labels (files or 16 kHz arrays).
        recordings: where there are none: recordings like those to come, to be played backwards.
        far: false accept rate to aim at.
    """
    names, texts = split_labels(labels)
    rows = model.encode_labels(texts, templates)
    if negatives is not None:
        best = {"negatives": best_cosines(model, list(negatives), rows)}
    else:
        wavs = [load_audio(item) if isinstance(item, str | Path) else item for item in recordings]
        require(bool(wavs), "calibrate: no negatives, and no recordings to take surrogates from")
        best = surrogate_negatives(model, wavs, rows)
    return Threshold.fit(model, names, rows, templates, best, far)


def surrogate_negatives(
    model: Any, recordings: Sequence[np.ndarray], rows: np.ndarray
) -> dict[str, np.ndarray]:
    """The best cosines of noises and of recordings played backwards, (n,) each."""
    return {
        "noise": best_cosines(model, noise_clips(), rows),
        "speech backwards": best_cosines(model, backwards(recordings), rows),
    }


def best_cosines(model: Any, audio: Sequence[Any], rows: np.ndarray) -> np.ndarray:
    """(recordings,) the highest cosine of each with any label."""
    return (model.encode_speech(audio) @ rows.T).max(axis=1) if len(audio) else np.zeros(0)


def noise_clips(count: int = NOISES, seed: int = 0) -> list[np.ndarray]:
    """Silence, white, pink and brown noise and hum, 0.5 to 2 s, at -60 to -15 dB."""
    from speechcwcl.data.effects import coloured_noise, hum  # scipy takes a second

    rng = np.random.default_rng(seed)
    noises = []
    for number in range(count):
        samples = int(rng.uniform(0.5, 2.0) * SAMPLE_RATE)
        kind = number % 5
        level = 10 ** (rng.uniform(-60, -15) / 20)
        if kind < 3:
            wav = coloured_noise(samples, kind, rng)
        elif kind == 3:
            wav = hum(samples, rng)
        else:
            wav = np.zeros(samples, dtype=np.float32)
        noises.append(np.clip(level * wav, -1, 1).astype(np.float32))
    return noises


def backwards(recordings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The recordings played backwards; at three speeds where there are few."""
    from speechcwcl.data.effects import change_speed  # scipy takes a second

    speeds = (1.0,) if len(recordings) >= _FEW else (1.0, 0.9, 1.1)
    turned = [np.ascontiguousarray(np.asarray(wav)[::-1]) for wav in recordings]
    return [change_speed(wav, speed) for speed in speeds for wav in turned]


def _probe(model: Any, rows: np.ndarray) -> list[float]:
    """Cosines of a hum with the labels: the same for the same model and wording only."""
    from speechcwcl.data.effects import hum  # scipy takes a second

    rng = np.random.default_rng(7)
    sound = 0.1 * hum(SAMPLE_RATE, rng) * np.hanning(SAMPLE_RATE).astype(np.float32)
    return [round(float(c), 4) for c in (model.encode_speech([sound]) @ rows.T)[0]]
