"""What the page draws and plays, as `data:` addresses: curves, the heat map, recordings."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from speechcwcl.data.audio import SAMPLE_RATE, encode_audio, load_audio
from speechcwcl.errors import UserError
from speechcwcl.evaluation.results import ScoreFolder
from speechcwcl.report.runs import Test

RUN_COLOURS = ("#3a7bbd", "#c96a33", "#33936f", "#8b5eb5", "#a3841c", "#b74c74")  # --run0 ...
COLOUR_MAP = mpl.colormaps["viridis"].resampled(64)
LONGEST = 8.0  # seconds of a recording that are kept
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "speechcwcl",
    "font.size": 9,
    "text.color": "#5d646e",
    "axes.labelcolor": "#5d646e",
    "xtick.color": "#5d646e",
    "ytick.color": "#5d646e",
    "axes.edgecolor": "#d5d2cb",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#d5d2cb",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def data_address(kind: str, content: bytes) -> str:
    """Bytes as an address that stands in the page itself."""
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")


def curves(series: Sequence[tuple[int, bool, Sequence[float], Sequence[float]]]) -> str:
    """Training curves of one quantity, as the address of an SVG; the page inverts it in the dark.

    Args:
        series: (run number, is it validation?, epochs, values); training is drawn dashed where
            there is validation too.
    """
    both = len({valid for _, valid, _, _ in series}) > 1

    def draw(axes: Axes) -> None:
        for run, valid, epochs, values in series:
            style = "--" if both and not valid else "-"
            marker = "o" if len(epochs) < 15 else None
            options: Any = {"marker": marker, "markersize": 2.6, "linewidth": 1.6}
            axes.plot(epochs, values, style, color=_colour(run), **options)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set_xlabel("epoch")

    return _drawn((3.7, 2.2), draw)


def trade_off(series: Sequence[tuple[int, bool, dict[str, list[float]]]]) -> str:
    """Detection error trade-off: missed keywords by false alarms an hour, as an SVG's address.

    Args:
        series: (run number, all labels together? else each alone, the curve); alone is dashed.
    """

    def draw(axes: Axes) -> None:
        for run, together, curve in series:
            missed = [max(100 * value, 0.5) for value in curve["missed"]]
            style = "-" if together else "--"
            axes.loglog(curve["per_hour"], missed, style, color=_colour(run), linewidth=1.6)
        for number in (axes.xaxis, axes.yaxis):
            number.set_major_formatter("{x:g}")
        axes.set(xlabel="false alarms an hour", ylabel="missed, %")

    return _drawn((4.2, 3.0), draw)


def reliability(series: Sequence[tuple[int, Sequence[dict[str, float]]]]) -> str:
    """Share of right events by their score, as an SVG's address; the diagonal is calibrated."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="#d5d2cb", linewidth=1)
        for run, bins in series:
            points = [(row["score"], row["right"]) for row in bins]
            axes.plot(*zip(*points, strict=True), color=_colour(run), marker="o", markersize=3)
        axes.set(xlabel="score", ylabel="share right")

    return _drawn((3.0, 3.0), draw)


def _colour(run: int) -> str:
    return RUN_COLOURS[run % len(RUN_COLOURS)]


