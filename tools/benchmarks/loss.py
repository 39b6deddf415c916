#!/usr/bin/env python3
"""Time and peak memory of the losses, forward and backward, against others and against the floor.

    python tools/benchmarks/loss.py --sizes 512 2048 8192 --dims 384 --write

Contenders run interleaved, one after the other in every round. The speech side needs a gradient,
the text side is frozen, as in training. The floor is what any exact method must do: the logits and
the gradient of the speech side, two products of N x N x dim, in chunks, and nothing else. A rival
that is not installed is left out: `pip install open_clip_torch sentence-transformers`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib.metadata
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from speechcwcl.files import atomic_write, read_json, read_text, write_json
from speechcwcl.losses import build_loss, cwcl_plain

README = Path(__file__).with_name("README.md")
SCALE = 20.0
SIZES = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
Run = Callable[[], None]


class Case:
    """One pair of embedding matrices and what runs on them."""

    def __init__(self, rows: int, dim: int, device: str, dtype: torch.dtype, chunk: int) -> None:
        generator = torch.Generator().manual_seed(rows + dim)
        text = normalize(torch.randn(rows, dim, generator=generator), dim=1)
        noise = normalize(torch.randn(rows, dim, generator=generator), dim=1)
        self.text = text.to(device, dtype)
        self.speech = normalize(text + noise, dim=1).to(device, dtype).requires_grad_()
        self.chunk = chunk

    def step(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Forward and backward."""
        self.speech.grad = None
        loss(self.speech, self.text).backward()

    def floor(self) -> None:
        """Two products, N x N x dim each, in chunks that reuse their memory."""
        speech, text = self.speech.detach(), self.text
        rows, dim = speech.shape
        step = min(self.chunk, rows)
        logits = torch.empty(step, rows, device=text.device, dtype=text.dtype)
        gradient = torch.empty(rows, dim, device=text.device, dtype=text.dtype)
        for lo in range(0, rows, step):
            part = logits[: min(step, rows - lo)]
            torch.mm(speech[lo : lo + step], text.T, out=part)
            torch.mm(part, text, out=gradient[lo : lo + step])


def ours(spec: str) -> Callable[[Case], Run]:
    """Our objective as it is trained with, checks included, the every-tenth-step log left out."""
    loss = build_loss(spec, scale=SCALE, diagnostics_every=0)
    return lambda case: lambda: case.step(lambda p, q: loss(p, q).total)


def plain(case: Case) -> Run:
    """CWCL from its formula, with matrices of all pairs; plus text to speech, as in ours."""

    def loss(p: Tensor, q: Tensor) -> Tensor:
        labels = torch.arange(len(p), device=p.device)
        return cwcl_plain(p, q, SCALE) + cross_entropy(SCALE * q @ p.T, labels)

    return lambda: case.step(loss)


def open_clip(case: Case) -> Run:
    """ClipLoss of open_clip."""
    from open_clip.loss import ClipLoss

    loss = ClipLoss(cache_labels=True)
    scale = torch.tensor(SCALE, device=case.text.device, dtype=case.text.dtype)
    return lambda: case.step(lambda p, q: loss(p, q, scale))


_SYMMETRIC = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}


