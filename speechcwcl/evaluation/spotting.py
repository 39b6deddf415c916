"""How well keywords are found in long recordings: recall by false alarms an hour, latency.

A set is a data folder with segments: what is said when in long recordings. An utterance whose label
is one of the protocol's is an occurrence of it; the time of any other that has the label's words in
its text counts neither way for that label; the rest is ordinary speech, in which events are false
alarms. A protocol says so by `task: spotting`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from speechcwcl.data.audio import SAMPLE_RATE, audio_blocks
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.evaluation.metrics import accuracy_interval, reliability, short
from speechcwcl.files import atomic_path, sha256_json, write_json
from speechcwcl.zeroshot.enrolment import read_examples
from speechcwcl.zeroshot.grid import GRID
from speechcwcl.zeroshot.keywords import Keywords, confidence, level_of_rate
from speechcwcl.zeroshot.protocol import Protocol
from speechcwcl.zeroshot.spotting import FRAME, Heard, Windows, decided, possible_events

SPOTTING = "spotting.json"
TARGETS = (0.5, 1.0, 5.0, 10.0)  # false alarms an hour
TOLERANCE = 0.3  # seconds by which an event may miss the word and still be right
WAYS = {  # of listening
    "ordinary": "each alone, in ordinary speech",  # where no other label is said
    "alone": "each alone, among the others",
    "together": "all at once",
}
_POINTS = 60  # of a curve
_BY_LABEL = ("labels", "rows", "mean", "tail", "examples")


@dataclass(frozen=True)
class Recording:
    """A long recording: its embedded windows and what is said in it."""

    heard: Heard
    seconds: float
    said: list[Utterance]


@dataclass
class Found:
    """Events of some labels, judged.

    Attributes:
        right: (occurrences,) the highest z of an event of the label there; -inf: none.
        false: the z of all false alarms.
        hours: of ordinary speech, for one label.
        latency: seconds from the end of the word to the decision, of the right events.
        confused: which of `false` are where another label of the protocol is said; None: none.
        other: hours of that.
    """

    right: np.ndarray
    false: np.ndarray
    hours: float
    latency: np.ndarray
    confused: np.ndarray | None = None
    other: float = 0.0

    @property
    def ordinary(self) -> Found:
        """The same where no other label of the protocol is said."""
        kept = self.false if self.confused is None else self.false[~self.confused]
        return Found(self.right, kept, self.hours - self.other, self.latency)

    def level(self, target: float) -> float:
        """The lowest level with at most so many false alarms an hour."""
        allowed = int(np.floor(target * self.hours))
        ordered = np.sort(self.false)[::-1]
        return float(np.nextafter(ordered[allowed], np.inf)) if allowed < len(ordered) else -np.inf

    def at(self, level: float) -> tuple[np.ndarray, float]:
        """(occurrences,) found or not, and false alarms an hour, at a level."""
        found = (self.right >= level) & (self.right > -np.inf)
        return found, float((self.false >= level).sum() / max(self.hours, 1e-9))


def open_recordings(model: Any, utterances: Sequence[Utterance], cache: Path) -> list[Recording]:
    """Embed the windows of a set's recordings, or take them from `cache`."""
    by_file: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_file[utterance.audio].append(utterance)
    found = []
    for path in tqdm(by_file, desc="windows", unit="recording", disable=None):
        status = Path(path).stat()
        key = sha256_json([model.identity, path, status.st_size, status.st_mtime_ns, vars(GRID)])
        kept = cache / f"{key[:24]}.npz"
        if not kept.exists():
            windows, seconds = Windows(model), 0.0
            parts: list[Heard] = []
            for block in audio_blocks(path):
                parts += windows.push(block)
                seconds += len(block) / SAMPLE_RATE
            parts += windows.finish()
            with atomic_path(kept) as target, target.open("wb") as stream:
                np.savez(
                    stream,
                    seconds=seconds,
                    rows=np.concatenate([part.rows for part in parts]).astype(np.float16),
                    heard=np.concatenate([part.heard for part in parts]),
                    spans=np.concatenate([part.spans for part in parts]),
                )
        with np.load(kept, allow_pickle=False) as stored:
            rows = stored["rows"].astype(np.float32)
            heard = Heard(rows, stored["heard"], stored["spans"])
            found.append(Recording(heard, float(stored["seconds"]), by_file[path]))
    return found


def judge(recordings: Sequence[Recording], keywords: Keywords, protocol: Protocol) -> Found:
    """All events of the keywords, at any level, against what is said."""
    right, false, confused, latency, seconds, other = [], [], [], [], 0.0, 0.0
    texts = [protocol.labels[label] for label in keywords.labels]
    count = len(texts)
    said_by = [re.compile("|".join(rf"\b{re.escape(t)}\b" for t in some)) for some in texts]
    for recording in recordings:
        steps, z = possible_events(recording.heard.z(keywords))
        spans = recording.heard.spans[steps] * FRAME / SAMPLE_RATE
        middles, labels = spans.mean(axis=1), z.argmax(axis=1)
        neither, elsewhere = np.zeros((2, len(steps)), dtype=bool)
        for number, label in enumerate(keywords.labels):
            own = labels == number
            for utterance in recording.said:
                start, end = utterance.start or 0.0, utterance.end or recording.seconds
                near = own & (middles > start - TOLERANCE) & (middles < end + TOLERANCE)
                said, share = utterance.labels.get(protocol.label_field), (end - start) / count
                if said == label:
                    there = np.where(near, z[:, number], -np.inf)
                    right.append(there.max(initial=-np.inf))
                    if near.any():
                        best = there.argmax()
                        latency.append(decided(int(steps[best])) - spans[best, 1])
                elif said_by[number].search(utterance.text or ""):
                    seconds -= share
                else:
                    if said in protocol.labels:
                        elsewhere |= near
                        other += share
                    continue
                neither |= near
        seconds += recording.seconds
        false.append(z.max(axis=1)[~neither])
        confused.append(elsewhere[~neither])
    late = np.array(latency, dtype=float)
    alarms, wrong = np.concatenate(false), np.concatenate(confused)
    return Found(np.array(right), alarms, seconds / 3600, late, wrong, other / 3600)


