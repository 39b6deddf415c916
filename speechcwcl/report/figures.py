"""The report's drawings as inline SVG that takes its colours from the page's CSS variables.

Everything that comes from data is escaped here; what is returned may go into the page as it is.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

# matplotlib wants real colours; these stand for CSS variables and are put back afterwards.
_STANDINS = {"#010101": "var(--ink)", "#020202": "var(--muted)", "#030303": "var(--line)"}
_RUN_STANDINS = [f"#0{n}0{n}f{n}" for n in range(4, 10)]
RUN_COLOURS = len(_RUN_STANDINS)
_STANDINS |= {colour: f"var(--run{n})" for n, colour in enumerate(_RUN_STANDINS)}
LEVELS = 64
COLOUR_MAP = "viridis"


def short(text: str, limit: int = 26) -> str:
    """Cut a label for an axis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def confusion_svg(confusion: np.ndarray, texts: Sequence[str], alt: str) -> str:
    """A heat map: row = true label, column = predicted; shade = share of the row.

    Args:
        confusion: (classes, classes) counts.
        texts: label texts.
        alt: what the picture shows, in words.
    """
    n = len(texts)
    cell, font = 18, 13
    gutter = max(60, round(max(len(short(t)) for t in texts) * font * 0.54) + 12)
    size = n * cell
    parts = [
        f'<svg class="heat" role="img" viewBox="0 0 {gutter + size + 2} {size + gutter + 2}"'
        f' width="{gutter + size + 2}" font-size="{font}"><title>{escape(alt)}</title>',
        f'<g transform="translate({gutter},1)">',
        f'<rect class="frame" x="-.5" y="-.5" width="{size + 1}" height="{size + 1}"/>',
    ]
    support = np.maximum(confusion.sum(axis=1), 1)
    for row, column in zip(*np.nonzero(confusion), strict=True):
        count = int(confusion[row, column])
        share = count / support[row]
        kind = "hit" if row == column else "miss"
        says = (
            f"{texts[row]} → {texts[column]}: {count} of {support[row]} ({100 * share:.0f} %)"
            if kind == "miss"
            else f"{texts[row]}: {count} of {support[row]} right ({100 * share:.0f} %)"
        )
        parts.append(
            f'<rect class="{kind}" x="{column * cell}" y="{row * cell}" width="{cell}"'
            f' height="{cell}" fill-opacity="{0.14 + 0.86 * share:.2f}">'
            f"<title>{escape(says)}</title></rect>"
        )
    for index, text in enumerate(texts):
        middle = index * cell + cell / 2
        label = escape(short(text))
        parts.append(
            f'<text x="-6" y="{middle:g}" text-anchor="end" dominant-baseline="central">'
            f"{label}</text>"
            f'<text transform="translate({middle:g},{size + 6}) rotate(-90)" text-anchor="end"'
            f' dominant-baseline="central">{label}</text>'
        )
    parts.append("</g></svg>")
    return "".join(parts)


def similarity_svg(
    similarity: np.ndarray,
    labels: Sequence[str],
    scale: tuple[float, float],
    alt: str,
    largest: int,
) -> str:
    """The similarity matrix speech (down) x text (across) with lines between the classes.

    Args:
        similarity: (s, s) cosines, sorted by class.
        labels: (s,) label texts of the rows, equal ones together.
        scale: cosines at the two ends of the colour scale.
        alt: what the picture shows, in words.
        largest: pixels a side at most; a larger matrix is thinned out.
    """
    s = len(labels)
    starts = [i for i in range(s) if i == 0 or labels[i] != labels[i - 1]]
    side, gutter = 400, 0
    unit = side / s
    named = len(starts) <= 40
    if named:
        gutter = max(48, round(max(len(short(labels[i])) for i in starts) * 5.3) + 8)
    parts = [
        f'<svg class="similarity" role="img" viewBox="0 0 {gutter + side + 1} {side + 1}"'
        f' font-size="9.5"><title>{escape(alt)}</title><g transform="translate({gutter},.5)">',
        f'<image width="{side}" height="{side}" preserveAspectRatio="none"'
        f' href="{_heat_png(similarity, scale, largest)}"/>',
    ]
    path = "".join(f"M0 {i * unit:.1f}H{side}M{i * unit:.1f} 0V{side}" for i in starts[1:])
    parts.append(f'<path class="bounds" d="{path}"/>')
    if named:
        ends = [*starts[1:], s]
        for start, end in zip(starts, ends, strict=True):
            middle = (start + end) / 2 * unit
            parts.append(
                f'<text x="-5" y="{middle:.1f}" text-anchor="end" dominant-baseline="central">'
                f"{escape(short(labels[start]))}</text>"
            )
    parts.append("</g></svg>")
    return "".join(parts)


