"""A few recordings for the report: which ones to show, and their audio as a data address."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import soundfile

from speechcwcl.data.audio import SAMPLE_RATE, load_audio
from speechcwcl.errors import UserError
from speechcwcl.evaluation.results import ScoreFolder
from speechcwcl.report.runs import Test

LONGEST = 8.0  # seconds of a clip that are kept


@dataclass
class Clip:
    """One recording with what every run made of it.

    Attributes:
        id, text, label: the utterance, its words where known, its true label's text.
        kind: ``"right"``, ``"split"`` (the runs disagree) or ``"wrong"``.
        tops: run number -> the best labels as (text, cosine, is it the true one?).
        source: a ``data:`` address, or an empty string where the recording cannot be read.
        cut: is it longer than what is kept?
    """

    id: str
    text: str
    label: str
    kind: str
    tops: dict[int, list[tuple[str, float, bool]]]
    source: str = ""
    cut: bool = False


class Budget:
    """How many bytes of audio a report may still take."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, size: int) -> bool:
        """Is there room for so many bytes? If so, they are spent."""
        if size > self.left:
            return False
        self.left -= size
        return True


def choose_clips(test: Test, budget: Budget, each: int = 3) -> list[Clip]:
    """Up to ``each`` clips that all runs have right, that they disagree on, that none has right.

    The choice depends on the ids only (their hash), with a new class each time while there are
    any; it is the same for every order of the set.
    """
    by_run = {
        number: {row["id"]: row for row in folder.predictions}
        for number, folder in test.folders.items()
    }
    shared = set.intersection(*(set(rows) for rows in by_run.values()))
    ordered = sorted(shared, key=lambda name: sha256(name.encode()).digest())
    kinds: dict[str, list[str]] = {"right": [], "split": [], "wrong": []}
    for name in ordered:
        marks = [rows[name]["correct"] == "1" for rows in by_run.values()]
        kinds["right" if all(marks) else "split" if any(marks) else "wrong"].append(name)
    first = next(iter(by_run.values()))
    clips = []
    for kind, names in kinds.items():
        for name in _spread(names, {n: first[n]["label"] for n in names}, each):
            clips.append(_clip(test, name, kind, by_run, budget))
    return clips


def _spread(names: list[str], label: dict[str, str], count: int) -> Iterator[str]:
    """The first ``count`` names, no class twice before every class had its turn."""
    seen: set[str] = set()
    later = []
    for name in names:
        if count and label[name] not in seen:
            seen.add(label[name])
            count -= 1
            yield name
        else:
            later.append(name)
    yield from later[:count]


def _clip(
    test: Test, name: str, kind: str, by_run: dict[int, dict[str, dict[str, str]]], budget: Budget
) -> Clip:
    row = next(iter(by_run.values()))[name]
    tops = {
        number: _tops(test.folders[number], rows[name], row["label"])
        for number, rows in by_run.items()
    }
    clip = Clip(
        id=name,
        text=row.get("text", ""),
        label=test.first.label_texts.get(row["label"], row["label"]),
        kind=kind,
        tops=tops,
    )
    clip.source, clip.cut = embed_audio(row, budget)
    return clip


def _tops(
    folder: ScoreFolder, row: dict[str, str], true: str, count: int = 3
) -> list[tuple[str, float, bool]]:
    texts = folder.label_texts
    pairs = [(row["prediction"], row["score"])]
    pairs += [(row[f"top{n}"], row[f"score{n}"]) for n in range(2, count + 1) if f"top{n}" in row]
    return [(texts.get(label, label), float(score), label == true) for label, score in pairs]


def embed_audio(row: dict[str, str], budget: Budget) -> tuple[str, bool]:
    """The recording of a ``predictions.tsv`` row as FLAC in a ``data:`` address.

    Returns:
        (address, was it cut?); the address is empty where there is no recording or no room.
    """
    if not row.get("audio"):
        return "", False
    start = float(row["start"]) if row.get("start") else None
    end = float(row["end"]) if row.get("end") else None
    try:
        wav = load_audio(Path(row["audio"]), start, end)
    except UserError:
        return "", False  # moved or deleted since: the report shows the labels without a player
    longest = int(LONGEST * SAMPLE_RATE)
    address = audio_address(wav[:longest])
    return (address, len(wav) > longest) if budget.take(len(address)) else ("", False)


def audio_address(wav: np.ndarray) -> str:
    """(samples,) at 16 kHz as FLAC in a ``data:`` address, for a player inside a page."""
    stream = io.BytesIO()
    soundfile.write(stream, wav, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
