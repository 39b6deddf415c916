#!/usr/bin/env python3
"""Time of a query in an index of synthetic vectors, on one thread.

    python tools/benchmarks/search.py --clips 100000 --dim 384 --write

The vectors gather in clusters, as embeddings of speech do, and are asked by other members of the
clusters. The index goes through the package's own code, onto the disk and back. A query is timed
with the look-up of names and times: every row is compared. With --model the embedding of the
question's text is timed too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench_page import machine, write_section

from speechcwcl.apps.recordings import Cutting
from speechcwcl.apps.search import SearchIndex
from speechcwcl.data.audio import write_audio
from speechcwcl.models.aligner import Aligner

QUESTIONS = 200
TOP = 10


def clustered(count: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, dim) vectors and (QUESTIONS, dim) questions, unit norm float32."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((max(1, count // 50), dim), dtype=np.float32)
    owner = draw.integers(len(centres), size=count + QUESTIONS)
    rows = centres[owner] + draw.standard_normal((count + QUESTIONS, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:count], rows[count:]


class Ready:
    """Stands for the model: the embedding of a recording is the row that its name tells."""

    def __init__(self, rows: np.ndarray):
        self.dim = rows.shape[1]
        self._rows = iter(rows)

    def encode_speech(self, audio: list[np.ndarray]) -> np.ndarray:
        return np.stack([next(self._rows) for _ in audio])


def build(folder: Path, rows: np.ndarray) -> SearchIndex:
    """An index on the disk of one recording (0.1 s of silence) a row."""
    root = folder / "recordings"
    write_audio(root / "0000000.wav", np.zeros(1600, dtype=np.float32))
    for number in range(1, len(rows)):
        (root / f"{number:07d}.wav").hardlink_to(root / "0000000.wav")
    index = SearchIndex.create(
        folder / "index", root, dim=rows.shape[1], identity="", model="", cutting=Cutting(0)
    )
    index.update(Ready(rows))
    return SearchIndex.open(folder / "index")


def ask(index: SearchIndex, questions: np.ndarray) -> tuple[np.ndarray, list[set]]:
    """(questions, 2) milliseconds, wall and processor; the names found. One by one, one thread."""
    times, names = [], []
    for question in questions:
        began = time.perf_counter(), time.process_time()
        (hits,) = index.search(question[None], TOP)
        ended = time.perf_counter(), time.process_time()
        times.append([1000 * (b - a) for a, b in zip(began, ended, strict=True)])
        names.append({int(Path(hit.path).stem) for hit in hits})
    return np.array(times), names


def measure(count: int, dim: int) -> str:
    """A row of the table."""
    rows, questions = clustered(count, dim, seed=0)
    truth = [set(np.argsort(-(rows @ q))[:TOP].tolist()) for q in questions]
    with tempfile.TemporaryDirectory() as scratch:
        index = build(Path(scratch), rows)
        size = (Path(scratch) / "index" / "index.npz").stat().st_size
        ask(index, questions[:5])  # reads the file
        times, names = ask(index, questions)
    assert names == truth, "an exact search finds the nearest"
    cells = (
        f"{count:,}",
        dim,
        *(f"{v:.1f}" for v in np.percentile(times, [50, 95], axis=0).T.ravel()),
        f"{size / 2**20:.0f}",
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def text_times(model: str) -> str:
    """How long the embedding of a question takes."""
    aligner = Aligner.from_pretrained(model)
    times = []
    for number in range(30):
        began = time.perf_counter(), time.process_time()
        aligner.encode_text([f"turn the light in room {number} on please"])
        ended = time.perf_counter(), time.process_time()
        times.append([1000 * (b - a) for a, b in zip(began, ended, strict=True)])
    (wall, wall95), (cpu, cpu95) = np.percentile(times[5:], [50, 95], axis=0).T
    return (
        f"\nThe question's text has to be embedded before ({aligner.text.info.source}): median "
        f"{wall:.1f} ms, p95 {wall95:.1f} ms; {cpu:.1f} and {cpu95:.1f} ms on the processor.\n"
    )


def main(words: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, nargs="+", default=[100_000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--model", help="a model folder: time its text encoder too")
    parser.add_argument("--write", action="store_true", help="write the table into the README")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    command = f"python tools/benchmarks/search.py --clips {' '.join(map(str, args.clips))}"
    lines = [
        f"{machine()}, one thread; {QUESTIONS} questions one by one, {TOP} answers; wall clock "
        "(on a machine that others share), and this process's time on the processor.",
        "",
        f"    {command} --dim {args.dim}{' --model MODEL' if args.model else ''} --write",
        "",
        "| clips | dim | median ms | p95 ms | median ms CPU | p95 ms CPU | MB |",
        "|---:|---:|---:|---:|---:|---:|---:|",
        *(measure(count, args.dim) for count in args.clips),
    ]
    text = "\n".join(lines) + "\n"
    if args.model:
        text += text_times(args.model)
    print(text)
    if args.write:
        write_section("search", "## Search", text)


if __name__ == "__main__":
    main(sys.argv[1:])
