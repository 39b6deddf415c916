"""The one-line-a-test summary that the terminal, RESULTS.md and the page share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from speechcwcl.report.runs import RunDir, Test, gather_tests, open_runs


def percent(value: float | None, digits: int = 1) -> str:
    """``0.1234`` -> ``12.3 %``; None -> a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(bounds: Sequence[float]) -> str:
    """``[0.1, 0.2]`` -> ``[10.0, 20.0]``, in percent."""
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def headline(test: Test, number: int) -> tuple[float, Sequence[float]] | None:
    """(accuracy or recall at 1, its interval) of a run on a test; None where it was not scored."""
    if number not in test.folders:
        return None
    scores = test.folders[number].scores
    if scores["kind"] == "retrieval":
        return scores["speech_to_text"]["R@1"], scores["speech_to_text"]["R@1_interval"]
    return scores["top1"], scores["top1_interval"]


def speech_kind(card: dict[str, Any]) -> str:
    """``made speech``, ``recorded speech``, or an empty string where the card does not say."""
    made = card.get("made_speech")
    return "" if made is None else "made speech" if made else "recorded speech"


def summary_rows(runs: Sequence[RunDir], tests: Sequence[Test]) -> tuple[list[str], list[list]]:
    """The rows that every form of the summary shares: header and cells as text."""
    header = ["test", "n", "classes", "chance", "text bound", *(run.name for run in runs)]
    rows = []
    for test in tests:
        scores = test.first.scores
        if test.is_retrieval:
            way = scores["speech_to_text"]
            cells = [f"{test.set_name}: retrieval, R@1", str(scores["n"]), str(scores["texts"])]
            cells += [percent(way["chance"]), "–"]
        else:
            bound = scores["text_bound"]
            cells = [f"{test.set_name}: {test.protocol}", str(scores["n"]), str(scores["classes"])]
            cells += [percent(scores["chance"]), percent(bound["top1"] if bound else None)]
        for number in range(len(runs)):
            value = headline(test, number)
            cells.append("–" if value is None else f"{percent(value[0])} {interval(value[1])}")
        rows.append(cells)
    return header, rows


def results_table(runs: Iterable[RunDir | str | Path]) -> str:
    """The summary as aligned text for a terminal.

    One line a test: n, classes (texts, for retrieval), chance, the text upper bound, and for each
    run top-1 accuracy (recall at 1, for retrieval) with its 95 % interval.
    """
    opened = open_runs(runs)
    header, rows = summary_rows(opened, gather_tests(opened))
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in _numbered(cells, widths))
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def _numbered(cells: Sequence[str], widths: Sequence[int]) -> Iterable[tuple[int, tuple[str, int]]]:
    return enumerate(zip(cells, widths, strict=True))
