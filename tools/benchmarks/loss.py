#!/usr/bin/env python3
"""Time and peak memory of the losses, forward and backward, against others and against the floor.

    python tools/benchmarks/loss.py --sizes 512 2048 8192 --dims 384 --write

Contenders run interleaved, one after the other in every round. The speech side needs a gradient,
the text side is frozen, as in training. The floor is what any exact method must do: the logits and
the gradient of the speech side, two products of N x N x dim, in chunks, and nothing else; the CWCL
floor adds the target's products and those of the logits that memory flat in N cannot keep. A rival
that is not installed is left out: `pip install open_clip_torch sentence-transformers`.

On a GPU, both precisions (the times are then those between CUDA events):

    python tools/benchmarks/loss.py --device cuda --dtype float32 --limit 40 --write
    python tools/benchmarks/loss.py --device cuda --dtype bfloat16 --limit 40 --write

What a change of the code costs: all losses of this checkout and of another one, in turns:

    git worktree add ../before COMMIT
    python tools/benchmarks/loss.py --beside ../before --threads 1 --clock cpu --write
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from bench_page import write_section
from loss_beside import compare
from loss_contenders import CONTENDERS, PACKAGES, Case, Run, check, default_contenders, installed
from loss_meters import Memory, describe, timed, warm_allocator

from speechcwcl.files import read_json, write_json

README = Path(__file__).with_name("README.md")
SIZES = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]


def measure(rows: int, dim: int, names: list[str], options: argparse.Namespace) -> dict:
    """Peak memory first (which also warms up), then interleaved rounds."""
    dtype = getattr(torch, options.dtype)
    case = Case(rows, dim, options.device, dtype, options.chunk)
    runs: dict[str, Run] = {}
    for name in names:
        needed = CONTENDERS[name].matrices * rows * rows * case.text.element_size()
        if needed <= options.limit * 2**30:
            runs[name] = CONTENDERS[name].make(case)
    memory = Memory(options.device)

    def clock(run: Run) -> float:
        return timed(run, options.device, options.clock)

    peaks, first = {}, {}
    for name, run in runs.items():
        first[name] = clock(lambda r=run, n=name: peaks.update({n: memory.measure(r)}))
        case.speech.grad = None
    warm_allocator(options.device)
    rounds = int(options.seconds / max(sum(first.values()), 1e-9))
    rounds = max(options.rounds[0], min(options.rounds[1], rounds))
    # With no round to come (hours for the largest sizes) the run that took the memory counts.
    times = {name: [] if rounds else [first[name]] for name in runs}
    order = list(runs)
    for _ in range(rounds):
        for name in order:
            times[name].append(clock(runs[name]))
        order.append(order.pop(0))  # nobody always comes after the same one
    seconds = {name: [round(value, 7) for value in values] for name, values in times.items()}
    return {"rows": rows, "dim": dim, "rounds": rounds, "seconds": seconds, "peak_mb": peaks}


def ratio(row: dict, name: str, other: str) -> float | None:
    """Median over rounds of how many times longer `name` took than `other` in the same one."""
    if name not in row["seconds"] or other not in row["seconds"]:
        return None
    pairs = zip(row["seconds"][name], row["seconds"][other], strict=True)
    return statistics.median(a / b for a, b in pairs)


RATIOS = [("cwcl_floor", "floor"), ("cwcl", "cwcl_floor"), ("cwcl", "clip"), ("cwcl", "open_clip")]


def table(results: dict) -> str:
    """The Markdown of one run: times, then memory."""
    about = results["about"]
    rows = sorted(results["rows"], key=lambda r: (r["dim"], r["rows"]))
    names = [n for n in CONTENDERS if any(n in r["seconds"] for r in rows)]
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    lines = [
        f"Machine: {about['machine']}, threads: {about['threads']}, {about['dtype']}, "
        f"{about['clock']} clock; {versions}.",
        "",
        f"    {about['command']}",
        "",
        "Milliseconds, forward + backward, medians of interleaved rounds; ratios are medians of "
        "the ratios within a round, `x` those to the floor; "
        f"`-`: not run, as what would need more than {about['limit']:g} GiB.",
        "",
    ]
    pairs = [pair for pair in RATIOS if set(pair) <= set(names)]
    ratios = [f"{CONTENDERS[a].title} / {CONTENDERS[b].title}" for a, b in pairs]
    lines += _head([CONTENDERS[n].title for n in names] + ratios)
    for row in rows:
        found = [ratio(row, *pair) for pair in pairs]
        shown = ["-" if value is None else f"{value:.2f}" for value in found]
        lines.append(_line(row, [_time(row, n) for n in names] + shown))
    measured = [n for n in names if not n.endswith("floor")]
    lines += ["", "Peak memory over the inputs (two of N x dim), the gradient included, MB:", ""]
    lines += _head(["inputs", *(CONTENDERS[n].title for n in measured)])
    for row in rows:
        inputs = 2 * row["rows"] * row["dim"] * _BYTES[about["dtype"]] / 2**20
        peaks = [row["peak_mb"].get(n) for n in measured]
        lines.append(_line(row, ["-" if p is None else f"{p:,.0f}" for p in [inputs, *peaks]]))
    return "\n".join(lines) + "\n"


_BYTES = {"float32": 4, "bfloat16": 2}


def _head(titles: list[str]) -> list[str]:
    return ["| N | dim | " + " | ".join(titles) + " |", "|" + "---:|" * (2 + len(titles))]


def _line(row: dict, cells: list[str]) -> str:
    return "| " + " | ".join([f"{row['rows']:,}", str(row["dim"]), *cells]) + " |"


def _time(row: dict, name: str) -> str:
    if name not in row["seconds"]:
        return "-"
    times = "" if name == "floor" else f" ({ratio(row, name, 'floor'):.2f} x)"
    return f"{1000 * statistics.median(row['seconds'][name]):,.1f}{times}"


def write(results: dict) -> None:
    """Put the table between its two marks in the README."""
    kind = "cpu" if results["about"]["device"] == "cpu" else "gpu"
    kind += "" if results["about"]["dtype"] == "float32" else "-" + results["about"]["dtype"]
    write_section(f"loss-{kind}", "## The loss", table(results), README)


def arguments(words: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="batch sizes N")
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), help="contenders (all)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, help="CPU threads (torch's choice)")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: time on the processor, steady on a busy machine; use it with --threads 1",
    )
    parser.add_argument("--chunk", type=int, default=256, help="rows a chunk: floor, Cached MNRL")
    parser.add_argument("--limit", type=float, default=8.0, help="GiB that a contender may take")
    parser.add_argument(
        "--rounds", type=int, nargs=2, default=[3, 31], help="least and most; 0 0: one run"
    )
    parser.add_argument("--seconds", type=float, default=60, help="aimed at, for each N and dim")
    parser.add_argument("--beside", type=Path, help="another checkout to compare ours with")
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    parser.add_argument("--write", action="store_true", help="write the table into the README")
    options = parser.parse_args(words)
    options.words = words
    return options


def main(words: list[str]) -> None:
    """Measure, print, and write what was asked for."""
    options = arguments(words)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.beside:
        found = compare(options)
        print(found)
        if options.write:
            write_section("loss-beside", "### Beside the commit before", found, README)
        return
    chosen = options.only or default_contenders(options.device)
    names = installed(["floor", *(n for n in chosen if n != "floor")])
    check(names, options.device)
    rows = []
    if options.json and options.json.exists():
        rows = read_json(options.json)["rows"]
    for dim in options.dims:
        for size in options.sizes:
            found = measure(size, dim, names, options)
            rows = [r for r in rows if (r["rows"], r["dim"]) != (size, dim)] + [found]
            shown = {n: round(1000 * statistics.median(s), 1) for n, s in found["seconds"].items()}
            print(size, dim, found["rounds"], "ms", json.dumps(shown), file=sys.stderr, flush=True)
            results = {"about": describe(options, PACKAGES), "rows": rows}
            if options.json:
                write_json(options.json, results)
            if options.write:
                write(results)
    print(table(results))


if __name__ == "__main__":
    main(sys.argv[1:])
