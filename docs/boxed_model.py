#!/usr/bin/env python3
"""Bring the figures of the boxed model `en-tiny` into the pages that print them.

The table comes from egs/release/cwcl1/RESULTS.md, the answer from running the README's first block.
Run this after another model was put into the package:

  python docs/boxed_model.py
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "egs/release/cwcl1/RESULTS.md"
PAGES = (ROOT / "README.md", ROOT / "docs/index.md")
TABLE = re.compile(r"(?<=<!-- en-tiny -->\n).*?(?=<!-- /en-tiny -->)", re.S)
BLOCK = re.compile(r"```python\n(import speechcwcl\n.*?)((?:# [^\n]*\n)+)```", re.S)
# The rows of "Test halves" that the pages show, by words of their names, and the columns that they
# leave out.
SHOWN = ("command words", "digits", "wake phrases", "ten phrases", "35 synthetic intents")
LEFT_OUT = ("aim",)


def table() -> str:
    """The rows that the pages show, as Markdown; cells end before their remarks."""
    text = RESULTS.read_text(encoding="utf-8").split("## Test halves\n", 1)[1]
    lines = re.findall(r"^\|.*\|$", text.split("\n\n", 1)[0], re.M)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    keep = [i for i, name in enumerate(rows[0]) if name not in LEFT_OUT]
    chosen = [row for row in rows[2:] if any(words in row[0] for words in SHOWN)]
    assert len(chosen) >= len(SHOWN), f"{RESULTS}: which rows of {SHOWN} are gone?"
    shown = [[row[i] if i == 0 else row[i].split("), ")[0] for i in keep] for row in chosen]
    shown = [[c + ")" if "(" in c and not c.endswith(")") else c for c in row] for row in shown]
    head = [rows[0][i].replace("bound", "text bound") for i in keep]
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(keep), *shown])


def answer(page: str) -> str:
    """What the first block of a page prints."""
    found = BLOCK.search(page)
    assert found, "no block with its answer"
    printed = io.StringIO()
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        with contextlib.redirect_stdout(printed):
            exec(found[1], {})
    finally:
        os.chdir(before)
    return re.sub("^", "# ", printed.getvalue().rstrip("\n"), flags=re.M) + "\n"


def main() -> None:
    """Rewrite the pages."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    said = answer(PAGES[0].read_text(encoding="utf-8"))
    for page in PAGES:
        text = TABLE.sub(lambda _: table(), page.read_text(encoding="utf-8"))
        text = BLOCK.sub(lambda found: found[0].replace(found[2], said), text)
        page.write_text(text, encoding="utf-8")
        print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
