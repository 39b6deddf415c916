"""The page report.html: one file, no network, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from speechcwcl.evaluation import metrics
from speechcwcl.evaluation.probe import PROBE_NOTE, probe_rows
from speechcwcl.files import read_text
from speechcwcl.report import figures
from speechcwcl.report.clips import Budget, Clip, choose_clips
from speechcwcl.report.runs import RunDir, Test
from speechcwcl.report.summary import headline, interval, percent, speech_kind

ASSETS = Path(__file__).parent / "assets"
AUDIO_BYTES = 2_000_000
MOST_CLASSES = 70  # of a heat map; beyond, the most confused ones are drawn
MOST_SPEAKERS = 40
MOST_CURVES = 18
_FIRST_CURVES = ("loss", "cwcl", "cl", "clip", "cosine", "accuracy", "score")


def render_page(
    runs: Sequence[RunDir], tests: Sequence[Test], cards: dict[str, dict[str, Any]], title: str
) -> str:
    """The HTML of the report.

    Args:
        runs: in the order in which they stand side by side.
        tests: from :func:`.runs.gather_tests`.
        cards: set -> corpus card.
        title: the heading.
    """
    panels = sum(len(test.folders) for test in tests if not test.is_retrieval)
    largest = 420 if panels <= 8 else 300 if panels <= 16 else 180
    budget = Budget(AUDIO_BYTES)
    classified = [_classified(runs, t, budget, largest) for t in tests if not t.is_retrieval]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(pct=percent, interval=interval, kind=speech_kind)
    environment.globals.update(headline=headline, difference=_difference)
    template = environment.from_string(read_text(ASSETS / "report.html"))
    return (
        template.render(
            title=title,
            runs=runs,
            tests=tests,
            anchors={test.title: f"t{number}" for number, test in enumerate(tests)},
            classified=classified,
            retrieved=[test for test in tests if test.is_retrieval],
            curves=training_curves(runs),
            cards=sorted(cards.items()),
            gradient=Markup(figures.scale_gradient()),
            probe_note=PROBE_NOTE.replace("*", ""),
            style=Markup(read_text(ASSETS / "report.css")),
            script=Markup(read_text(ASSETS / "report.js")),
            colours=figures.RUN_COLOURS,
            most_speakers=MOST_SPEAKERS,
        )
        + "\n"
    )


def _difference(test: Test, number: int) -> dict[str, Any] | None:
    """Run ``number`` against the first run of the report, if both were scored alike."""
    found = test.difference(0, number) if number else None
    if found is None:
        return None
    value, low, high = (round(100 * part, 1) + 0.0 for part in found)
    parts = {"value": f"{value:+.1f}", "interval": f"[{low:+.1f}, {high:+.1f}]"}
    minus = {key: text.replace("-", "−") for key, text in parts.items()}
    return {**minus, "sure": low > 0 or high < 0}


def _classified(runs: Sequence[RunDir], test: Test, budget: Budget, largest: int) -> dict[str, Any]:
    """Everything that the section of one classification test shows."""
    return {
        "test": test,
        "scores": test.first.scores,
        "confusions": [_confusion(runs, test, number) for number in test.folders],
        "similarity": None if test.mismatch else _similarity(runs, test, largest),
        "classes": _classes(test),
        "speakers": _speakers(test),
        "templates": _templates(test),
        "probes": {n: probe_rows(f.probe) for n, f in test.folders.items() if f.probe},
        "clips": _clips(test, budget),
    }


def _confusion(runs: Sequence[RunDir], test: Test, number: int) -> dict[str, Any]:
    folder = test.folders[number]
    confusion, texts = folder.confusion, list(folder.label_texts.values())
    support = confusion.sum(axis=1)
    pairs = [
        {"true": texts[t], "predicted": texts[p], "count": count, "of": int(support[t])}
        for t, p, count in metrics.top_confusions(confusion, 10)
    ]
    shown = np.arange(len(texts))
    if len(texts) > MOST_CLASSES:
        errors = confusion.sum(axis=0) + support - 2 * np.diag(confusion)
        shown = np.sort(np.argsort(-errors, kind="stable")[:MOST_CLASSES])
    name = runs[number].name
    alt = (
        f"Confusion matrix of {name}: {len(shown)} true labels (down) by predicted labels (across);"
        " the most frequent mistakes are listed below it"
    )
    svg = figures.confusion_svg(confusion[np.ix_(shown, shown)], [texts[i] for i in shown], alt)
    return {
        "run": number,
        "svg": Markup(svg),
        "pairs": pairs,
        "left_out": len(texts) - len(shown),
    }


def _similarity(runs: Sequence[RunDir], test: Test, largest: int) -> dict[str, Any]:
    """One panel a run, all on one colour scale."""
    found = {number: folder.similarity for number, folder in test.folders.items()}
    scale = figures.similarity_scale([matrix for matrix, _, _ in found.values()])
    panels = []
    for number, (matrix, _, labels) in found.items():
        contrast = test.folders[number].scores["similarity"]
        texts = test.folders[number].label_texts
        says = f"mean cosine within classes {contrast['within']:.2f}"
        if contrast["between"] is not None:
            says += f", between classes {contrast['between']:.2f}"
        alt = (
            f"Similarity matrix of {runs[number].name}: cosines of {len(labels)} recordings (down)"
            f" with their {len(labels)} texts (across), sorted by class; {says}"
        )
        names = [texts.get(label, label) for label in labels]
        svg = figures.similarity_svg(matrix, names, scale, alt, largest)
        panels.append({"run": number, "svg": Markup(svg), "says": says})
    return {"panels": panels, "low": f"{scale[0]:.2f}", "high": f"{scale[1]:.2f}"}


def _classes(test: Test) -> list[dict[str, Any]]:
    """A row a class that occurs, the hardest first: recall of each run and of the true text."""
    tables = {
        number: {row["label"]: row for row in folder.per_class}
        for number, folder in test.folders.items()
    }
    rows = []
    for label, text in test.first.label_texts.items():
        found = {n: table[label] for n, table in tables.items() if label in table}
        first = next(iter(found.values()))
        if first["support"] == "0":
            continue
        bound = float(first["text_bound"]) if first["text_bound"] else None
        figures_of = {
            n: {key: float(row[key]) for key in ("recall", "precision", "f1")}
            for n, row in found.items()
        }
        rows.append({"text": text, "n": int(first["support"]), "bound": bound, "runs": figures_of})
    return sorted(rows, key=lambda r: np.mean([f["f1"] for f in r["runs"].values()]))


def _speakers(test: Test) -> list[dict[str, Any]]:
    """A row a speaker, the hardest first; none where fewer than two are known."""
    tables = {
        number: {row["speaker"]: row for row in folder.per_speaker}
        for number, folder in test.folders.items()
    }
    names = dict.fromkeys(name for table in tables.values() for name in table)
    rows = []
    for name in names if len(names) > 1 else ():
        found = {n: table[name] for n, table in tables.items() if name in table}
        shares = {n: float(row["accuracy"]) for n, row in found.items()}
        rows.append({"name": name, "n": int(next(iter(found.values()))["support"]), "runs": shares})
    return sorted(rows, key=lambda row: np.mean(list(row["runs"].values())))[:MOST_SPEAKERS]


def _templates(test: Test) -> dict[str, Any] | None:
    """Each template alone, by run; None where there is only one."""
    each = {n: folder.scores["templates"] for n, folder in test.folders.items()}
    first = next(iter(each.values()))["each"]
    if len(first) < 2 or test.mismatch:
        return None
    rows = [
        {
            "template": one["template"],
            "bound": one["text_bound"],
            "runs": {n: found["each"][index]["top1"] for n, found in each.items()},
        }
        for index, one in enumerate(first)
    ]
    return {"rows": rows, "ranges": each}


def _clips(test: Test, budget: Budget) -> list[Clip]:
    return [] if test.mismatch else choose_clips(test, budget)


def training_curves(runs: Sequence[RunDir]) -> list[dict[str, Any]]:
    """One drawing for each quantity of ``metrics.jsonl``, all runs in it."""
    found: dict[str, list[tuple[int, bool, list[float], list[float]]]] = {}
    for number, run in enumerate(runs):
        for part in ("train", "valid"):
            names = {name for epoch in run.epochs for name in epoch.get(part, {})}
            for name in sorted(names):
                points = [
                    (float(epoch["epoch"]), float(epoch[part][name]))
                    for epoch in run.epochs
                    if _is_number(epoch.get(part, {}).get(name))
                ]
                if points:
                    xs, ys = zip(*points, strict=True)
                    found.setdefault(name, []).append((number, part == "valid", list(xs), list(ys)))
    order = sorted(found, key=lambda name: (_place(name), name))[:MOST_CURVES]
    drawn = []
    for index, name in enumerate(order):
        says = "; ".join(
            f"{runs[n].name}{' validation' if valid else ''} {ys[0]:.3g} to {ys[-1]:.3g}"
            for n, valid, _, ys in found[name]
        )
        svg = figures.curves_svg(found[name], f"{name} by epoch: {says}", index)
        valid_only = all(valid for _, valid, _, _ in found[name])
        drawn.append({"name": name, "svg": Markup(svg), "valid": valid_only})
    return drawn


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and np.isfinite(value)


def _place(name: str) -> int:
    return _FIRST_CURVES.index(name) if name in _FIRST_CURVES else len(_FIRST_CURVES)
