#!/usr/bin/env python3
"""Run a grid of training variants with several seeds; write a table and the trade-off plot.

Every run is an ordinary experiment folder OUT/<variant>/<seed>; one that is finished is not run
again, one that was interrupted goes on. The table gives the mean over seeds and half the width of
the 95 % interval of that mean (Student's t). The variant with the best validation mean is named;
the test columns choose nothing.

Examples:
    recipes/cwcl/ablation/run.sh DATA exp/ablation        # makes the sets, then runs grid.yaml
    recipes/cwcl/ablation/run.sh DATA exp/ablation --only cosine --seeds 1
    cd egs/mini/cwcl1 && ./run.sh --stop_stage 4          # on the mini corpus alone:
    python ../../../recipes/cwcl/ablation/ablate.py --out exp/ablation \\
        --grid ../../../recipes/cwcl/ablation/mini.yaml
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import both  # noqa: F401  a family of encoders
import numpy as np
from scipy import stats
from tqdm import tqdm

from speechcwcl.cli.main import main as speechcwcl
from speechcwcl.errors import UserError, closest, require
from speechcwcl.files import atomic_write, read_json, write_json
from speechcwcl.training.config import load_config
from speechcwcl.yamls import read_yaml
from speechcwcl.zeroshot.protocol import load_protocol

HERE = Path(__file__).resolve().parent


@dataclass
class Grid:
    """A grid file.

    Attributes:
        defaults: the training YAML that all variants start from, relative to the grid file.
        train: name of the training set.
        valid: set:protocol pairs that choose the checkpoints, and the winner.
        test: set:protocol pairs that are only reported.
        words: the pairs whose mean is the plot's horizontal axis.
        intents: the pairs whose mean is its vertical axis.
        seeds: each variant runs once a seed.
        average: how many checkpoints are averaged.
        variants: name -> the keys of the training YAML that it changes; `train` names another
            training set.
    """

    defaults: Path
    train: str
    valid: list[str]
    test: list[str]
    words: list[str]
    intents: list[str]
    seeds: list[int]
    average: int
    variants: dict[str, dict[str, Any]]

    @property
    def pairs(self) -> list[str]:
        """All columns of the table."""
        return self.valid + self.test

    @classmethod
    def read(cls, path: Path) -> Grid:
        """Read a grid file; every key must be there, and no other."""
        values = read_yaml(path, typed=True).values
        known = [f.name for f in fields(cls)]
        for key in values:
            require(key in known, f"{path}: no such key {key!r}{closest(key, known)}")
        missing = [key for key in known if key not in values]
        require(not missing, f"{path}: {', '.join(missing)}: not given")
        grid = cls(**values | {"defaults": (path.parent / values["defaults"]).resolve()})
        for pair in grid.words + grid.intents:
            require(pair in grid.pairs, f"{path}: {pair!r} is none of the valid and test pairs")
        return grid


def run_one(folder: Path, changes: dict, seed: int, grid: Grid, args: argparse.Namespace) -> None:
    """Train, average and score one variant with one seed, unless that was done."""
    asked, done = folder / "asked.json", folder / "done.json"
    train = changes.get("train", grid.train)
    changes = {key: value for key, value in changes.items() if key != "train"}
    config = load_config(grid.defaults, {**changes, "seed": seed})
    wanted = {"config": config.as_dict(), "train": train, "pairs": grid.pairs}
    if folder.exists() and any(folder.iterdir()):
        require(asked.exists(), f"{folder}: is in the way and no run of this grid; move it")
        before = read_json(asked)
        before["config"] = load_config({}).as_dict() | before["config"]  # keys that are newer
        if before != wanted:
            shutil.rmtree(folder)  # another question
    if done.exists():
        return
    write_json(asked, wanted)
    overrides = [w for k, v in changes.items() for w in (f"--{k}", json.dumps(v))]
    sets = sorted({pair.split(":")[0] for pair in grid.pairs})
    common = ["--dumpdir", str(args.dumpdir)]
    for words in (
        ["train", str(grid.defaults), "--train", str(args.dumpdir / train / "manifest.jsonl"),
         "--valid", *grid.valid, "--expdir", str(folder), *common, "--device", args.device,
         "--seed", str(seed), *overrides],
        ["average", str(folder), "--best", str(grid.average)],
        ["embed-speech", str(folder), "--sets", *sets, *common],
        ["evaluate", str(folder), "--evals", *grid.pairs, *common],
    ):  # fmt: skip
        code = speechcwcl(words)
        require(code == 0, f"{folder}: `speechcwcl {words[0]}` failed with code {code}")
    write_json(done, {"command": sys.argv})


def scores_of(folder: Path, pairs: list[str]) -> tuple[list[float], list[float]]:
    """Top-1 accuracy or retrieval R@1 of each pair, and its text upper bound; in percent."""
    found, bounds = [], []
    for pair in pairs:
        name, protocol = pair.split(":")
        retrieval = protocol == "retrieval"
        of = protocol if retrieval else load_protocol(protocol).name  # a name or a file
        scores = read_json(folder / "eval" / name.replace("/", ".") / of / "scores.json")
        found.append(100 * (scores["speech_to_text"]["R@1"] if retrieval else scores["top1"]))
        bounds.append(100.0 if retrieval else 100 * scores["text_bound"]["top1"])
    return found, bounds


def mean_and_half_width(values: np.ndarray) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval (Student's t); NaN for a single run."""
    if len(values) < 2:
        return float(values.mean()), float("nan")
    spread = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * spread)