def evaluate_spotting(
    model: Any,
    utterances: Sequence[Utterance],
    protocol: Protocol,
    out: Path,
    cache: Path,
    examples: str | Path | Mapping[str, Sequence[Any]] | None = None,
    spoken: bool = False,
) -> dict[str, Any]:
    """Score a protocol on a set of long recordings; write `out/spotting.json`.

    Args:
        model: embeds texts and windows.
        utterances: what is said when.
        protocol: labels, texts, templates.
        out: the score folder.
        cache: embedded windows are kept there.
        examples: to enrol from; see `speechcwcl.zeroshot.enrolment.enrol`.
        spoken: see there.

    Returns:
        What `spotting.json` holds: of each of `WAYS` `recall` at `TARGETS` false alarms an hour
        with its interval, and the curve; `set`: what thresholds do that were set without this set;
        `latency`; `reliability` of the scores.

    Raises:
        UserError: no occurrence of a label in the set.
    """
    if isinstance(examples, str | Path):  # one folder may serve several protocols
        found = read_examples(examples)
        examples = {label: found[label] for label in protocol.labels if label in found}
    keywords = model.enrol(protocol.labels, examples, protocol.templates, spoken=spoken)
    there = {u.labels.get(protocol.label_field) for u in utterances}
    missing = [label for label in protocol.ids if label not in there]
    if missing:
        raise UserError(f"no utterance has the label {missing[0]!r}: nothing to find")
    recordings = open_recordings(model, utterances, cache)
    each = [judge(recordings, only(keywords, i), protocol) for i in range(len(protocol.ids))]
    plain = [one.ordinary for one in each]
    both = judge(recordings, keywords, protocol)
    scores = {
        "kind": "spotting",
        "protocol": protocol.describe(),
        "model": model.identity,
        "examples": keywords.examples,
        "spoken": spoken,
        "n": len(both.right),
        "hours": short(sum(r.seconds for r in recordings) / 3600),
        "ordinary": _figures(plain),
        "alone": _figures(each),
        "together": _figures([both]),
        "set": [_as_set(target, plain, both) for target in TARGETS],
        "latency": _latency(both),
        "reliability": _reliability(both),
        "labels": dict(zip(protocol.ids, map(_recalls, each), strict=True)),
    }  # fmt: skip
    write_json(out / SPOTTING, scores)
    return scores


def _recalls(found: Found) -> list[float]:
    return [short(found.at(found.level(target))[0].mean()) for target in TARGETS]


def _latency(found: Found) -> dict[str, float | None]:
    quantiles = {"median": 0.5, "p95": 0.95}
    some = len(found.latency) > 0
    return {k: short(np.quantile(found.latency, q)) if some else None for k, q in quantiles.items()}


def only(keywords: Keywords, index: int) -> Keywords:
    """One label of them."""
    one = slice(index, index + 1)
    parts = {name: getattr(keywords, name)[one] for name in _BY_LABEL}
    return replace(keywords, **parts)


def _figures(found: Sequence[Found]) -> dict[str, Any]:
    """Recall at the targets, and the curve; over all occurrences, each detector at its level."""

    def hits(target: float) -> np.ndarray:
        return np.concatenate([one.at(one.level(target))[0] for one in found])

    recall = []
    for target in TARGETS:
        found_there = hits(target)
        low, high = accuracy_interval(found_there)
        mean = short(found_there.mean())
        recall.append({"per_hour": target, "recall": mean, "interval": [short(low), short(high)]})
    rates = np.geomspace(0.3, 100, _POINTS)
    missed = [1 - hits(rate).mean() for rate in rates]
    curve = {"per_hour": [short(r) for r in rates], "missed": [short(m) for m in missed]}
    return {"recall": recall, "curve": curve}


def _as_set(target: float, plain: Sequence[Found], both: Found) -> dict[str, float]:
    """Recall and false alarms an hour at the level that `--false_alarms_per_hour` would set."""
    alone = [one.at(level_of_rate(target, 1, np.zeros(0), 0.0)) for one in plain]
    hits, rate = both.at(level_of_rate(target, len(plain), np.zeros(0), 0.0))
    return {
        "target": target,
        "ordinary_recall": short(np.concatenate([hits for hits, _ in alone]).mean()),
        "ordinary_per_hour": short(np.mean([rate for _, rate in alone])),
        "together_recall": short(hits.mean()),
        "together_per_hour": short(rate),
    }


def _reliability(found: Found) -> list[dict[str, float]]:
    """Of the events; right and false ones weigh the same in all, as `confidence` has it."""
    z = np.concatenate([found.right[found.right > -np.inf], found.false])
    right = np.arange(len(z)) < len(z) - len(found.false)
    weight = np.where(right, 1.0, right.sum() / max(1, len(found.false)))
    return reliability(confidence(z), right, weight) if right.any() else []


def spotting_line(scores: dict[str, Any]) -> str:
    """The figures of `spotting.json` in one line."""
    parts = []
    for name in WAYS:
        figures = ", ".join(
            f"{100 * one['recall']:.1f} % at {one['per_hour']:g}" for one in scores[name]["recall"]
        )
        parts.append(f"{WAYS[name]} {figures}")
    return f"recall at false alarms an hour: {'; '.join(parts)}"
