"""Making clean speech sound as if a phone or laptop had recorded it somewhere.

Every operation is drawn from a generator seeded by (seed, key, copy, operation): the same utterance
and copy always sound the same, in any order, process or worker, and switching one operation on or
off leaves the others as they were. Copy 0 is always the clean one.

In the order of the signal path: `speed` (played faster or slower, which moves the pitch too:
resampling, no vocoder), `pad` (silence around it), `reverb` (a made room), `tilt` (a bright
or dull microphone), `noise`, `band` (a narrow channel), `mulaw` (telephone coding), `clip`
(overload), `gain`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from speechcwcl.data import effects
from speechcwcl.data.audio import load_audio
from speechcwcl.errors import UserError, closest
from speechcwcl.files import sha256_json

DEFAULTS: dict[str, dict[str, Any]] = {
    "speed": {"prob": 0.5, "range": [0.85, 1.15]},
    "pad": {"prob": 0.5, "range": [0.0, 0.5]},
    "reverb": {"prob": 0.5, "range": [0.1, 0.6], "direct_db": [-3.0, 12.0]},
    "tilt": {"prob": 0.3, "range": [-3.0, 3.0]},
    "noise": {
        "prob": 0.7,
        "range": [5.0, 30.0],
        "kinds": {"white": 1.0, "pink": 1.0, "brown": 1.0, "hum": 0.5, "file": 1.0},
        "files": [],
    },
    "band": {"prob": 0.3, "low": [50.0, 300.0], "high": [3000.0, 7000.0]},
    "mulaw": {"prob": 0.1},
    "clip": {"prob": 0.1, "range": [0.3, 0.9]},
    "gain": {"prob": 0.8, "range": [-20.0, 0.0]},
}
"""Every operation with its keys.