def cell(values: np.ndarray) -> str:
    """`mean ± half width`."""
    mean, half = mean_and_half_width(values)
    return f"{mean:.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}")


def rows_of(results: dict[str, np.ndarray], grid: Grid) -> list[str]:
    """Markdown: a row a variant, a column a set:protocol pair, the validation mean first."""
    head = "| variant | validation mean | " + " | ".join(grid.pairs) + " | runs |"
    lines = [head, "|---" * (len(grid.pairs) + 3) + "|"]
    count = len(grid.valid)
    for name, values in results.items():
        cells = [cell(values[:, column]) for column in range(len(grid.pairs))]
        first = cell(values[:, :count].mean(axis=1))
        lines.append(f"| {name} | {first} | " + " | ".join(cells) + f" | {len(values)} |")
    return lines


def differences(results: dict[str, np.ndarray], name: str, grid: Grid) -> str:
    """The same table of what each variant is above one of them, seed by seed."""
    require(name in results, f"--against {name}: no finished variant{closest(name, results)}")
    base = results[name]
    same = {n: v - base for n, v in results.items() if n != name and v.shape == base.shape}
    return "\n".join([f"Differences from *{name}*, seed by seed:", "", *rows_of(same, grid)])


def table(results: dict[str, np.ndarray], bounds: list[float], grid: Grid) -> str:
    """All variants, the text bounds of the first, and which is best."""
    lines, count = rows_of(results, grid), len(grid.valid)
    lines.append("| *text bound* | | " + " | ".join(f"{b:.1f}" for b in bounds) + " | |")
    best = max(results, key=lambda name: results[name][:, :count].mean())
    runs = sum(len(values) for values in results.values())
    other = any("train" in (grid.variants[name] or {}) for name in results)
    return "\n".join([
        *lines, "",
        f"{len(results)} variants, {runs} runs, trained on `{grid.train}`"
        f"{' or the set that the variant names' if other else ''}. Best mean of the "
        f"{count} validation columns: **{best}**. The other columns chose nothing.",
    ])  # fmt: skip


def plot(results: dict[str, np.ndarray], grid: Grid, path: Path) -> None:
    """Words against intents on the test sets: the trade-off front."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    across = [grid.pairs.index(pair) for pair in grid.words]
    upward = [grid.pairs.index(pair) for pair in grid.intents]
    figure, axes = plt.subplots(figsize=(9, 7))
    for name, values in results.items():
        x, y = values[:, across].mean(axis=1), values[:, upward].mean(axis=1)
        (dx, dy) = (mean_and_half_width(v)[1] for v in (x, y))
        axes.errorbar(x.mean(), y.mean(), xerr=dx, yerr=dy, fmt="o", ms=4, lw=0.7, alpha=0.8)
        axes.annotate(name, (x.mean(), y.mean()), fontsize=7, xytext=(4, 3),
                      textcoords="offset points")  # fmt: skip
    axes.set_xlabel(f"words: mean of {', '.join(grid.words)}, top-1 %")
    axes.set_ylabel(f"intents: mean of {', '.join(grid.intents)}, top-1 %")
    axes.grid(alpha=0.3)
    axes.margins(x=0.2)  # room for the names
    figure.tight_layout()
    with atomic_write(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=150)
    plt.close(figure)


def run_grid(grid: Grid, args: argparse.Namespace) -> str:
    """Run what is chosen; table and plot are written anew after each variant."""
    chosen = {n: c or {} for n, c in grid.variants.items() if re.search(args.only or "", n)}
    require(bool(chosen), f"--only {args.only}: no variant of {args.grid} has such a name")
    results: dict[str, np.ndarray] = {}
    bounds: list[float] = []  # of the first variant: another text encoder has others
    text = ""
    for name, changes in tqdm(chosen.items(), desc="variants"):
        rows = []
        for seed in args.seeds or grid.seeds:
            folder = args.out / re.sub(r"[^\w.]+", "_", name) / str(seed)
            if not args.report:
                run_one(folder, changes, seed, grid, args)
            if (folder / "done.json").exists():
                found, own_bounds = scores_of(folder, grid.pairs)
                bounds = bounds or own_bounds
                rows.append(found)
        if not rows:
            continue
        results[name] = np.array(rows)
        if not args.report:
            text = publish(results, bounds, grid, args.out)
    require(bool(results), f"{args.out}: no finished run of {args.grid}")
    if args.against:
        return differences(results, args.against, grid)
    return text or publish(results, bounds, grid, args.out)


def publish(results: dict[str, np.ndarray], bounds: list[float], grid: Grid, folder: Path) -> str:
    """Write table and plot of the results so far; return the table."""
    text = table(results, bounds, grid)
    with atomic_write(folder / "table.md") as stream:
        stream.write(text + "\n")
    plot(results, grid, folder / "front.png")
    return text


def main(argv: list[str] | None = None) -> int:
    """Run the grid; exit code 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml", help="the grid file")
    parser.add_argument("--out", type=Path, required=True, help="runs, table and plot go here")
    parser.add_argument("--dumpdir", type=Path, default=Path("dump"), help="manifests and caches")
    parser.add_argument("--only", help="run the variants whose name matches this pattern")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of those of the grid")
    parser.add_argument("--report", action="store_true", help="of finished runs; run nothing")
    parser.add_argument("--against", metavar="NAME", help="print differences from this variant")
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, ...")
    args = parser.parse_args(argv)
    try:
        print(run_grid(Grid.read(args.grid), args))
        return 0
    except UserError as error:
        print(f"ablate: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
