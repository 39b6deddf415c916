#!/usr/bin/env python3
"""Measure how preparing a large corpus scales: time, and peak memory of all processes.

Makes a list of N utterances (segments of a few synthetic recordings, so that audio is really
probed and the disk is not filled), then times what stages 1 to 3 do with it: write the data folder
(sorted), check it, compile the manifest in --nj processes, open it and read from
it. Memory is read from /proc, so this runs on Linux.

Example:
    python tools/benchmarks/prepare.py --utterances 1000000 --nj 2 --write
"""

from __future__ import annotations

import argparse
import platform
import re
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench_page import write_section

from speechcwcl.data.audio import write_audio
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import Utterance, check_datadir, write_datadir
from speechcwcl.data.manifest import Manifest

RECORDINGS, SECONDS = 1000, 60


class Peak:
    """The highest resident memory of this process and its children together, in MB."""

    def __init__(self) -> None:
        self.highest, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.highest = max(self.highest, resident())


def resident() -> float:
    """MB of this process and its children; memory that forks share counts once."""
    names = ["self", *children()]
    total = 0.0
    for name in names:
        try:
            text = Path(f"/proc/{name}/smaps_rollup").read_text()
        except OSError:
            continue  # it ended meanwhile
        key = "Pss" if len(names) > 1 else "Rss"
        found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
        total += int(found[1]) / 1024 if found else 0.0
    return total


def children() -> list[str]:
    """Process ids of the direct children of all threads."""
    found: list[str] = []
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            found += task.read_text().split()
        except OSError:
            continue
    return found


def utterances(count: int, audio: Path) -> Iterator[Utterance]:
    """Segments of the recordings, in scattered order, so that sorting has something to do."""
    step = next(s for s in range(7919, 7919 + count + 1) if np.gcd(s, count) == 1)
    for k in range(count):
        i = k * step % count
        start = (i // RECORDINGS) % (SECONDS - 3) + 0.25
        yield Utterance(
            f"utterance-{i:09d}",
            str(audio / f"{i % RECORDINGS:04d}.flac"),
            f"some words that are as long as a sentence is, number {i}",
            f"speaker{i % 5000}",
            start=start,
            end=start + 1.5 + i % 3 / 2,
            labels={"label": f"l{i % 60}"},
        )


def make_audio(folder: Path) -> None:
    """One minute of noise in FLAC, and hard links to it under many names."""
    noise = np.random.default_rng(0).standard_normal(SECONDS * 16000).astype(np.float32)
    write_audio(folder / "0000.flac", 0.1 * noise)
    for number in range(1, RECORDINGS):
        (folder / f"{number:04d}.flac").hardlink_to(folder / "0000.flac")


def measure(count: int, nj: int, folder: Path) -> list[tuple[str, float, float]]:
    """(what, wall s, processor s) of each step."""
    rows: list[tuple[str, float, float]] = []

    def timed(what: str, work: Callable[[], Any]) -> Any:
        wall, before = time.perf_counter(), _processor()
        result = work()
        rows.append((what, time.perf_counter() - wall, _processor() - before))
        return result

    data, out = folder / "data", folder / "dump/manifest.jsonl"
    made = utterances(count, folder / "audio")
    timed("write the data folder (1)", lambda: write_datadir(data, made, corpus={"name": "big"}))
    timed("check it", lambda: check_datadir(data))
    timed("compile the manifest (2, 3)", lambda: compile_manifest(data, out, nj=nj, progress=False))
    manifest = timed("open it", lambda: Manifest(out))
    picks = np.random.default_rng(0).integers(0, count, 10_000)
    timed("read 10,000 of them at random", lambda: [manifest[int(i)] for i in picks])
    assert len(manifest) == count and manifest[count - 1].id == f"utterance-{count - 1:09d}"
    return rows


def _processor() -> float:
    own, others = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def table(count: int, nj: int, rows: list[tuple[str, float, float]], peak: float) -> str:
    """The section of the README."""
    command = f"python tools/benchmarks/prepare.py --utterances {count} --nj {nj} --write"
    lines = [
        f"{count:,} synthetic utterances, segments of {RECORDINGS:,} recordings; {nj} processes; "
        f"{platform.system()} {platform.machine()}. Peak memory of all processes together: "
        f"**{peak:.0f} MB** (Python with its libraries included).",
        "",
        f"    {command}",
        "",
        "| step (stage) | wall s | processor s |",
        "|---|---:|---:|",
        *(f"| {what} | {wall:,.1f} | {used:,.1f} |" for what, wall, used in rows),
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure and print; with --write also into the README."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=20_000)
    parser.add_argument("--nj", type=int, default=2, help="processes")
    parser.add_argument("--write", action="store_true", help="also into README.md beside this")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Peak() as peak:
        (Path(name) / "audio").mkdir()
        make_audio(Path(name) / "audio")
        rows = measure(args.utterances, args.nj, Path(name))
    text = table(args.utterances, args.nj, rows, peak.highest)
    print(text)
    if args.write:
        write_section("prepare", "## Preparing a large corpus", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
