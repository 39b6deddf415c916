#!/usr/bin/env python3
"""Clips per second on the CPU: our model in torch, ONNX and ONNX int8, against what users take now.

    python tools/benchmarks/inference.py --model DIR --onnx DIR --int8 DIR --json FILE --write

Every contender gets one clip at a time and ends at the number of the nearest of ten labels, whose
texts are embedded beforehand (the pipeline of transformers knows no beforehand: it embeds them at
every call; `CLAP, audio tower` leaves that out). Contenders run interleaved, one after the other in
every round; medians over the rounds. Processor time (all threads of the process) stands beside
wall time, which says little on a busy machine. FILE is the one that tools/benchmarks/accuracy.py
fills: its accuracies go into the table.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_page import write_section

from speechcwcl.errors import UserError
from speechcwcl.files import read_json, read_text, write_json
from speechcwcl.models.aligner import Aligner

README = Path(__file__).with_name("README.md")
LABELS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
TITLES = {
    "ours": "ours, torch",
    "onnx": "ours, ONNX",
    "int8": "ours, ONNX int8",
    "cascade": "Whisper tiny.en + MiniLM",
    "clap": "CLAP, transformers pipeline",
    "clap_tower": "CLAP, audio tower",
}
Classify = Callable[[np.ndarray], Any]


def speech_clip(seconds: float) -> np.ndarray:
    """(samples,) at 16 kHz: sentences of the mini corpus, one after the other, cut to length."""
    from accuracy import load, utterances

    wanted = round(seconds * 16000)
    wave = np.zeros(0, np.float32)
    for clip in utterances("mini_intents", None, 50):
        if len(wave) < wanted:
            wave = np.concatenate([wave, load([clip])[0]])
    return wave[:wanted]


def ours(model: Any) -> Classify:
    """One of our models, labels embedded beforehand."""
    rows = model.encode_labels(LABELS)
    return lambda wav: int(np.argmax(model.encode_speech([wav]) @ rows.T))


def cascade(tiny: bool) -> Classify:
    """Whisper, then the text encoder."""
    from rivals import Cascade

    model = Cascade()
    if tiny:
        model.model.generation_config.max_new_tokens = 2
    rows = model.encode_text(LABELS)
    return lambda wav: int(np.argmax(model.encode_speech([wav]) @ rows.T))


def clap(tiny: bool) -> tuple[Classify, Classify]:
    """The pipeline, and the audio tower alone; the clip comes at 48 kHz, as CLAP wants it."""
    from rivals import build_clap

    pipeline = build_clap(layers=1 if tiny else 6, tiny=tiny)
    rows = torch.randn(len(LABELS), pipeline.model.config.projection_dim)

    def tower(wav: np.ndarray) -> int:
        with torch.no_grad():
            taken = pipeline.feature_extractor(wav, sampling_rate=48000, return_tensors="pt")
            found = pipeline.model.get_audio_features(**taken)
            found = getattr(found, "pooler_output", found)
            return int((rows @ found[0]).argmax())

    def whole(wav: np.ndarray) -> Any:
        return pipeline(wav, candidate_labels=LABELS)

    return (lambda wav: whole(np.repeat(wav, 3))), (lambda wav: tower(np.repeat(wav, 3)))


def contenders(args: argparse.Namespace, threads: int) -> dict[str, Classify]:
    """Open every contender that is asked for; torch has `threads` already."""
    found: dict[str, Classify] = {}
    if args.model:
        found["ours"] = ours(Aligner.from_pretrained(args.model))
    for key in ("onnx", "int8"):
        if getattr(args, key):
            from speechcwcl.export.onnx_model import OnnxAligner

            model = OnnxAligner.from_pretrained(getattr(args, key), threads=threads)
            found[key] = ours(model)
    if "cascade" in args.rivals:
        found["cascade"] = cascade(args.tiny)
    if "clap" in args.rivals:
        found["clap"], found["clap_tower"] = clap(args.tiny)
    return found


def measure(run: dict[str, Classify], wav: np.ndarray, rounds: int, seconds: float) -> dict:
    """Seconds a clip, wall and processor: `{contender: {"wall": [...], "cpu": [...]}}`.

    Args:
        run: the contenders.
        wav: the clip.
        rounds: in each, every contender runs until `seconds` of its processor time are over.
        seconds: see `rounds`.
    """
    for classify in run.values():
        classify(wav)  # memory, graphs, tokenizers
    found: dict = {name: {"wall": [], "cpu": []} for name in run}
    for _ in range(rounds):
        for name, classify in run.items():
            wall, cpu, count = time.perf_counter(), time.process_time(), 0
            while not count or time.process_time() - cpu < seconds:
                classify(wav)
                count += 1
            found[name]["wall"].append((time.perf_counter() - wall) / count)
            found[name]["cpu"].append((time.process_time() - cpu) / count)
    return found


def speed_table(speeds: dict[str, dict], sizes: dict[str, float]) -> str:
    """Clips per second of every contender, as markdown."""
    cases = list(speeds)
    names = [name for name in TITLES if any(name in times for times in speeds.values())]
    lines = [f"| clips per second: cpu (wall) | MB | {' | '.join(cases)} |"]
    lines.append("|---" * (2 + len(cases)) + "|")
    for name in names:
        cells = [TITLES[name], f"{sizes[name]:.1f}" if name in sizes else ""]
        for case in cases:
            times = speeds[case].get(name)
            rate = [1 / statistics.median(times[key]) for key in ("cpu", "wall")] if times else []
            cells.append(f"{rate[0]:.1f} ({rate[1]:.1f})" if rate else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def accuracy_table(accuracy: dict[str, dict]) -> str:
    """Top-1 of every contender on every set, as markdown; empty where nothing is known."""
    from accuracy import SETS

    names = [name for name in TITLES if any(name in rows for rows in accuracy.values())]
    if not names:
        return ""
    heads = [TITLES[name] for name in names] + ["the same, spelt"] * ("cascade" in names)
    lines = [f"| zero-shot top-1 | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for which in [which for which in SETS if which in accuracy]:
        rows = [accuracy[which].get(name) for name in names]
        rows += [(accuracy[which].get("cascade") or {}).get("spelt")] * ("cascade" in names)
        lines.append(f"| {' | '.join([SETS[which][0], *map(_top1, rows)])} |")
    return "\n".join(lines)


def _top1(row: dict | None) -> str:
    if not row:
        return "-"
    low, high = (100 * value for value in row["top1_interval"])
    return f"{100 * row['top1']:.1f} % [{low:.1f}, {high:.1f}] of {row['n']}"


def ratios(speeds: dict[str, dict]) -> list[str]:
    """Lines that say how many times faster than the rivals we are (processor time, by round)."""
    lines = []
    for case, times in speeds.items():
        for rival in ("cascade", "clap_tower"):
            for name in ("ours", "onnx", "int8"):
                if rival in times and name in times:
                    pairs = zip(times[rival]["cpu"], times[name]["cpu"], strict=True)
                    factor = statistics.median(a / b for a, b in pairs)
                    lines.append(f"{case}: {TITLES[name]} {factor:.1f} x {TITLES[rival]}")
    return lines


def machine() -> str:
    """One line on the machine and the versions."""
    model = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    if path.exists():
        named = [line for line in read_text(path).splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    packages = ("torch", "transformers", "onnxruntime")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"Machine: {model}, float32 unless said otherwise; {versions}."


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a model folder")
    parser.add_argument("--onnx", type=Path, help="a folder of `speechcwcl export`")
    parser.add_argument("--int8", type=Path, help="a folder of `speechcwcl export --int8`")
    parser.add_argument("--rivals", nargs="*", choices=["cascade", "clap"],
                        default=["cascade", "clap"])  # fmt: skip
    parser.add_argument("--seconds", nargs="+", type=float, default=[1.0, 10.0], help="of clips")
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2],
                        help="none: measure nothing, make the table from FILE")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=0.5,
                        help="processor seconds of a contender in a round")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="rivals that only show that it runs")
    parser.add_argument("--json", type=Path, required=True, help="figures are kept here")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    return parser.parse_args(argv)


def report(found: dict[str, Any], words: Sequence[str]) -> str:
    """The text for README.md."""
    command = "    python tools/benchmarks/inference.py " + " ".join(words)
    tables = [speed_table(found["speed"], found.get("sizes", {}))]
    tables += [table] if (table := accuracy_table(found.get("accuracy", {}))) else []
    told = (
        "Clips per second by processor time (in brackets: by wall time, on a machine that had "
        "other work), one clip at a time; top-1 with its 95 % interval."
    )
    lines = "\n".join(f"- {line}" for line in ratios(found["speed"]))
    return "\n\n".join([machine(), command, told, tables[0], lines, *tables[1:]])


def main(argv: Sequence[str] | None = None) -> int:
    """Run; exit code 2 for what the user can put right."""
    args = parse(argv)
    try:
        found = read_json(args.json) if args.json.exists() else {}
        found.setdefault("speed", {})
        for key in ("onnx", "int8"):
            if folder := getattr(args, key):
                size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
                found.setdefault("sizes", {})[key] = size
        for threads in args.threads:
            torch.set_num_threads(threads)
            run = contenders(args, threads)
            for seconds in args.seconds:
                times = measure(run, speech_clip(seconds), args.rounds, args.budget)
                plural = "" if threads == 1 else "s"
                found["speed"][f"{seconds:g} s, {threads} thread{plural}"] = times
                write_json(args.json, found)
        shown = ["--model DIR --onnx DIR --int8 DIR --json FILE --write"]
        shown += [f"--rounds {args.rounds} --budget {args.budget:g}"]
        text = report(found, shown)
        print(text)
        if args.write:
            write_section("inference", "## Inference", text, README)
    except UserError as error:
        print(f"inference: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
