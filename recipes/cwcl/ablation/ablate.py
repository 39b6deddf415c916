#!/usr/bin/env python3
"""Run a grid of training variants with several seeds; write a table and the trade-off plot.

Every run is an ordinary experiment folder OUT/<variant>/<seed>; one that is finished is not run
again, one that was interrupted goes on. The table gives the mean over seeds and half the width of
the 95 % interval of that mean (Student's t). Choose by the validation columns only.

Example:
    cd egs/mini/cwcl1 && ./run.sh --stop_stage 4
    python ../../../recipes/cwcl/ablation/ablate.py --out exp/ablation
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np
import yaml
from scipy import stats
from tqdm import tqdm

from speechcwcl.cli.main import main as speechcwcl
from speechcwcl.errors import UserError, require
from speechcwcl.files import atomic_write, read_json

HERE = Path(__file__).resolve().parent
VALID = ["valid_words:mini_words_valid", "valid_intents:mini_intents_valid",
         "valid_sentences:retrieval"]  # fmt: skip
TEST = ["test_words:mini_words", "test_intents:mini_intents", "test_sentences:retrieval"]


def run_one(folder: Path, config: Path, changes: dict, seed: int, args: argparse.Namespace) -> None:
    """Train, average and score one variant with one seed, unless that was done."""
    done = folder / "done.json"
    wanted = {"changes": changes, "seed": seed, "config": config.read_text(encoding="utf-8")}
    if done.exists() and read_json(done) == wanted:
        return
    overrides = [w for k, v in changes.items() for w in (f"--{k}", json.dumps(v))]
    sets = sorted({pair.split(":")[0] for pair in args.valid + args.test})
    common = ["--dumpdir", str(args.dumpdir)]
    for words in (
        ["train", str(config), "--train", str(args.dumpdir / args.train / "manifest.jsonl"),
         "--valid", *args.valid, "--expdir", str(folder), *common, "--device", args.device,
         "--seed", str(seed), *overrides],
        ["average", str(folder), "--best", "3"],
        ["embed-speech", str(folder), "--sets", *sets, *common],
        ["evaluate", str(folder), "--evals", *args.valid, *args.test, *common],
    ):  # fmt: skip
        code = speechcwcl(words)
        require(code == 0, f"{folder}: `speechcwcl {words[0]}` failed with code {code}")
    with atomic_write(done) as stream:
        json.dump(wanted, stream)


def scores_of(folder: Path, pairs: list[str]) -> list[float]:
    """Top-1 accuracy or retrieval R@1 of each set:protocol pair, in percent."""
    found = []
    for pair in pairs:
        name, protocol = pair.split(":")
        scores = read_json(folder / "eval" / name.replace("/", ".") / protocol / "scores.json")
        value = scores["speech_to_text"]["R@1"] if protocol == "retrieval" else scores["top1"]
        found.append(100 * value)
    return found


def mean_and_half_width(values: np.ndarray) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval (Student's t); NaN for a single run."""
    if len(values) < 2:
        return float(values.mean()), float("nan")
    spread = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * spread)


def table(results: dict[str, np.ndarray], pairs: list[str]) -> str:
    """Markdown: a row a variant, a column a set:protocol pair."""
    head = "| variant | " + " | ".join(pairs) + " | runs |"
    lines = [head, "|---" * (len(pairs) + 2) + "|"]
    for name, values in results.items():
        cells = []
        for column in range(len(pairs)):
            mean, half = mean_and_half_width(values[:, column])
            cells.append(f"{mean:.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}"))
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(values)} |")
    return "\n".join(lines)


def plot(results: dict[str, np.ndarray], pairs: list[str], path: Path) -> None:
    """Words against intents on the test sets: the trade-off front."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    words = next(i for i, pair in enumerate(pairs) if pair.startswith("test") and "words" in pair)
    intents = next(
        i for i, pair in enumerate(pairs) if pair.startswith("test") and "intent" in pair
    )
    figure, axes = plt.subplots(figsize=(9, 7))
    for name, values in results.items():
        mean = values.mean(axis=0)
        axes.scatter(mean[words], mean[intents], s=22)
        axes.annotate(name, (mean[words], mean[intents]), fontsize=7, xytext=(4, 3),
                      textcoords="offset points")  # fmt: skip
    axes.set_xlabel(f"{pairs[words]}, top-1 %")
    axes.set_ylabel(f"{pairs[intents]}, top-1 %")
    figure.tight_layout()
    with atomic_write(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=150)


def main() -> int:
    """Run the grid; exit code 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml", help="variants and seeds")
    parser.add_argument("--out", type=Path, required=True, help="runs, table and plot go here")
    parser.add_argument("--dumpdir", type=Path, default=Path("dump"), help="manifests and caches")
    parser.add_argument("--train", default="train", help="name of the training set")
    parser.add_argument("--valid", nargs="+", default=VALID, help="set:protocol pairs")
    parser.add_argument("--test", nargs="+", default=TEST, help="set:protocol pairs")
    parser.add_argument("--only", help="run the variants whose name matches this pattern")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of those of the grid")
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, ...")
    args = parser.parse_args()
    try:
        grid = yaml.safe_load(args.grid.read_text(encoding="utf-8"))
        config = (args.grid.parent / grid["defaults"]).resolve()
        chosen = {n: c for n, c in grid["variants"].items() if re.search(args.only or "", n)}
        require(bool(chosen), f"--only {args.only}: no variant of {args.grid} has such a name")
        pairs, results = args.valid + args.test, {}
        for name, changes in tqdm(chosen.items(), desc="variants"):
            folders = []
            for seed in args.seeds or grid["seeds"]:
                folder = args.out / re.sub(r"[^\w.]+", "_", name) / str(seed)
                run_one(folder, config, changes, seed, args)
                folders.append(folder)
            results[name] = np.array([scores_of(folder, pairs) for folder in folders])
            text = table(results, pairs)
            with atomic_write(args.out / "table.md") as stream:
                stream.write(text + "\n")
            plot(results, pairs, args.out / "front.png")
        print(text)
        return 0
    except UserError as error:
        print(f"ablate: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