def similarity_scale(matrices: Sequence[np.ndarray]) -> tuple[float, float]:
    """One colour scale for the panels of all runs: nearly the whole range of their cosines."""
    values = np.concatenate([m.ravel() for m in matrices])
    low, high = np.quantile(values, [0.005, 0.995])
    low, high = float(np.floor(low * 20) / 20), float(np.ceil(high * 20) / 20)
    return (low, high) if high > low else (low, low + 0.05)


def scale_gradient() -> str:
    """The colour scale as a CSS gradient."""
    colours = mpl.colormaps[COLOUR_MAP](np.linspace(0, 1, 9))
    return f"linear-gradient(90deg,{','.join(mpl.colors.to_hex(c) for c in colours)})"


def _heat_png(matrix: np.ndarray, scale: tuple[float, float], largest: int) -> str:
    """The matrix as a PNG with a palette, in a ``data:`` address."""
    if len(matrix) > largest:
        keep = np.linspace(0, len(matrix) - 1, largest).round().astype(int)
        matrix = matrix[np.ix_(keep, keep)]
    low, high = scale
    level = np.clip((matrix - low) / (high - low) * LEVELS, 0, LEVELS - 1).astype(np.uint8)
    image = Image.fromarray(level)
    palette = mpl.colormaps[COLOUR_MAP](np.linspace(0, 1, LEVELS))[:, :3] * 255
    image.putpalette(palette.round().astype(np.uint8).tobytes())
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def curves_svg(
    series: Sequence[tuple[int, bool, Sequence[float], Sequence[float]]], alt: str, number: int
) -> str:
    """Training curves of one quantity.

    Args:
        series: (run number, is it validation?, epochs, values); training is drawn dashed where
            there is validation too.
        alt: what the picture shows, in words.
        number: makes the ids of this drawing its own.
    """
    options = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"speechcwcl-{number}",
        "font.size": 9,
        "axes.edgecolor": "#030303",
        "axes.linewidth": 0.8,
        "xtick.color": "#020202",
        "ytick.color": "#020202",
    }
    both = len({valid for _, valid, _, _ in series}) > 1
    with mpl.rc_context(options):
        figure = Figure(figsize=(3.7, 2.2), layout="constrained")
        axes = figure.subplots()
        for run, valid, epochs, values in series:
            axes.plot(
                epochs,
                values,
                color=_RUN_STANDINS[run % RUN_COLOURS],
                linestyle="--" if both and not valid else "-",
                marker="o" if len(epochs) < 15 else None,
                markersize=2.6,
                linewidth=1.6,
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(axis="y", color="#030303", linewidth=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel("epoch", color="#020202")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _adopt(stream.getvalue(), alt, number)


def _adopt(svg: str, alt: str, number: int) -> str:
    """Make matplotlib's SVG a part of the page: its ids unique, its colours the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>c{number}-", svg)
    for colour, variable in _STANDINS.items():
        svg = svg.replace(colour, variable)
    box = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg class="curve" role="img" {box[0] if box else ""}><title>{escape(alt)}</title>'
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)