def mnrl(case: Case) -> Run:
    """MultipleNegativesRankingLoss of sentence-transformers, both ways, on ready embeddings."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import dot_score

    loss = MultipleNegativesRankingLoss(
        torch.nn.Sequential(torch.nn.Identity()),
        scale=SCALE,
        similarity_fct=dot_score,
        **_SYMMETRIC,
    )
    return lambda: case.step(lambda p, q: loss.compute_loss_from_embeddings([p, q], None))


def cached_mnrl(case: Case) -> Run:
    """Its cached (chunked) form."""
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
    )
    from sentence_transformers.util import dot_score

    loss = CachedMultipleNegativesRankingLoss(
        torch.nn.Sequential(torch.nn.Identity()),
        scale=SCALE,
        similarity_fct=dot_score,
        mini_batch_size=case.chunk,
        **_SYMMETRIC,
    )

    def run() -> None:
        case.speech.grad = None
        loss.calculate_loss([[case.speech], [case.text]], with_backward=True)

    return run


# name -> what makes it, and the matrices of N x N that it holds at its peak
CONTENDERS: dict[str, tuple[Callable[[Case], Run], float]] = {
    "floor": (lambda case: case.floor, 0.0),
    "cwcl": (ours("cwcl"), 0.0),
    "clip": (ours("clip"), 0.0),
    "plain": (plain, 7.0),
    "open_clip": (open_clip, 5.0),
    "mnrl": (mnrl, 5.0),
    "cached_mnrl": (cached_mnrl, 0.0),
}
TITLES = {"floor": "floor", "cwcl": "our CWCL", "clip": "our CLIP", "plain": "plain CWCL formula"}
TITLES |= {"open_clip": "open_clip ClipLoss", "mnrl": "s-t MNRL", "cached_mnrl": "s-t Cached MNRL"}
NEEDS = dict.fromkeys(("mnrl", "cached_mnrl"), "sentence-transformers")
NEEDS["open_clip"] = "open_clip_torch"


def installed(names: list[str]) -> list[str]:
    """The contenders whose package is there; says which are left out."""
    found = []
    for name in names:
        try:
            if name in NEEDS:
                importlib.metadata.version(NEEDS[name])
            found.append(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"{TITLES[name]}: left out, {NEEDS[name]} is not installed", file=sys.stderr)
    return found


class Memory:
    """Peak memory of a stretch of code over what was there before, in MB."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")

    def _status(self, key: str) -> float:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(key):
                return float(line.split()[1]) / 1024
        raise OSError(key)

    def measure(self, run: Run) -> float | None:
        """Run once; None where the system does not tell."""
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # or memory freed by others would be reused
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            torch.cuda.synchronize()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        try:
            with open("/proc/self/clear_refs", "w", encoding="utf-8") as stream:  # noqa: PTH123
                stream.write("5")  # sets the high-water mark back to what is in use
            before = self._status("VmRSS")
            run()
            return self._status("VmHWM") - before
        except OSError:
            run()
            return None


def timed(run: Run, options: argparse.Namespace) -> float:
    """Seconds of wall clock, or of this process's own time on the processor."""
    now = time.process_time if options.clock == "cpu" else time.perf_counter
    cuda = options.device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
    start = now()
    run()
    if cuda:
        torch.cuda.synchronize()
    return now() - start


def measure(rows: int, dim: int, names: list[str], options: argparse.Namespace) -> dict:
    """Peak memory first (which also warms up), then interleaved rounds."""
    dtype = getattr(torch, options.dtype)
    case = Case(rows, dim, options.device, dtype, options.chunk)
    runs: dict[str, Run] = {}
    for name in names:
        maker, matrices = CONTENDERS[name]
        if matrices * rows * rows * case.text.element_size() <= options.limit * 2**30:
            runs[name] = maker(case)
    memory = Memory(options.device)
    peaks, first = {}, {}
    for name, run in runs.items():
        first[name] = timed(lambda r=run, n=name: peaks.update({n: memory.measure(r)}), options)
        case.speech.grad = None
    rounds = int(options.seconds / max(sum(first.values()), 1e-9))
    rounds = max(options.rounds[0], min(options.rounds[1], rounds))
    # With no round to come (hours for the largest sizes) the run that took the memory counts.
    times = {name: [] if rounds else [first[name]] for name in runs}
    order = list(runs)
    for _ in range(rounds):
        for name in order:
            times[name].append(timed(runs[name], options))
        order.append(order.pop(0))  # nobody always comes after the same one
    seconds = {name: [round(value, 7) for value in values] for name, values in times.items()}
    return {"rows": rows, "dim": dim, "rounds": rounds, "seconds": seconds, "peak_mb": peaks}


def ratio(row: dict, name: str, other: str) -> float | None:
    """Median over rounds of how many times longer ``name`` took than ``other`` in the same one."""
    if name not in row["seconds"] or other not in row["seconds"]:
        return None
    pairs = zip(row["seconds"][name], row["seconds"][other], strict=True)
    return statistics.median(a / b for a, b in pairs)


def check(names: list[str], options: argparse.Namespace) -> None:
    """That the contenders compute the same thing, before they are timed."""
    case = Case(256, 64, options.device, torch.float32, 64)

    def gradient(name: str) -> Tensor:
        CONTENDERS[name][0](case)()
        return case.speech.grad.clone()

    groups = [["cwcl", "plain"], ["clip", "open_clip", "mnrl", "cached_mnrl"]]
    for first, *others in groups:
        for other in (o for o in others if o in names and first in names):
            gap = float((gradient(first) - gradient(other)).norm() / gradient(first).norm())
            if gap > 1e-4:
                raise SystemExit(f"{TITLES[other]} differs from {TITLES[first]}: {gap:.2g}")


