"""Writes finished clips as one Ogg/Opus file for each voice, and the table of segments."""

from __future__ import annotations

import csv
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import soundfile

from . import UserError
from .clips import SAMPLE_RATE
from .ogg import fix_serial
from .plan import Clip
from .synth import load_clip

GAP = SAMPLE_RATE // 4  # silence before, between and after the clips, on top of their own margins
GRID = SAMPLE_RATE // 1000  # clips start and end on whole milliseconds, so the table is exact


@dataclass(frozen=True)
class Segment:
    """A row of `segments.tsv`; `start` and `end` in seconds within `file`."""

    id: str
    file: str
    start: float
    end: float
    split: str
    set: str
    voice: str
    kind: str
    label: str
    text: str

    @property
    def samples(self) -> tuple[int, int]:
        """First and one past the last sample at 16 kHz."""
        return round(self.start * SAMPLE_RATE), round(self.end * SAMPLE_RATE)


COLUMNS = [field.name for field in fields(Segment)]


def compression_level(bitrate: int) -> float:
    """What soundfile wants in place of bit/s: libsndfile maps 0 to 256 kbit/s and 1 to 6."""
    return 1.0 - (bitrate - 6000) / 250000


def write_files(
    clips: list[Clip], work: Path, out: Path, bitrate: int, jobs: int
) -> Iterator[tuple[list[Segment], list[str]]]:
    """Writes and checks the files of all clips; yields the segments and problems of each file.

    Audio files of an earlier corpus that have no clips any more are removed.
    """
    files: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        files[clip.file].append(clip)
    for file in _files_of_before(out) - set(files):
        (out / file).unlink(missing_ok=True)
    order = sorted(files, key=lambda file: (-len(files[file]), file))
    tasks = [(files[file], work, out, file, bitrate) for file in order]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(_write_and_check, tasks)


def _files_of_before(out: Path) -> set[str]:
    """The audio files that the corpus in a folder names, if there is one."""
    path = out / "segments.tsv"
    if not path.exists():
        return set()
    with path.open(encoding="utf-8", newline="") as stream:
        named = {
            row["file"] for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        }
    return {file for file in named if file.startswith("audio/") and ".." not in file}


def _write_and_check(
    task: tuple[list[Clip], Path, Path, str, int],
) -> tuple[list[Segment], list[str]]:
    some, work, out, file, bitrate = task
    clips = [(clip, load_clip(work, clip)) for clip in some]
    segments = write_file(clips, out, file, bitrate)
    return segments, list(coding_problems(clips, segments, out))


def write_file(
    clips: list[tuple[Clip, np.ndarray]], out: Path, file: str, bitrate: int
) -> list[Segment]:
    """Writes the clips (int16 at 16 kHz) one after the other into `out / file`."""
    position = GAP
    parts = [np.zeros(GAP, np.int16)]
    segments: list[Segment] = []
    for clip, samples in clips:
        assert position % GRID == 0 and samples.size % GRID == 0
        start, end = position / SAMPLE_RATE, (position + samples.size) / SAMPLE_RATE
        segments.append(
            Segment(
                clip.id,
                file,
                round(start, 3),
                round(end, 3),
                clip.split,
                clip.set,
                clip.voice,
                clip.kind,
                clip.label,
                clip.text,
            )  # fmt: skip
        )
        parts += [samples, np.zeros(GAP, np.int16)]
        position += samples.size + GAP
    path = out / file
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with soundfile.SoundFile(
        str(partial), "w", SAMPLE_RATE, 1, format="OGG", subtype="OPUS",
        compression_level=compression_level(bitrate),
    ) as sound:  # fmt: skip
        sound.write(np.concatenate(parts))
    fix_serial(partial, file)
    os.replace(partial, path)
    return segments


def write_segments(segments: Iterable[Segment], path: Path) -> None:
    """Writes `segments.tsv`: seconds with three decimals, tab-separated, no quoting."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(COLUMNS) + "\n")
        for row in segments:
            values = [getattr(row, name) for name in COLUMNS]
            file.write("\t".join(f"{v:.3f}" if isinstance(v, float) else v for v in values) + "\n")


def read_segments(path: Path) -> list[Segment]:
    """Reads `segments.tsv`; a malformed row is a UserError with its line number."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; was the corpus made?")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or rows[0] != COLUMNS:
        raise UserError(f"{path}:1: the header must be {' '.join(COLUMNS)}")
    segments: list[Segment] = []
    for number, row in enumerate(rows[1:], start=2):
        try:
            seconds = [float(row[2]), float(row[3])]
            segments.append(Segment(*row[:2], *seconds, *row[4:]))
        except (ValueError, TypeError, IndexError) as error:
            raise UserError(f"{path}:{number}: not a row of {len(COLUMNS)} columns") from error
    return segments


def compare(original: np.ndarray, decoded: np.ndarray) -> tuple[float, float]:
    """Level difference in dB and correlation of a clip before and after coding.

    Args:
        original: (samples,) int16.
        decoded: (samples,) float32 of the same length.
    """
    one, two = original.astype(np.float64) / 32768, decoded.astype(np.float64)
    power = float((one**2).sum()), float((two**2).sum())
    level = 10 * np.log10((power[1] + 1e-9) / (power[0] + 1e-9))
    return float(level), float((one * two).sum() / np.sqrt(power[0] * power[1] + 1e-12))


def coding_problems(
    clips: list[tuple[Clip, np.ndarray]], segments: list[Segment], out: Path
) -> Iterator[str]:
    """What is wrong with a file just written: each clip's level and alignment, and seeking."""
    path = out / segments[0].file
    whole, rate = soundfile.read(str(path), dtype="float32")
    if rate != SAMPLE_RATE:
        yield f"{path}: sampled at {rate} Hz"
    for number, ((clip, samples), segment) in enumerate(zip(clips, segments, strict=True)):
        start, end = segment.samples
        level, correlation = compare(samples, whole[start:end])
        if end - start != samples.size or abs(level) > 2.0 or correlation < 0.8:
            yield f"{clip.id}: coded with {level:+.1f} dB, correlation {correlation:.2f}"
        if number % 7 == 0:
            part, _ = soundfile.read(str(path), dtype="float32", start=start, stop=end)
            if part.size != end - start or seek_error(whole[start:end], part) > 0.1:
                yield f"{clip.id}: seeking gives other samples than decoding the whole file"


def seek_error(whole: np.ndarray, part: np.ndarray) -> float:
    """Root mean square difference as a share of the signal's root mean square."""
    return float(np.sqrt(((whole - part) ** 2).mean() / ((whole**2).mean() + 1e-9)))