def _drawn(size: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    """A drawing of `size` (inches) as the address of an SVG."""
    stream = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return data_address("image/svg+xml", stream.getvalue())


def heat_map(matrix: np.ndarray, scale: tuple[float, float], largest: int) -> str:
    """(s, s) cosines as the address of a PNG; more than `largest` rows are thinned out."""
    if len(matrix) > largest:
        keep = np.linspace(0, len(matrix) - 1, largest).round().astype(int)
        matrix = matrix[np.ix_(keep, keep)]
    stream = io.BytesIO()
    mpl.image.imsave(stream, matrix, *scale, cmap=COLOUR_MAP, pil_kwargs={"optimize": True})
    return data_address("image/png", stream.getvalue())


def similarity_scale(matrices: Sequence[np.ndarray]) -> tuple[float, float]:
    """One colour scale for the panels of all runs: nearly the whole range of their cosines."""
    values = np.concatenate([m.ravel() for m in matrices])
    low, high = np.quantile(values, [0.005, 0.995])
    low, high = float(np.floor(low * 20) / 20), float(np.ceil(high * 20) / 20)
    return low, max(high, low + 0.05)


def scale_gradient() -> str:
    """The colour scale as a CSS gradient."""
    colours = COLOUR_MAP(np.linspace(0, 1, 9))
    return f"linear-gradient(90deg,{','.join(mpl.colors.to_hex(c) for c in colours)})"


@dataclass
class Example:
    """One recording with what every run made of it."""

    id: str  # of the utterance
    text: str  # its words where known
    label: str  # the text of its true label
    kind: str  # `"right"`, `"split"` (the runs disagree) or `"wrong"`
    # run number -> the best labels as (text, cosine, is it the true one?)
    tops: dict[int, list[tuple[str, float, bool]]]
    source: str = ""  # a `data:` address, or an empty string where the recording cannot be read
    cut: bool = False  # is it longer than what is kept?


@dataclass
class Budget:
    """How many bytes of audio a report may still take."""

    left: int


def choose_examples(test: Test, budget: Budget, each: int = 3) -> list[Example]:
    """Up to `each` that all runs have right, that they disagree on, that none has right.

    The choice depends on the ids only (their hash), with a new class each time while there are
    any; it is the same for every order of the set.
    """
    by_run = {
        number: {row["id"]: row for row in folder.predictions}
        for number, folder in test.folders.items()
    }
    first = by_run[min(by_run)]
    shared = set.intersection(*(set(rows) for rows in by_run.values()))
    kinds: dict[str, list[str]] = {"right": [], "split": [], "wrong": []}
    for name in sorted(shared, key=lambda name: sha256(name.encode()).digest()):
        marks = [rows[name]["correct"] == "1" for rows in by_run.values()]
        kinds["right" if all(marks) else "split" if any(marks) else "wrong"].append(name)
    found = []
    texts = test.first.label_texts
    for kind, names in kinds.items():
        for name in _spread(names, {n: first[n]["label"] for n in names}, each):
            row = first[name]
            label = row["label"]
            tops = {n: _tops(test.folders[n], rows[name], label) for n, rows in by_run.items()}
            said = row.get("text", "")
            found.append(
                Example(name, said, texts.get(label, label), kind, tops, *embed_audio(row, budget))
            )
    return found


def _spread(names: list[str], label: dict[str, str], count: int) -> list[str]:
    """The first `count` names, no class twice before every class had its turn."""
    turns: Counter[str] = Counter()

    def turn(name: str) -> int:
        turns[label[name]] += 1
        return turns[label[name]]

    return sorted(names, key=turn)[:count]


def _tops(
    folder: ScoreFolder, row: dict[str, str], true: str, count: int = 3
) -> list[tuple[str, float, bool]]:
    texts = folder.label_texts
    pairs = [(row["prediction"], row["score"])]
    pairs += [(row[f"top{n}"], row[f"score{n}"]) for n in range(2, count + 1) if row.get(f"top{n}")]
    return [(texts.get(label, label), float(score), label == true) for label, score in pairs]


def embed_audio(row: dict[str, str], budget: Budget) -> tuple[str, bool]:
    """The recording of a `predictions.tsv` row as FLAC in a `data:` address.

    Returns:
        (address, was it cut?); the address is empty where there is no recording or no room.
    """
    if not row.get("audio"):
        return "", False
    start, end = (float(row[key]) if row.get(key) else None for key in ("start", "end"))
    try:
        wav = load_audio(Path(row["audio"]), start, end)
    except UserError:
        return "", False  # moved or deleted since: the report shows the labels without a player
    longest = int(LONGEST * SAMPLE_RATE)
    address = data_address("audio/flac", encode_audio(wav[:longest], ".flac"))
    if len(address) > budget.left:
        return "", False
    budget.left -= len(address)
    return address, len(wav) > longest
