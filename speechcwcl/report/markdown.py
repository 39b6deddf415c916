"""The tables: one line a test for the terminal, and RESULTS.md with the runs and the corpora."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from speechcwcl.evaluation.probe import PROBE_NOTE, probe_rows
from speechcwcl.evaluation.results import text_table
from speechcwcl.evaluation.spotting import WAYS
from speechcwcl.files import read_text
from speechcwcl.report.runs import Card, RunDir, Test, gather_tests, mteb_rows, open_runs

ASSETS = Path(__file__).parent / "assets"
Rows = tuple[list[str], list[list[str]]]  # header, rows


def percent(value: float | None, digits: int = 1) -> str:
    """`0.1234` -> `12.3 %`; None -> a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(bounds: Sequence[float]) -> str:
    """`[0.1, 0.2]` -> `[10.0, 20.0]`, in percent."""
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def speech_kind(card: Card) -> str:
    """`synthetic speech`, `recorded speech`, or an empty string where the card is silent."""
    synthetic = card.get("synthetic_speech")
    return "" if synthetic is None else "synthetic speech" if synthetic else "recorded speech"


def summary_rows(runs: Sequence[RunDir], tests: Sequence[Test]) -> Rows:
    """One row a test: n, classes (texts, for retrieval), chance, the text upper bound, and for
    each run top-1 accuracy (recall at 1, for retrieval) with its 95 % interval."""
    header = ["test", "n", "classes", "chance", "text bound", *(run.name for run in runs)]
    rows = []
    for test in tests:
        scores = test.first.scores
        if test.is_retrieval:
            cells = [f"{test.set_name}: retrieval, R@1", str(scores["n"]), str(scores["texts"])]
            cells += [percent(scores["speech_to_text"]["chance"]), "–"]
        else:
            bound = scores["text_bound"]
            cells = [f"{test.set_name}: {test.protocol}", str(scores["n"]), str(scores["classes"])]
            cells += [percent(scores["chance"]), percent(bound["top1"] if bound else None)]
        for number in range(len(runs)):
            value = test.headline(number)
            cells.append("–" if value is None else f"{percent(value[0])} {interval(value[1])}")
        rows.append(cells)
    return header, rows


def results_table(runs: Iterable[RunDir | str | Path]) -> str:
    """`summary_rows` as aligned text for a terminal."""
    opened = open_runs(runs)
    header, rows = summary_rows(opened, gather_tests(opened))
    for name, word in sorted({key for run in opened for key in run.spotting}):
        found = [run.spotting.get((name, word)) for run in opened]
        shown = ["–" if s is None else percent(s["together"]["recall"][0]["recall"]) for s in found]
        rows.append([f"{name}: {word}, recall at 0.5 false alarms an hour", *[""] * 4, *shown])
    rows += [[f"mteb: {row[0]}", row[1], "", "", "", *row[3:]] for row in mteb_rows(opened)]
    rule = ["-" * max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return text_table([header, rule, *rows], numbers_from=1)


def results_markdown(
    runs: Sequence[RunDir],
    tests: Sequence[Test],
    cards: dict[str, Card],
    title: str,
    *,
    whole: bool = True,
) -> str:
    """The text of RESULTS.md; without the runs when not `whole`."""
    header, rows = summary_rows(runs, tests)
    for test, row in zip(tests, rows, strict=True):
        row[0] += f" ({kind})" if (kind := speech_kind(test.corpus)) else ""
    environment = template_environment()
    template = environment.from_string(read_text(ASSETS / "RESULTS.md"))
    classified = [test for test in tests if not test.is_retrieval]
    return template.render(
        title=title,
        runs=runs,
        tests=tests,
        summary=(header, rows),
        classified=classified,
        reference=_reference_rows(runs, classified),
        retrieved=[test for test in tests if test.is_retrieval],
        spotted=[
            (" · ".join(key), spotting_rows(runs, key))
            for key in sorted({key for run in runs for key in run.spotting})
        ],
        probe_note=PROBE_NOTE,
        cards=sorted(cards.items()),
        mteb=mteb_rows(runs),
        whole=whole,
    )


def spotting_rows(runs: Sequence[RunDir], key: tuple[str, str]) -> Rows:
    """Recall at false alarms an hour of one (set, protocol), a row a run and way."""
    header: list[str] = []
    rows = []
    for run in runs:
        scores = run.spotting.get(key, {})
        for way in (way for way in WAYS if way in scores):
            recall = scores[way]["recall"]
            header = [
                "run",
                "labels",
                *(f"recall at {one['per_hour']:g} an hour" for one in recall),
            ]
            cells = [f"{percent(one['recall'])} {interval(one['interval'])}" for one in recall]
            rows.append([run.name, WAYS[way], *cells])
    return header, rows


def template_environment(**options: Any) -> Environment:
    """What the templates of the page and of RESULTS.md share."""
    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    environment.filters.update(pct=percent, interval=interval, kind=speech_kind)
    environment.filters.update(cell=_cell, facts=card_facts)
    environment.globals.update(table=markdown_table)
    return environment


def card_facts(card: Card, unknown: str) -> list[str]:
    """Name, version, licence and kind of speech of a corpus."""
    known = (card.get(key) for key in ("name", "version", "licence"))
    return [str(value or unknown) for value in (*known, speech_kind(card))]


def _reference_rows(runs: Sequence[RunDir], tests: Sequence[Test]) -> Rows | None:
    header: list[str] = []
    rows = []
    for test in tests:
        for number, folder in test.folders.items():
            if folder.probe:
                names, found = probe_rows(folder.probe)
                header = ["test", "run", "trained on", *names]
                where = [test.title, runs[number].name, folder.probe["train_set"]]
                rows += [[*where, *row] for row in found]
    return (header, rows) if rows else None


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; no cell can break out of it."""
    lines = ["| " + " | ".join(map(_cell, header)) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: object) -> str:
    """Text that cannot break out of a Markdown table or become markup; `code` stays code."""
    text = " ".join(str(text).split())
    if len(text) > 2 and text[0] == text[-1] == "`":
        return "`" + text[1:-1].replace("`", "'").replace("|", "\\|") + "`"
    for character in "\\|<*`":
        text = text.replace(character, "\\" + character)
    return text.replace("](", "]\\(")
