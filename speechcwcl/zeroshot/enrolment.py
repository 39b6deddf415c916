"""Making `Keywords`: texts, texts as they sound, own examples, own negatives."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from speechcwcl.data.audio import SAMPLE_RATE, load_audio
from speechcwcl.data.audio.recordings import audio_files
from speechcwcl.errors import UserError, closest, require
from speechcwcl.files import atomic_path, cache_folder, sha256_json
from speechcwcl.zeroshot.classifier import PLAIN, Labels, class_vectors, split_labels, unit_rows
from speechcwcl.zeroshot.grid import GRID
from speechcwcl.zeroshot.keywords import (
    MOST_EXAMPLES,
    Keywords,
    check_apart,
    join,
    level_of_rate,
    level_of_share,
)
from speechcwcl.zeroshot.spotting import embed_stream, heard_in, possible_events
from speechcwcl.zeroshot.voices import speak

# Synthetic words and sentences of the mini corpus, by two voices; Apache-2.0 (egs/mini/corpus).
BACKGROUND = Path(__file__).resolve().parents[1] / "assets/background"
_SECONDS = 150.0  # of each voice
Examples = Mapping[str, Sequence[Any]]


def enrol(
    model: Any,
    labels: Labels | None = None,
    examples: str | Path | Examples | None = None,
    templates: Sequence[str] = PLAIN,
    *,
    spoken: bool = False,
    negatives: Iterable[Any] | None = None,
    false_alarms_per_hour: float | None = None,
    far: float | None = None,
) -> Keywords:
    """Make keywords; a method of each model.

    Args:
        model: embeds texts, clips and windows.
        labels: see `classify`; left out: those of the examples.
        examples: a folder with a folder of 1 to 16 clips for each label, or label -> clips (files
            or arrays at 16 kHz). A label may have none.
        templates: see `classify`.
        spoken: labels as they sound in place of what they mean: spoken by the synthetic voices that
            are installed (`voices.speak`); for names.
        negatives: recordings that say none of the labels, of any length; left out: what comes with
            the package.
        false_alarms_per_hour: aim at so many, of all labels together.
        far: aim at this share of negative clips that get a label, instead.

    Raises:
        UserError: a clip that cannot be read, a label without clips or with too many, two labels
            that cannot be told apart, too few negatives.
    """
    rate = false_alarms_per_hour
    _check_aim(rate, far)
    aimless = negatives is not None and far is None and rate is None
    require(not aimless, "negatives: say what to aim at, false alarms an hour or far")
    clips = read_examples(examples) if isinstance(examples, str | Path) else dict(examples or {})
    names, texts = split_labels(list(clips) if labels is None else labels)
    for name, given in clips.items():
        require(name in names, f"examples of {name!r}: no such label{closest(name, names)}")
        require(len(given) > 0, f"examples of {name!r}: no clip")
    heard = {name: [clip_vector(model, clip) for clip in given] for name, given in clips.items()}
    vectors = [np.stack(heard[name]) if name in heard else None for name in names]
    encode = partial(encode_spoken, model) if spoken else model.encode_text
    rows = join(class_vectors(texts, encode, templates), vectors)
    check_apart(names, rows, vectors)
    counts = [0 if v is None else len(v) for v in vectors]
    more = {"examples": counts, "spoken": spoken}
    made = Keywords.against(names, rows, model.identity, background_of(model), **more)
    if far is None and rate is None:
        return made
    level, by = _level(model, made, negatives, rate, far)
    return replace(made, level=level, set_by=by)


def encode_spoken(model: Any, texts: Sequence[str]) -> np.ndarray:
    """(texts, dim) unit norm of texts as they sound; each engine of `voices.speak` counts alike.

    Raises:
        UserError: see `voices.speak`.
    """
    rows = []
    for text in tqdm(
        texts, desc="speak", unit="text", disable=not sys.stderr.isatty(), leave=False
    ):
        means = [
            unit_rows(np.mean([clip_vector(model, clip) for clip in clips], axis=0))
            for clips in speak(text)
        ]
        rows.append(unit_rows(np.sum(means, axis=0)))
    return np.stack(rows)


def _check_aim(rate: float | None, far: float | None) -> None:
    require(far is None or rate is None, "far and false alarms an hour: give one")
    require(far is None or 0 < far < 1, f"far: {far} is not between 0 and 1, such as 0.05")
    require(rate is None or rate > 0, f"false alarms an hour: {rate} is not above 0, such as 0.5")


def _level(
    model: Any,
    made: Keywords,
    negatives: Iterable[Any] | None,
    rate: float | None,
    far: float | None,
) -> tuple[float, dict[str, Any]]:
    """The level, and how it was set."""
    by = "ordinary speech" if negatives is None else "negatives"
    if far is not None:
        best = None
        if negatives is not None:
            best = made.z(model.encode_speech(list(negatives))).max(axis=1)
        level = level_of_share(far, len(made.labels), best)
        return level, {"by": by, "far": far} | ({} if best is None else {"clips": len(best)})
    assert rate is not None
    peaks, seconds = [], 0.0
    for item in negatives or ():
        wav = _samples(item)
        z = [part.z(made) for part in heard_in(model, wav)]
        peaks.append(possible_events(np.concatenate(z))[1].max(axis=1))
        seconds += len(wav) / SAMPLE_RATE
    level = level_of_rate(rate, len(made.labels), np.concatenate([*peaks, []]), seconds / 3600)
    measured = {"hours": round(seconds / 3600, 3)} if negatives is not None else {}
    return level, {"by": by, "false_alarms_per_hour": rate} | measured


def open_keywords(
    model: Any,
    keywords: Keywords | str | Path,
    false_alarms_per_hour: float | None = None,
    far: float | None = None,
) -> Keywords:
    """Read saved keywords for a model; a method of each model.

    Args:
        model: see [`enrol`][].
        keywords: a file of `Keywords.save`, or what was read from one.
        false_alarms_per_hour: other thresholds than theirs; see [`enrol`][].
        far: the same.

    Raises:
        UserError: no such file, or of another model.
    """
    _check_aim(false_alarms_per_hour, far)
    found = keywords if isinstance(keywords, Keywords) else Keywords.load(keywords)
    found.check(model)
    found = found.ready(background_of(model))
    if false_alarms_per_hour is None and far is None:
        return found
    level, by = _level(model, found, None, false_alarms_per_hour, far)
    return replace(found, level=level, set_by=by)


def read_examples(folder: str | Path) -> dict[str, list[str]]:
    """Label -> its clips, from a folder of folders; `_` in a folder's name is a blank.

    Raises:
        UserError: no such folder, no folder in it, one without audio, or with too many clips.
    """
    place = Path(folder)
    require(place.is_dir(), f"{folder}: no such folder of examples")
    inside = sorted(path for path in place.iterdir() if path.is_dir() and path.name[:1] != ".")
    require(bool(inside), f"{folder}: no folder in it; put the clips of each label into one")
    found = {}
    for path in inside:
        clips = list(audio_files(path))
        if len(clips) > MOST_EXAMPLES:
            raise UserError(f"{path}: {len(clips)} clips; at most {MOST_EXAMPLES} are enrolled")
        found[" ".join(path.name.replace("_", " ").split())] = clips
    return found


def clip_vector(model: Any, clip: Any) -> np.ndarray:
    """(dim,) unit norm of an example: the windows around the middle of what is loud in it, as they
    will be heard in a stream."""
    wav = _samples(clip)
    first, last = loud_part(wav)
    middle = (first + last) // 2
    # The window in the middle of a block has speech or silence around it, as the clip has.
    half = GRID.block_samples // 2
    padded = np.pad(wav, half)
    block = padded[middle : middle + GRID.block_samples]
    centre = (GRID.block_samples / 2 - GRID.length * SAMPLE_RATE / 2) / GRID.step_samples
    rows = model.encode_windows(np.ascontiguousarray(block[None]))[0]
    return unit_rows(rows[[int(centre), int(centre) + 1]].astype(np.float64).mean(axis=0))


def _samples(clip: Any) -> np.ndarray:
    """(samples,) float32 at 16 kHz of a file or an array."""
    return load_audio(clip) if isinstance(clip, str | Path) else np.asarray(clip, np.float32)


def loud_part(wav: np.ndarray) -> tuple[int, int]:
    """First and last sample of the stretch with the most energy, pauses below 0.3 s inside it."""
    frame, most = 320, 15
    count = max(1, len(wav) // frame)
    frames = np.resize(wav, count * frame).reshape(count, frame).astype(np.float64)
    power = 10 * np.log10(frames.var(axis=1) + 1e-10)
    least = min(max(power.max() - 25, np.quantile(power, 0.1) + 6), power.max() - 6)
    loud = np.flatnonzero(power >= least)
    parts = np.split(loud, np.flatnonzero(np.diff(loud) > most + 1) + 1)
    best = max(parts, key=lambda part: (10 ** (power[part] / 10)).sum())
    return int(best[0]) * frame, (int(best[-1]) + 1) * frame


def packed_background(model: Any) -> Path:
    """Where the package keeps ordinary speech of people as a model of the package hears it."""
    return BACKGROUND / f"{model.identity[:16]}.npz"


def background_of(model: Any) -> np.ndarray:
    """(windows, dim) float32 of ordinary speech.

    For a model of the package it is there (tools/box_background.py); another model hears the
    synthetic speech in the package, once.
    """
    packed = packed_background(model)
    if packed.exists():
        with np.load(packed, allow_pickle=False) as kept:
            return kept["rows"] * kept["scale"]
    key = [model.identity, getattr(model, "precision", ""), vars(GRID), _SECONDS]
    path = cache_folder() / "background" / f"{sha256_json(key)[:32]}.npy"
    try:
        rows = np.load(path, allow_pickle=False)
        if rows.ndim == 2 and rows.shape[1] == model.dim:
            return rows.astype(np.float32)
    except (OSError, ValueError):
        pass
    print("embedding ordinary speech for this model, once", file=sys.stderr, flush=True)
    most = round(_SECONDS * SAMPLE_RATE)
    spoken = [load_audio(file)[:most] for file in sorted(BACKGROUND.glob("*.ogg"))]
    rows = embed_stream(model, np.concatenate(spoken)).astype(np.float16)
    with atomic_path(path) as target, target.open("wb") as stream:
        np.save(stream, rows)
    return rows.astype(np.float32)
