"""Verifies a corpus that was made: files, counts, voices, texts and sound. Needs soundfile only."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from . import UserError
from .clips import PEAK, SAMPLE_RATE
from .fetch import sha256_of
from .pack import GAP, Segment, read_segments, seek_error
from .plan import SPLIT_OF_SET
from .voices import speakers_of

KINDS = {"word", "phrase", "sentence", "intent"}


def read_corpus_json(out: Path) -> dict[str, Any]:
    """The corpus' own description; a UserError if it is not there or not JSON."""
    path = out / "corpus.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; was the corpus made?") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error


def _files(out: Path, corpus: dict[str, Any]) -> Iterator[str]:
    for name, wanted in corpus["sha256"].items():
        path = out / name
        if not path.is_file():
            yield f"{name}: missing"
        elif sha256_of(path) != wanted:
            yield f"{name}: sha256 differs from corpus.json"
    found = {str(path.relative_to(out)) for path in (out / "audio").rglob("*") if path.is_file()}
    for name in sorted(found - set(corpus["sha256"])):
        yield f"{name}: not in corpus.json"


def _rows(segments: list[Segment]) -> Iterator[str]:
    twice = [name for name, count in Counter(row.id for row in segments).items() if count > 1]
    if twice:
        yield f"segments.tsv: id '{twice[0]}' is there twice"
    for row in segments:
        if row.split != SPLIT_OF_SET.get(row.set) or row.kind not in KINDS or not row.text:
            yield f"{row.id}: bad set, split, kind or text"
        if row.file != f"audio/{row.split}/{row.voice}.ogg":
            yield f"{row.id}: unexpected file {row.file}"
        if row.kind == "word" and row.label != row.text:
            yield f"{row.id}: label '{row.label}' of a word is not its text"


def _counts(segments: list[Segment], corpus: dict[str, Any]) -> Iterator[str]:
    found = Counter(row.set for row in segments)
    for name, stated in corpus["sets"].items():
        if found[name] != stated["clips"]:
            yield f"{name}: {found[name]} clips, corpus.json says {stated['clips']}"


def _disjoint(segments: list[Segment]) -> Iterator[str]:
    speakers: dict[str, set[str]] = defaultdict(set)
    texts: dict[str, set[str]] = defaultdict(set)
    for row in segments:
        speakers[row.split] |= speakers_of(row.voice)
        texts[row.split].add(" ".join(re.findall(r"[\w']+", row.text.lower())))
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        for what, groups in (("voice", speakers), ("text", texts)):
            shared = sorted(groups[one] & groups[other])
            if shared:
                yield f"{len(shared)} {what}(s) in both {one} and {other}: {shared[0]}"


def _sound(out: Path, file: str, rows: list[Segment], thorough: bool) -> Iterator[str]:
    """Checks one audio file; `thorough` decodes all of it instead of its first clip."""
    with soundfile.SoundFile(str(out / file)) as sound:
        rate, channels, frames = sound.samplerate, sound.channels, sound.frames
    if (rate, channels) != (SAMPLE_RATE, 1):
        yield f"{file}: {rate} Hz, {channels} channel(s), expected {SAMPLE_RATE} Hz mono"
        return
    rows = sorted(rows, key=lambda row: row.start)
    previous = 0
    for row in rows:
        start, end = row.samples
        if start - previous < GAP or end <= start:
            yield f"{row.id}: overlaps, or is too close to the clip before it"
        previous = end
    if previous + GAP > frames:
        yield f"{file}: ends before its last clip"
        return
    if thorough:
        whole, _ = soundfile.read(str(out / file), dtype="float32")
    for row in rows if thorough else rows[len(rows) // 2 : len(rows) // 2 + 1]:
        start, end = row.samples
        if thorough:
            samples = whole[start:end]
        else:
            samples, _ = soundfile.read(str(out / file), dtype="float32", start=start, stop=end)
        peak = float(np.abs(samples).max())
        if not PEAK * 0.5 < peak <= 1.0:
            yield f"{row.id}: peak {peak:.2f}"
    if thorough:
        start, end = rows[-1].samples
        part, _ = soundfile.read(str(out / file), dtype="float32", start=start, stop=end)
        if part.size != end - start or seek_error(whole[start:end], part) > 0.1:
            yield f"{file}: seeking gives other samples than decoding the whole file"


def check_corpus(out: Path, thorough: bool = False) -> list[str]:
    """All that is wrong with the corpus in `out`; an empty list means that it is sound.

    Args:
        out: folder with `corpus.json`, `segments.tsv` and `audio`.
        thorough: decode every clip of every file (about 250 x real time), not one a file.
    """
    corpus = read_corpus_json(out)
    problems = list(_files(out, corpus))
    segments = read_segments(out / "segments.tsv")
    problems += [*_rows(segments), *_counts(segments, corpus), *_disjoint(segments)]
    by_file: dict[str, list[Segment]] = defaultdict(list)
    for row in segments:
        by_file[row.file].append(row)
    for file, rows in sorted(by_file.items()):
        if (out / file).is_file():
            problems += _sound(out, file, rows, thorough)
    return problems
