#!/usr/bin/env python3
"""Draw the two towers and the loss between them.

  python docs/draw_towers.py            # writes docs/towers.svg
The drawing brings a card of its own to stand on, so it reads on light and on dark pages; where a
viewer says which of the two it has, the card follows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STYLE = """
.card{fill:#f6f8fa;stroke:#d0d7de} text{fill:#1f2328} .small{fill:#57606a}
.train{fill:#ffe3c2;stroke:#b35900} .frozen{fill:#dbeafe;stroke:#1d4ed8}
.cell{fill:#d97706;stroke:#b35900}
.line{stroke:#57606a;fill:none} .head{fill:#57606a}
@media (prefers-color-scheme: dark){
.card{fill:#161b22;stroke:#30363d} text{fill:#e6edf3} .small{fill:#9da7b3}
.train{fill:#5c3310;stroke:#f0a35e} .frozen{fill:#1c3358;stroke:#7aa7f5}
.line{stroke:#9da7b3} .head{fill:#9da7b3}}
"""
# Weights of four texts for each other, as CWCL would give them: made up, to show the idea.
TEXTS = ("turn on the light", "light on please", "play a song", "stop")
NEAR = ((1.0, 0.9, 0.4, 0.45), (0.9, 1.0, 0.4, 0.4), (0.4, 0.4, 1.0, 0.5), (0.45, 0.4, 0.5, 1.0))


def words(x: float, y: float, text: str, *, size: int = 15, kind: str = "", at: str = "middle"):
    """One line of text."""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{at}"{named}>{text}</text>'


def box(x: float, y: float, wide: float, kind: str, title: str, below: str) -> list[str]:
    """A box with a title and a smaller line below it."""
    return [
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{wide:g}" height="58" rx="8"/>',
        words(x + wide / 2, y + 25, title),
        words(x + wide / 2, y + 45, below, size=12, kind="small"),
    ]


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line with a head at its end."""
    return (
        f'<path class="line" stroke-width="1.6" marker-end="url(#tip)" d="M{x1:g} {y1:g}'
        f'L{x2:g} {y2:g}"/>'
    )


def matrix(x: float, y: float, cells: tuple[tuple[float, ...], ...], side: float = 30) -> list[str]:
    """Squares whose strength is the weight."""
    return [
        f'<rect class="cell" x="{x + column * side:g}" y="{y + row * side:g}" width="{side - 3:g}" '
        f'height="{side - 3:g}" rx="3" fill-opacity="{0.85 * value**2:.2f}" stroke-opacity="0.5"/>'
        for row, values in enumerate(cells)
        for column, value in enumerate(values)
    ]


def draw() -> str:
    """The drawing as SVG."""
    one = tuple(tuple(float(i == j) for j in range(4)) for i in range(4))
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 344" role="img" '
        'font-family="system-ui, sans-serif">',
        "<title>A trained speech encoder and a frozen text encoder end in one space; the loss asks "
        "each clip to be as near to every text as its own text is</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker></defs>',
        '<rect class="card" x="1" y="1" width="958" height="342" rx="14"/>',
        words(20, 76, "speech", at="start"),
        *box(110, 42, 190, "train", "speech encoder", "Whisper, HuBERT, WavLM, ..."),
        *box(330, 42, 160, "train", "pooling, projection", "trained"),
        words(20, 216, "its text", at="start"),
        *box(110, 182, 190, "frozen", "text encoder", "MiniLM, MPNet, RoBERTa, ..."),
        *box(330, 182, 160, "frozen", "one unit vector", "frozen"),
        arrow(78, 71, 108, 71),
        arrow(300, 71, 328, 71),
        arrow(84, 211, 108, 211),
        arrow(300, 211, 328, 211),
        arrow(490, 71, 560, 120),
        arrow(490, 211, 560, 162),
        words(300, 288, "Afterwards, labels in words go through the text encoder;", size=14),
        words(300, 310, "a clip belongs to the label whose vector is nearest.", size=14),
        words(628, 40, "plain contrastive", size=14),
        *matrix(570, 56, one),
        words(630, 202, "only the own text counts", size=12, kind="small"),
        words(835, 40, "CWCL", size=14),
        *matrix(775, 56, NEAR),
        words(835, 202, "texts count as near as they are", size=12, kind="small"),
        words(732, 240, "Rows: clips. Columns: texts. One batch of four:", size=12, kind="small"),
    ]
    parts += [
        words(732, 262 + 18 * row, f"{row + 1}  {text}", size=12, kind="small")
        for row, text in enumerate(TEXTS)
    ]
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write the drawing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/towers.svg", help="the SVG (default: %(default)s)"
    )
    options = parser.parse_args()
    options.out.write_text(draw(), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
