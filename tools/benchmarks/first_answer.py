#!/usr/bin/env python3
"""Processor time and peak memory of one `speechcwcl classify` of a clip of one second.

Each way is run in a process of its own on one core, in turn, and the least of its runs counts:
whatever else the machine does can only add.

Example:
  git worktree add ../before 7f34e2e
  tools/benchmarks/first_answer.py --before ../before --before_model exp/cwcl/model
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from speechcwcl.data.audio import SAMPLE_RATE, write_audio
from speechcwcl.errors import UserError, require

HERE = Path(__file__).resolve().parents[2]
_MAIN = "import sys; from speechcwcl.cli.main import main; sys.exit(main(sys.argv[1:]))"


def measure(code: list[str], tree: Path) -> tuple[float, float]:
    """Processor seconds (user and system) and peak MB of a Python process.

    Raises:
        UserError: the command failed.
    """
    pid = os.fork()
    if pid == 0:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
        os.chdir(tree)  # `-c` looks there first
        os.execve(sys.executable, [sys.executable, "-c", *code], env)
    _, status, used = os.wait4(pid, 0)
    require(status == 0, f"{tree}: {' '.join(code[1:])}: failed")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def table(ways: dict[str, tuple[list[str], Path]], rounds: int) -> list[str]:
    """Markdown lines, the least of `rounds` runs of each way, taken in turn."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (code, tree) in ways.items():
            found[name].append(measure(code, tree))
    lines = ["| command | processor seconds | peak MB |", "|---|---:|---:|"]
    for name, runs in found.items():
        seconds, peak = (min(column) for column in zip(*runs, strict=True))
        lines.append(f"| {name} | {seconds:.2f} | {peak:.0f} |")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Print the table; exit code 2 where a command fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="a checkout of an older commit")
    parser.add_argument("--before_model", help="a model folder that it can open")
    parser.add_argument("--onnx", action="store_true", help="`classify --onnx` too")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.wav"
        noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
        write_audio(clip, 0.1 * noise, SAMPLE_RATE)
        words = [_MAIN, "classify", "--labels", "turn on the light;play music", str(clip)]
        ways = {"`import torch`, for comparison": (["import torch"], HERE)}
        if args.before:
            model = str(Path(args.before_model).resolve())
            ways["before"] = ([*words, "--model", model], args.before.resolve())
        ways["now"] = (words, HERE)
        if args.onnx:
            ways["now, `--onnx`"] = ([*words, "--onnx"], HERE)
        try:
            print("\n".join(table(ways, args.rounds)))
        except UserError as error:
            print(f"first_answer: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