`prob` is how often it happens. `range` is: of `speed` a factor; of `pad` seconds at each
end; of `reverb` RT60 in seconds (`direct_db`: direct sound above the reverberation, dB); of
`tilt` dB per octave around 1 kHz; of `noise` the signal-to-noise ratio in dB (`kinds`:
weights; `files`: recordings for the kind `file`); of `clip` the level, as a part of the peak,
at which it clips; of `gain` the peak in dB below full scale. `low` and `high` of `band` are
its edges in Hz.
"""

_LIMITS: dict[tuple[str, str], tuple[float, float]] = {
    ("speed", "range"): (0.5, 2.0),
    ("pad", "range"): (0.0, 10.0),
    ("reverb", "range"): (0.02, 3.0),
    ("reverb", "direct_db"): (-30.0, 60.0),
    ("tilt", "range"): (-12.0, 12.0),
    ("noise", "range"): (-20.0, 100.0),
    ("band", "low"): (1.0, 2000.0),
    ("band", "high"): (2001.0, 8000.0),
    ("clip", "range"): (0.01, 1.0),
    ("gain", "range"): (-60.0, 0.0),
}


_EFFECTS: dict[str, Callable[..., np.ndarray]] = {
    "speed": effects.change_speed,
    "tilt": effects.tilt,
    "band": effects.band,
    "mulaw": effects.mulaw,
    "clip": effects.clip,
    "gain": effects.set_peak,
}


class Augmenter:
    """Deterministic waveform augmentation.

    Args:
        config: operation -> its keys (those left out keep `DEFAULTS`; `True` is all of
            them); operations left out, or `False`, are off. None is all of the defaults.
        seed: another seed, other draws.

    Attributes:
        config: with every default filled in; JSON-able.
        hash: sha256 of config and seed, for cache keys.

    Raises:
        UserError: an unknown operation or key, or a value out of range.

    Examples:
        >>> augment = Augmenter({"noise": {"prob": 1.0, "range": [5, 30]}}, seed=1)
        >>> noisy = augment(np.zeros(16000, np.float32), "utt1", copy=1)
    """

    def __init__(self, config: Mapping[str, Any] | None = None, seed: int = 0) -> None:
        self.config = check_config(DEFAULTS if config is None else config)
        self.seed = seed
        self.hash = sha256_json({"config": self.config, "seed": seed})

    def __call__(self, wav: np.ndarray, key: str, copy: int = 1) -> np.ndarray:
        """Augment one utterance.

        Args:
            wav: `(samples,)` float32 at 16 kHz.
            copy: which variant; 0 returns `wav` as it is.

        Returns:
            `(other samples,)` float32 within -1..1.
        """
        if copy == 0:
            return wav
        out = np.array(wav, dtype=np.float32)  # never the caller's
        for name, options in self.config.items() if len(out) else ():
            seed = hashlib.sha256(f"{self.seed}|{key}|{copy}|{name}".encode()).digest()
            rng = np.random.default_rng(list(seed))
            if rng.random() < options["prob"]:
                out = self._changed(name, out, options, rng)
        peak = float(np.abs(out).max(initial=0.0))
        return out if peak <= 1 else out / np.float32(peak)

    def _changed(
        self, name: str, wav: np.ndarray, options: dict[str, Any], rng: np.random.Generator
    ) -> np.ndarray:
        """One operation; the numbers are drawn in the order of the effect's arguments."""
        if name == "noise":
            return self._noise(wav, options, rng)
        if name == "pad":
            return effects.pad(wav, rng.uniform(*options["range"]), rng.uniform(*options["range"]))
        drawn = [rng.uniform(*value) for key, value in options.items() if key != "prob"]
        if name == "reverb":
            return effects.reverberate(wav, drawn[0], drawn[1], rng)
        return _EFFECTS[name](wav, *drawn)

    def _noise(self, wav: np.ndarray, options: dict, rng: np.random.Generator) -> np.ndarray:
        snr = rng.uniform(*options["range"])
        kinds = {name: weight for name, weight in options["kinds"].items() if weight > 0}
        if not options["files"]:
            kinds.pop("file", None)
        if not kinds:
            return wav
        weights = np.array(list(kinds.values()), dtype=float)
        kind = list(kinds)[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        exponents = {"white": 0.0, "pink": 1.0, "brown": 2.0}
        if kind in exponents:
            noise = effects.coloured_noise(len(wav), exponents[kind], rng)
        elif kind == "hum":
            noise = effects.hum(len(wav), rng)
        else:
            path = options["files"][int(rng.integers(len(options["files"])))]
            noise = effects.excerpt(_decoded(path), len(wav), rng)
        return effects.add_noise(wav, noise, snr)


@functools.lru_cache(maxsize=64)
def _decoded(path: str) -> np.ndarray:
    return load_audio(path)


def check_config(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Fill in the defaults of the operations that are on."""
    _refuse_unknown("augmentation", "operation", config, DEFAULTS)
    full = {}
    for name, defaults in DEFAULTS.items():
        given = config.get(name, False)
        if given is not False and given is not None:
            given = {} if given is True else given
            _refuse_unknown(f"augmentation: {name}", "key", given, defaults)
            pairs = ((key, given.get(key, default)) for key, default in defaults.items())
            full[name] = {key: _checked(name, key, value) for key, value in pairs}
    return full


def _refuse_unknown(where: str, what: str, given: Any, known: Mapping[str, Any]) -> None:
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: a mapping of {what}s expected, not {given!r}")
    for key in given:
        if key not in known:
            near, there = closest(key, known), ", ".join(known)
            raise UserError(f"{where}: no {what} {key!r}{near}; there are {there}")


def _checked(name: str, key: str, value: Any) -> Any:
    """One value in its plain form, or a UserError."""
    where = f"augmentation: {name}: {key}"
    if key == "prob":
        return _number(where, value, 0.0, 1.0)
    if key == "files":
        if isinstance(value, str) or not all(isinstance(path, str) for path in value):
            raise UserError(f"{where}: a list of audio files expected, not {value!r}")
        return list(value)
    if key == "kinds":
        value = dict.fromkeys(value, 1.0) if isinstance(value, (list, tuple)) else value
        _refuse_unknown(where, "kind", value, DEFAULTS["noise"]["kinds"])
        return {kind: _number(f"{where}: {kind}", w, 0.0, 1e9) for kind, w in value.items()}
    low, high = _LIMITS[name, key]
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise UserError(f"{where}: two numbers [lowest, highest] expected, not {value!r}")
    pair = [_number(where, number, low, high) for number in value]
    if pair[0] > pair[1]:
        raise UserError(f"{where}: {pair[0]:g} is above {pair[1]:g}; write the lower one first")
    return pair


def _number(where: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f"{where}: a number from {low:g} to {high:g} expected, not {value!r}")
    return float(value)
