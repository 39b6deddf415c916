#!/usr/bin/env python3
"""Time of a query in an index of made vectors, on one thread: exact, and along the graph.

    python tools/benchmarks/search.py --clips 100000 --dim 384 --write

Two kinds of vectors. `made speech`: unit vectors that gather in clusters, as embeddings of speech
do, asked by other members of the clusters. `uniform`: all directions alike, the worst case for a
graph, where no neighbour is near. The index goes through the package's own code, onto the disk and
back (memory-mapped). A query is timed with the look-up of names and times in the table, once with
every vector compared (exact) and once along the graph (HNSW); recall@10 is the share of the exact
ten (in float32) that is found. With --model the embedding of the question's text is timed too.
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

from speechcwcl.models.aligner import Aligner
from speechcwcl.search.index import SearchIndex
from speechcwcl.search.recordings import Cutting, Recording
from speechcwcl.search.table import Table

QUESTIONS = 200
TOP = 10


def made(kind: str, count: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, dim) vectors and (QUESTIONS, dim) questions, unit norm float32."""
    draw = np.random.default_rng(seed)
    if kind == "uniform":
        rows = draw.standard_normal((count + QUESTIONS, dim), dtype=np.float32)
    else:
        centres = draw.standard_normal((max(1, count // 50), dim), dtype=np.float32)
        owner = draw.integers(len(centres), size=count + QUESTIONS)
        rows = centres[owner] + draw.standard_normal((count + QUESTIONS, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:count], rows[count:]


class Ready:
    """Stands for the model: every recording is embedded already."""

    def __init__(self, dim: int):
        self.dim = dim

    def encode_speech(self, audio: list[np.ndarray]) -> np.ndarray:
        raise AssertionError("nothing is left to embed")


def build(folder: Path, rows: np.ndarray) -> tuple[SearchIndex, float]:
    """An index on the disk of one recording a row, and the seconds (processor) of its graph."""
    root = folder / "recordings"
    root.mkdir()
    index = SearchIndex.create(
        folder / "index", root, dim=rows.shape[1], identity="", model="", cutting=Cutting(0)
    )
    entries = []
    for number, row in enumerate(rows):
        path = root / f"{number:06d}.wav"
        path.touch()
        status = path.stat()
        recording = Recording(path.name, status.st_size, status.st_mtime_ns)
        entries.append((recording, [(0.0, 1.0)], row[None]))
    with Table.open(folder / "index" / "table.sqlite") as table:
        for start in range(0, len(entries), 5000):
            table.put(entries[start : start + 5000])
    began = time.process_time()
    index.update(Ready(rows.shape[1]))
    return SearchIndex.open(folder / "index"), time.process_time() - began


def ask(index: SearchIndex, questions: np.ndarray, exact: bool) -> tuple[np.ndarray, list[set]]:
    """(questions, 2) milliseconds, wall and processor; the names found. One by one, one thread."""
    times, names = [], []
    for question in questions:
        began = time.perf_counter(), time.process_time()
        (hits,) = index.search(question[None], TOP, exact=exact, threads=1)
        ended = time.perf_counter(), time.process_time()
        times.append([1000 * (b - a) for a, b in zip(began, ended, strict=True)])
        names.append({int(Path(hit.path).stem) for hit in hits})
    return np.array(times), names


def measure(kind: str, count: int, dim: int) -> list[str]:
    """Two rows of the table."""
    rows, questions = made(kind, count, dim, seed=0)
    truth = [set(np.argsort(-(rows @ q))[:TOP].tolist()) for q in questions]
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        index, seconds = build(Path(scratch), rows)
        size = sum(p.stat().st_size for p in (Path(scratch) / "index").glob("vectors-*"))
        ask(index, questions[:5], True)  # opens the files, checks their hash
        for exact in (True, False):
            times, names = ask(index, questions, exact)
            recall = np.mean([len(a & b) / TOP for a, b in zip(truth, names, strict=True)])
            cells = (
                kind, f"{count:,}", dim, "exact" if exact else "graph",
                *(f"{v:.1f}" for v in np.percentile(times, [50, 95], axis=0).T.ravel()),
                f"{recall:.3f}",
                f"{seconds:.0f}", f"{size / 2**20:.0f}",
            )  # fmt: skip
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return lines


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
        "| vectors | clips | dim | search | median ms | p95 ms | median ms CPU | p95 ms CPU | "
        "recall@10 | graph s (CPU) | MB |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for count in args.clips:
        for kind in ("made speech", "uniform"):
            lines += measure(kind, count, args.dim)
    text = "\n".join(lines) + "\n"
    if args.model:
        text += text_times(args.model)
    print(text)
    if args.write:
        write_section("search", "## Search", text)


if __name__ == "__main__":
    main(sys.argv[1:])
