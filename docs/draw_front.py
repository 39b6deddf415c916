#!/usr/bin/env python3
"""Draw what the release's trainings reach: words and retrieval against intents.

python docs/draw_front.py      # docs/pictures/front.png, of egs/release/cwcl1/RESULTS.md
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from draw_losses import plt, table_under

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "egs/release/cwcl1/RESULTS.md"
PANELS = {
    "words: real digits, real commands, cut words": ("digits", "commands", "cut words"),
    "retrieval: R@1 of 800, of 57 real sentences": ("R@1 of 800", "sentences"),
}
INTENTS = ("SLURP", "TOPv2", "mini intents")
COLOURS = {"the one before": "#8a8a8a", "in the package": "#c96a33"}


def measured() -> dict[str, dict[str, tuple[float, float]]]:
    """Training -> test -> (per cent, half the width of its 95 % interval)."""
    cell = re.compile(r"([\d.]+) ± ([\d.]+)")
    return {
        training: {
            name: (float(found[1]), float(found[2]))
            for name, value in row.items()
            if (found := cell.fullmatch(value))
        }
        for training, row in table_under(RESULTS, "## The front").items()
    }


def together(cells: dict[str, tuple[float, float]], names: tuple[str, ...]) -> tuple[float, float]:
    """Mean of some tests, and half the width of its interval: the tests share no clip."""
    values, widths = zip(*(cells[name] for name in names), strict=True)
    return sum(values) / len(names), sum(width**2 for width in widths) ** 0.5 / len(names)


def draw(path: Path) -> None:
    """The figure as PNG."""
    table = measured()
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
    for axes, (title, names) in zip(panels, PANELS.items(), strict=True):
        for number, (training, cells) in enumerate(table.items(), 1):
            (x, dx), (y, dy) = together(cells, names), together(cells, INTENTS)
            known = [colour for key, colour in COLOURS.items() if key in training]
            label = f"{number}  {training.replace('`', '')}" if axes is panels[0] else None
            colour = known[0] if known else "#3a7bbd"
            axes.errorbar(x, y, dy, dx, "o", color=colour, lw=0.7, label=label)
            axes.annotate(str(number), (x, y), (5, 4), textcoords="offset points", fontsize=9)
        axes.set_xlabel(title + ", per cent", fontsize=8)
        axes.grid(color="#e3e3e3")
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("synthetic intents: SLURP, TOPv2, mini, per cent", fontsize=8)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs/pictures/front.png")
    options = parser.parse_args()
    draw(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
