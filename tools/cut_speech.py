"""Real read sentences and what is cut from them: isolated words, phrases, stretches."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from align_words import WordAligner, plain_words
from mini_corpus.voices import rng_for
from tqdm import tqdm

from speechcwcl.data.kaldi import Utterance
from speechcwcl.files import read_json, write_json

# The four validation speakers of the LibriSpeech pack: two choose, two test.
VALID_SPEAKERS, TEST_SPEAKERS = ("19", "2136"), ("32", "6848")
SOURCES = ("librispeech_tc5_subset", "librispeech_tc5_rest", "ljspeech_part")
EDGE = 0.05  # seconds kept on both sides of a cut, at most half of the pause that is there
Word = list[Any]  # word, start, end


def sentences(data: Path) -> Iterator[Utterance]:
    """LibriSpeech and LJSpeech, with `labels["part"]`: train, valid or test.

    Of LJSpeech, which has one reader, a sixth of the recordings is held back, half of it for
    validation.
    """
    for name in SOURCES:
        with (data / name / "manifest.tsv").open(encoding="utf-8") as stream:
            for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
                path, speaker = data / row["path"], row.get("speaker") or "LJ"
                part = "train"
                if speaker in VALID_SPEAKERS or speaker in TEST_SPEAKERS:
                    part = "valid" if speaker in VALID_SPEAKERS else "test"
                elif speaker == "LJ":
                    draw = rng_for(0, "held back", path.stem).random()
                    part = "valid" if draw < 1 / 12 else "test" if draw < 1 / 6 else "train"
                text = " ".join(plain_words(row["text"]))
                yield Utterance(
                    path.stem, str(path), text, speaker, duration=float(row["seconds"]),
                    labels={"part": part},
                )  # fmt: skip


def alignments(utterances: list[Utterance], work: Path) -> dict[str, list[Word]]:
    """Word times of each sentence, by id; made once, kept in `work`."""
    path = work / "alignments.json"
    known: dict[str, list[Word]] = read_json(path) if path.exists() else {}
    missing = [u for u in utterances if u.id not in known]
    aligner = WordAligner() if missing else None
    for number, utterance in enumerate(tqdm(missing, desc="align", mininterval=10), 1):
        known[utterance.id] = [list(w) for w in aligner(utterance.load(), utterance.text)]
        if number % 100 == 0 or number == len(missing):
            write_json(path, known)
    return known


def cut(utterance: Utterance, words: list[Word], first: int, last: int) -> Utterance:
    """Words `first` to `last` (included) of an aligned sentence as an utterance."""
    before = words[first - 1][2] if first else 0.0
    after = words[last + 1][1] if last + 1 < len(words) else utterance.duration
    start = words[first][1] - min(EDGE, max(0.0, (words[first][1] - before) / 2) + 0.02)
    end = words[last][2] + min(EDGE, max(0.0, (after - words[last][2]) / 2) + 0.02)
    text = " ".join(word for word, _, _ in words[first : last + 1])
    return Utterance(
        f"{utterance.id}-{first:03d}-{last:03d}",
        utterance.audio,
        text,
        utterance.speaker,
        start=round(max(0.0, start), 3),
        end=round(min(end, utterance.duration), 3),
    )


def tight(utterance: Utterance) -> Utterance:
    """The same word cut close, as single words often are: up to 60 ms of it lost at each end."""
    rng = rng_for(0, "tight", utterance.id)
    start, end = (utterance.start or 0.0) + EDGE, (utterance.end or 0.0) - EDGE
    lost = min(0.06, (end - start) / 6)
    start, end = start + rng.uniform(-0.02, lost), end - rng.uniform(-0.02, lost)
    return replace(
        utterance,
        id=f"{utterance.id}-tight",
        start=round(max(0.0, start), 3),
        end=round(end, 3),
    )


def cut_words(
    utterances: list[Utterance], times: dict[str, list[Word]], most: int, shortest: float = 0.18
) -> list[Utterance]:
    """Every word that lasts at least `shortest` seconds; of one text at most `most`."""
    found: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        words = times.get(utterance.id) or []
        for index, (word, start, end) in enumerate(words):
            if end - start >= shortest and len(word) > 1:
                found.setdefault(word, []).append(cut(utterance, words, index, index))
    kept: list[Utterance] = []
    for word, some in sorted(found.items()):
        rng_for(0, "cut words", word).shuffle(some)
        kept += some[:most]
    return kept


def cut_phrases(
    utterances: list[Utterance],
    times: dict[str, list[Word]],
    sizes: tuple[int, int],
    share: float,
) -> list[Utterance]:
    """Runs of words, one after the other with random gaps, no longer pause inside."""
    found: list[Utterance] = []
    for utterance in utterances:
        words = times.get(utterance.id) or []
        rng: random.Random = rng_for(0, "cut phrases", sizes, utterance.id)
        at = rng.randint(0, 2)
        while at < len(words):
            size = rng.randint(*sizes)
            last = min(at + size, len(words)) - 1
            pauses = [words[i + 1][1] - words[i][2] for i in range(at, last)]
            if last - at + 1 >= sizes[0] and rng.random() < share and max(pauses, default=0) < 0.5:
                found.append(cut(utterance, words, at, last))
            at = last + 1 if rng.random() < 0.7 else at + max(1, size // 2)
    return found
