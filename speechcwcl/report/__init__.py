"""Results for people: a table for the terminal, RESULTS.md, report.html, the model card."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speechcwcl.report.runs import RunDir


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
        out: the folder that takes the two files.
        title: the heading.
        dumpdir: where `<set>/corpus.json` is looked for, if the runs do not hold it; the cards
            of sets that were not scored, such as the training set, are shown too.

    Returns:
        The two paths.

    Raises:
        UserError: no run, nothing scored, a broken file, or a folder that cannot be written.
    """
    from speechcwcl.errors import UserError
    from speechcwcl.files import atomic_write
    from speechcwcl.report.markdown import results_markdown
    from speechcwcl.report.page import render_page
    from speechcwcl.report.runs import corpus_cards, gather_tests, open_runs

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
