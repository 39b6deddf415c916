"""RESULTS.md and the page report.html: one file, no network, light and dark.

Whatever comes from data is escaped by the template; only what is drawn here goes in as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from speechcwcl.errors import UserError
from speechcwcl.evaluation import metrics
from speechcwcl.evaluation.probe import PROBE_NOTE, probe_rows
from speechcwcl.files import atomic_write, read_text
from speechcwcl.report import figures
from speechcwcl.report.markdown import (
    ASSETS,
    results_markdown,
    spotting_rows,
    template_environment,
)
from speechcwcl.report.runs import (
    Card,
    RunDir,
    Test,
    corpus_cards,
    gather_tests,
    is_number,
    mteb_rows,
    open_runs,
)

AUDIO_BYTES = 2_000_000
MOST_CLASSES = 70  # of a confusion matrix; beyond, the most confused ones are drawn
MOST_SPEAKERS = 40
MOST_CURVES = 18
_FIRST_CURVES = ("loss", "cwcl", "cl", "clip", "cosine", "accuracy", "score")


def build_report(
    runs: Iterable[RunDir | str | Path],
    out: str | Path,
    title: str = "Zero-shot speech classification",
    *,
    dumpdir: str | Path | None = None,
) -> tuple[Path, Path]:
    """Write `RESULTS.md` and `report.html` for one or more runs side by side.

    Args:
        runs: experiment folders `exp/<tag>` (or opened ones); differences are against the first.
        dumpdir: where `<set>/corpus.json` is looked for, if the runs do not hold it; the cards
            of sets that were not scored, such as the training set, are shown too.

    Raises:
        UserError: no run, nothing scored, a broken file, or a folder that cannot be written.
    """
    opened = open_runs(runs)
    cards = corpus_cards(opened, dumpdir)
    tests = gather_tests(opened)
    for test in tests:
        test.corpus = test.corpus or cards.get(test.set_name, {})
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: a folder is needed here, this is a file")
    pages = {
        out / "RESULTS.md": results_markdown(opened, tests, cards, title),
        out / "report.html": render_page(opened, tests, cards, title),
    }
    for path, text in pages.items():
        with atomic_write(path) as stream:
            stream.write(text)
    return out / "RESULTS.md", out / "report.html"


def render_page(
    runs: Sequence[RunDir], tests: Sequence[Test], cards: dict[str, Card], title: str
) -> str:
    """The HTML of the report."""
    panels = sum(len(test.folders) for test in tests if not test.is_retrieval)
    largest = 420 if panels <= 8 else 300 if panels <= 16 else 180
    budget = figures.Budget(AUDIO_BYTES)
    environment = template_environment(autoescape=True)
    environment.filters.update(short=short)
    environment.globals.update(difference=_difference)
    template = environment.from_string(read_text(ASSETS / "report.html"))
    return template.render(
        title=title,
        runs=runs,
        tests=tests,
        anchors={test.title: f"t{number}" for number, test in enumerate(tests)},
        classified=[_section(t, budget, largest) for t in tests if not t.is_retrieval],
        retrieved=[test for test in tests if test.is_retrieval],
        spotted=spotted(runs),
        curves=training_curves(runs),
        cards=sorted(cards.items()),
        mteb=mteb_rows(runs),
        gradient=Markup(figures.scale_gradient()),
        probe_note=PROBE_NOTE.replace("*", ""),
        style=Markup(read_text(ASSETS / "report.css")),
        script=Markup(read_text(ASSETS / "report.js")),
        colours=len(figures.RUN_COLOURS),
        most_speakers=MOST_SPEAKERS,
    )


def spotted(runs: Sequence[RunDir]) -> list[dict[str, Any]]:
    """A table and two drawings for each (set, protocol) of spotting."""
    sections = []
    for key in sorted({key for run in runs for key in run.spotting}):
        found = [(n, run.spotting[key]) for n, run in enumerate(runs) if key in run.spotting]
        curves = [
            (number, way == "together", scores[way]["curve"])
            for number, scores in found
            for way in ("together", "alone")
        ]
        sections.append(
            {
                "title": " · ".join(key),
                "table": spotting_rows(runs, key),
                "curve": figures.trade_off(curves),
                "reliability": figures.reliability([(n, s["reliability"]) for n, s in found]),
                "scores": found[0][1],
            }
        )
    return sections


def short(text: str, limit: int = 26) -> str:
    """Cut a label for an axis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _difference(test: Test, number: int) -> dict[str, Any] | None:
    """Run `number` against the first run of the report, if both were scored alike."""
    found = test.difference(0, number) if number else None
    if found is None:
        return None
    value, low, high = (round(100 * part, 1) + 0.0 for part in found)
    parts = {"value": f"{value:+.1f}", "interval": f"[{low:+.1f}, {high:+.1f}]"}
    minus = {key: text.replace("-", "−") for key, text in parts.items()}
    return {**minus, "sure": low > 0 or high < 0}


def _section(test: Test, budget: figures.Budget, largest: int) -> dict[str, Any]:
    """Everything that the section of one classification test shows."""
    known = [(n, f) for n, f in test.folders.items() if "reliability" in f.scores]
    scored = [(n, folder.scores["reliability"]) for n, folder in known]
    return {
        "test": test,
        "scores": test.first.scores,
        "confusions": [_confusion(test, number) for number in test.folders],
        "similarity": None if test.mismatch else _similarity(test, largest),
        "classes": _classes(test),
        "speakers": _speakers(test),
        "reliability": figures.reliability(scored) if scored else None,
        "templates": _templates(test),
        "probes": {n: probe_rows(f.probe) for n, f in test.folders.items() if f.probe},
        "examples": [] if test.mismatch else figures.choose_examples(test, budget),
    }


