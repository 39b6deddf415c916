"""Results for people: a table for the terminal, RESULTS.md, and one self-contained report.html."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from speechcwcl.errors import UserError
from speechcwcl.files import atomic_write, read_json
from speechcwcl.report.markdown import results_markdown
from speechcwcl.report.page import render_page
from speechcwcl.report.runs import RunDir, gather_tests, open_runs
from speechcwcl.report.summary import results_table

__all__ = ["build_report", "corpus_cards", "results_table"]


def build_report(
    runs: Iterable[RunDir | str | Path],
    out: str | Path,
    title: str = "Zero-shot speech classification",
    *,
    dumpdir: str | Path | None = None,
) -> tuple[Path, Path]:
    """Write ``RESULTS.md`` and ``report.html`` for one or more runs side by side.

    Args:
        runs: experiment folders ``exp/<tag>`` (or opened ones); differences are against the first.
        out: the folder that takes the two files.
        title: the heading.
        dumpdir: where ``<set>/corpus.json`` is looked for, if the runs do not hold it; the cards
            of sets that were not scored, such as the training set, are shown too.

    Returns:
        The two paths.

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
    page = render_page(opened, tests, cards, title)
    with atomic_write(out / "RESULTS.md") as stream:
        stream.write(results_markdown(opened, tests, cards, title))
    with atomic_write(out / "report.html") as stream:
        stream.write(page)
    return out / "RESULTS.md", out / "report.html"


def corpus_cards(
    runs: Sequence[RunDir], dumpdir: str | Path | None = None
) -> dict[str, dict[str, Any]]:
    """Set name -> its ``corpus.json``, from the runs and from ``dumpdir``."""
    cards: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(dumpdir).glob("*/corpus.json")) if dumpdir else []:
        card = read_json(path)
        if isinstance(card, dict):
            cards[path.parent.name] = card
    for run in runs:
        cards.update({name: card for name, card in run.corpora.items() if card})
    return cards
