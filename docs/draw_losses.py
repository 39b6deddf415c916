#!/usr/bin/env python3
"""Draw what each loss reaches, from the ablation's table: one row a loss, one panel a test.

python docs/draw_losses.py      # docs/pictures/losses.png, of recipes/cwcl/ablation/RESULTS.md
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "recipes/cwcl/ablation/RESULTS.md"
# variant of the table -> what the figure calls it
LOSSES = {
    "best": "cwcl_matched (default)",
    "clip + 10 cosine": "clip + cosine",
    "clip, tau 0.2": "clip, temperature 0.2",
    "clip, tau 0.1": "clip, temperature 0.1",
    "siglip": "siglip",
    "cwcl, tau 0.1": "cwcl, temperature 0.1",
    "clip": "clip, learned scale",
    "cwcl": "cwcl, the paper's",
}
TESTS = {
    "test_slurp:slurp_intent": "SLURP intents\n(synthetic)",
    "test_topv2:stop_intent": "TOPv2 intents\n(synthetic)",
    "test_retrieval:retrieval": "retrieval, R@1 of 800\n(synthetic)",
    "words:gsc_v1_30": "30 command words\n(real)",
}


def table_under(page: Path, heading: str) -> dict[str, dict[str, str]]:
    """The first column's cells -> column -> cell, of the tables in the section of this heading."""
    text = page.read_text(encoding="utf-8").split(heading, 1)[1].split("\n## ", 1)[0]
    lines = re.findall(r"^\|.*\|$", text, re.M)
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def measured() -> dict[str, dict[str, tuple[float, float]]]:
    """Loss -> test -> (mean over seeds, half the width of its 95 % interval), in per cent."""
    table = table_under(RESULTS, "## grid.yaml")
    pair = re.compile(r"([\d.]+) ± ([\d.]+)")
    return {
        shown: {
            test: tuple(float(x) for x in pair.match(table[variant][test]).groups())
            for test in TESTS
        }
        for variant, shown in LOSSES.items()
    }


def draw(path: Path) -> None:
    """The figure as PNG."""
    table = measured()
    figure, panels = plt.subplots(
        1, len(TESTS), figsize=(9, 2.9), sharey=True, layout="constrained"
    )
    for axes, (test, title) in zip(panels, TESTS.items(), strict=True):
        for place, (loss, cells) in enumerate(table.items()):
            mean, half = cells[test]
            colour = "#c96a33" if loss.startswith("cwcl") else "#3a7bbd"
            axes.errorbar(mean, -place, xerr=half, fmt="o", color=colour, markersize=5, capsize=2)
        axes.set_title(title, fontsize=9)
        axes.set_yticks([-place for place in range(len(table))], list(table), fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="x", color="#e3e3e3")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.supxlabel("per cent, mean and 95 % interval over three seeds", fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs/pictures/losses.png")
    options = parser.parse_args()
    draw(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