def _gutter(labels: Sequence[str], font: float, least: int) -> int:
    """Room for labels beside a figure, in its units."""
    return max(least, round(max(len(short(text)) for text in labels) * font * 0.54) + 10)


def _confusion(test: Test, number: int) -> dict[str, Any]:
    """Cells of the confusion matrix (row = true label), and the most frequent mistakes."""
    folder = test.folders[number]
    confusion, texts = folder.confusion, list(folder.label_texts.values())
    support = confusion.sum(axis=1)
    pairs = [
        {"true": texts[t], "predicted": texts[p], "count": count, "of": int(support[t])}
        for t, p, count in metrics.top_confusions(confusion, 10)
    ]
    errors = confusion.sum(axis=0) + support - 2 * np.diag(confusion)
    shown = np.sort(np.argsort(-errors, kind="stable")[:MOST_CLASSES])
    cells = [
        {
            "row": row,
            "column": column,
            "share": confusion[t, p] / support[t],
            "says": f"{texts[t]} → {texts[p]}: {confusion[t, p]} of {support[t]}"
            if t != p
            else f"{texts[t]}: {confusion[t, t]} of {support[t]} right",
        }
        for row, t in enumerate(shown)
        for column, p in enumerate(shown)
        if confusion[t, p] > 0
    ]
    labels = [texts[i] for i in shown]
    return {
        "run": number,
        "cells": cells,
        "labels": labels,
        "gutter": _gutter(labels, 13, 60),
        "pairs": pairs,
        "left_out": len(texts) - len(shown),
    }


def _similarity(test: Test, largest: int) -> dict[str, Any]:
    """One panel a run, all on one colour scale; its classes as (label, first row, last row + 1)."""
    found = {number: folder.similarity for number, folder in test.folders.items()}
    scale = figures.similarity_scale([matrix for matrix, _, _ in found.values()])
    panels = []
    for number, (matrix, _, labels) in found.items():
        contrast = test.folders[number].scores["similarity"]
        texts = test.folders[number].label_texts
        says = f"mean cosine within classes {contrast['within']:.2f}"
        if contrast["between"] is not None:
            says += f", between classes {contrast['between']:.2f}"
        starts = [i for i, label in enumerate(labels) if i == 0 or label != labels[i - 1]]
        ends = [*starts[1:], len(labels)]
        names = [texts.get(labels[start], labels[start]) for start in starts]
        panels.append(
            {
                "run": number,
                "image": figures.heat_map(matrix, scale, largest),
                "size": len(labels),
                "classes": list(zip(names, starts, ends, strict=True)),
                "gutter": _gutter(names, 9.8, 48) if len(names) <= 40 else 0,
                "says": says,
            }
        )
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
        first = next(iter(found.values()), {"support": "0"})
        if float(first["support"]) == 0:
            continue
        bound = float(first["text_bound"]) if first.get("text_bound") else None
        of_run = {
            n: {key: float(row[key]) for key in ("recall", "precision", "f1")}
            for n, row in found.items()
        }
        rows.append({"text": text, "n": first["support"], "bound": bound, "runs": of_run})
    return sorted(rows, key=lambda row: np.mean([one["f1"] for one in row["runs"].values()]))


def _speakers(test: Test) -> list[dict[str, Any]]:
    """A row a speaker, the hardest first; none where fewer than two are known."""
    found: dict[str, dict[int, dict[str, str]]] = {}
    for number, folder in test.folders.items():
        for row in folder.per_speaker:
            found.setdefault(row["speaker"], {})[number] = row
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "n": next(iter(by_run.values()))["support"],
            "runs": {n: float(row["accuracy"]) for n, row in by_run.items()},
        }
        for name, by_run in found.items()
    ]
    hardest = sorted(rows, key=lambda row: np.mean(list(row["runs"].values())))
    return hardest[:MOST_SPEAKERS] if len(found) > 1 else []


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


def training_curves(runs: Sequence[RunDir]) -> list[dict[str, Any]]:
    """One drawing for each quantity of `metrics.jsonl`, all runs in it."""
    found: dict[str, list[tuple[int, bool, list[float], list[float]]]] = {}
    for number, run in enumerate(runs):
        for part in ("train", "valid"):
            points: dict[str, list[tuple[float, float]]] = {}
            for epoch in run.epochs:
                for name, value in epoch.get(part, {}).items():
                    if is_number(value):
                        points.setdefault(name, []).append((float(epoch["epoch"]), float(value)))
            for name, pairs in points.items():
                xs, ys = (list(column) for column in zip(*pairs, strict=True))
                found.setdefault(name, []).append((number, part == "valid", xs, ys))
    order = {name: place for place, name in enumerate(_FIRST_CURVES)}
    drawn = []
    for name in sorted(found, key=lambda name: (order.get(name, len(order)), name))[:MOST_CURVES]:
        says = "; ".join(
            f"{runs[n].name}{' validation' if valid else ''} {ys[0]:.3g} to {ys[-1]:.3g}"
            for n, valid, _, ys in found[name]
        )
        valid_only = all(valid for _, valid, _, _ in found[name])
        image = figures.curves(found[name])
        drawn.append({"name": name, "image": image, "says": says, "valid": valid_only})
    return drawn