def describe(options: argparse.Namespace) -> dict:
    """The machine, without its name."""
    kind = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                kind = line.split(":")[1].strip()
                break
    if options.device.startswith("cuda"):
        kind = torch.cuda.get_device_name()
    versions = {"torch": torch.__version__}
    for package in sorted(set(NEEDS.values())):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "machine": kind,
        "device": options.device,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "clock": options.clock,
        "limit": options.limit,
        "versions": versions,
        "command": "python tools/benchmarks/loss.py " + " ".join(options.words),
    }


def table(results: dict) -> str:
    """The Markdown of one run."""
    names = [n for n in CONTENDERS if any(n in r["seconds"] for r in results["rows"])]
    rivals = [n for n in names if n not in ("floor", "cwcl", "clip")]
    about = results["about"]
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    lines = [
        f"Machine: {about['machine']}, threads: {about['threads']}, {about['dtype']}, "
        f"{about['clock']} clock; {versions}.",
        "",
        f"    {about['command']}",
        "",
        "Milliseconds, forward + backward, medians of interleaved rounds; ratios are medians of "
        "the ratios within a round, `x` those to the floor; MB is peak memory over the inputs; "
        f"`-`: would need more than {about['limit']:g} GiB.",
        "",
        "| N | dim | " + " | ".join(TITLES[n] for n in names) + " | CWCL / CLIP | "
        "CWCL / open_clip | " + " | ".join(f"MB {TITLES[n]}" for n in ["cwcl", *rivals]) + " |",
    ]
    columns = 2 + len(names) + 2 + 1 + len(rivals)
    lines.append("|" + "---:|" * columns)
    for row in sorted(results["rows"], key=lambda r: (r["dim"], r["rows"])):
        seconds, peaks = row["seconds"], row["peak_mb"]
        cells = [f"{row['rows']:,}", str(row["dim"])]
        for name in names:
            value, times = seconds.get(name), ratio(row, name, "floor")
            over = f" ({times:.2f} x)" if times and name != "floor" else ""
            cells.append(f"{1000 * statistics.median(value):,.1f}{over}" if value else "-")
        for other in ("clip", "open_clip"):
            value = ratio(row, "cwcl", other)
            cells.append(f"{value:.2f}" if value else "-")
        for name in ["cwcl", *rivals]:
            value = peaks.get(name)
            cells.append(f"{value:,.0f}" if value is not None else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(results: dict) -> None:
    """Put the table between its two marks in the README."""
    kind = "cpu" if results["about"]["device"] == "cpu" else "gpu"
    kind += "" if results["about"]["dtype"] == "float32" else "-" + results["about"]["dtype"]
    begin, end = f"<!-- loss-{kind} -->", f"<!-- /loss-{kind} -->"
    text = read_text(README) if README.exists() else "# Benchmarks\n\n## The loss\n"
    block = f"{begin}\n{table(results)}{end}"
    if begin in text and end in text:
        head, rest = text.split(begin, 1)
        text = head + block + rest.split(end, 1)[1]
    else:
        text = text.rstrip("\n") + f"\n\n{block}\n"
    with atomic_write(README) as stream:
        stream.write(text)


def arguments(words: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="batch sizes N")
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
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
    names = installed(["floor", *(n for n in options.only if n != "floor")])
    check(names, options)
    rows = []
    if options.json and options.json.exists():
        rows = read_json(options.json)["rows"]
    for dim in options.dims:
        for size in options.sizes:
            found = measure(size, dim, names, options)
            rows = [r for r in rows if (r["rows"], r["dim"]) != (size, dim)] + [found]
            shown = {n: round(1000 * statistics.median(s), 1) for n, s in found["seconds"].items()}
            print(size, dim, found["rounds"], "ms", json.dumps(shown), file=sys.stderr, flush=True)
            results = {"about": describe(options), "rows": rows}
            if options.json:
                write_json(options.json, results)
            if options.write:
                write(results)
    print(table(results))


if __name__ == "__main__":
    main(sys.argv[1:])
