"""Our losses in two checkouts, interleaved: what a change of the code costs in time and memory.

Each checkout runs in a process of its own, and the two take turns at every round, so that whatever
else the machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from loss_meters import Memory, allocated_mb, describe, timed, warm_allocator
from torch.nn.functional import normalize

HERE = Path(__file__).resolve()
LOSSES = ("cwcl", "clip", "cwcl_matched", "siglip", "supcon", "relational")
SCALE = {"scale": 20.0}


class Checkout:
    """The worker process of one checkout."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        words = [options.device, options.dtype, options.clock, str(torch.get_num_threads())]
        self.process = subprocess.Popen(
            [sys.executable, str(HERE), str(folder.resolve()), *words],
            env={**os.environ, "PYTHONPATH": str(folder.resolve())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, loss: str, rows: int, dim: int) -> dict[str, float]:
        """Forward and backward once: seconds, and at the first time peak memory in MB."""
        self.process.stdin.write(json.dumps([loss, rows, dim]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the process of one checkout has ended; its message stands above")
        return json.loads(line)


def work(folder: str, device: str, dtype: str, clock: str, threads: str) -> None:
    """The worker: runs what it is told to, one line each."""
    import speechcwcl
    from speechcwcl.losses import build_loss

    if not Path(speechcwcl.__file__).is_relative_to(folder):
        raise SystemExit(f"{folder}: holds no speechcwcl")
    torch.set_num_threads(int(threads))
    memory, cases = Memory(device), {}
    for line in sys.stdin:
        loss, rows, dim = key = tuple(json.loads(line))
        peak = None
        if key not in cases:
            cases.clear()
            cases[key] = step(build_loss, *key, device, getattr(torch, dtype))
            cases[key]()
            peak = memory.measure(cases[key]) if memory.cuda else allocated_mb(cases[key])
            warm_allocator(device)
        print(json.dumps({"seconds": timed(cases[key], device, clock), "peak": peak}), flush=True)


def step(
    build_loss: Callable, loss: str, rows: int, dim: int, device: str, dtype: torch.dtype
) -> Callable[[], None]:
    """Forward and backward of one loss; every eighth transcript occurs twice, as in training."""
    generator = torch.Generator().manual_seed(rows + dim)
    text = normalize(torch.randn(rows, dim, generator=generator), dim=1)
    ids = torch.arange(rows)
    ids[::8] = ids[1::8]
    text = text[ids]
    noise = normalize(torch.randn(rows, dim, generator=generator), dim=1)
    speech = normalize(text + noise, dim=1).to(device, dtype).requires_grad_()
    text, ids = text.to(device, dtype), ids.to(device)
    options = SCALE if loss != "relational" else {}
    objective = build_loss(loss, diagnostics_every=0, **options)

    def run() -> None:
        speech.grad = None
        objective(speech, text, ids).total.backward()

    return run


def compare(options: argparse.Namespace) -> str:
    """Measure this checkout and `options.beside` in turns; a Markdown table."""
    ours, theirs = HERE.parents[2], options.beside
    here, there = Checkout(ours, options), Checkout(theirs, options)
    about = describe(options, [])
    lines = [
        f"Machine: {about['machine']}, threads: {about['threads']}, {about['dtype']}, "
        f"{about['clock']} clock; torch {about['versions']['torch']}.",
        "",
        f"    {about['command']}",
        "",
        "Forward + backward, medians of interleaved rounds; every eighth transcript occurs twice. "
        "MB: the most that torch holds at once, the inputs not counted.",
        "",
        "| loss | N | dim | before, ms | now, ms | time, now / before | before, MB | now, MB |",
        "|---|" + "---:|" * 7,
    ]
    for dim in options.dims:
        for rows in options.sizes:
            for loss in LOSSES:
                first = [side.run(loss, rows, dim) for side in (there, here)]
                total = sum(side["seconds"] for side in first)
                rounds = int(options.seconds / max(total, 1e-9))
                rounds = max(options.rounds[0], min(options.rounds[1], rounds))
                sides = [there, here]
                found = {there: [], here: []}
                for _ in range(rounds):
                    for side in sides:
                        found[side].append(side.run(loss, rows, dim)["seconds"])
                    sides.reverse()
                before, now = (1000 * statistics.median(found[side]) for side in (there, here))
                peaks = ["-" if s["peak"] is None else f"{s['peak']:,.0f}" for s in first]
                lines.append(
                    f"| {loss} | {rows:,} | {dim} | {before:,.1f} | {now:,.1f} "
                    f"| {now / before:.2f} | {peaks[0]} | {peaks[1]} |"
                )
                print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    work(*sys.argv[1:])
