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
# The rows that the pages show, and the columns that they leave out.
SHOWN = re.compile("command|digits|wake|ten phrases|35 synthetic intents|SLURP intents")
LEFT_OUT = re.compile("aim")
CASCADE = re.compile("cascade|Whisper")


def table() -> str:
    """The rows that the pages show, as Markdown: of a table beside the cascade if there is one."""
    text = RESULTS.read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M)]
    of_model = [block for block in blocks if "en-tiny" in block[0]]
    lines = next((block for block in of_model if CASCADE.search(block[0])), of_model[0])
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    keep = [i for i, name in enumerate(head) if not LEFT_OUT.search(name)]
    # a cell ends where its remark begins: "59.9 (56.5 to 63.2), 78 % of the bound"
    shown = [[re.sub(r"\), .*", ")", row[i]) for i in keep] for row in rows if SHOWN.search(row[0])]
    assert len(shown) > 3, f"{RESULTS}: which rows shall the pages show? see SHOWN"
    named = [re.sub("^bound$", "text bound", head[i]) for i in keep]
    return "".join(f"| {' | '.join(row)} |\n" for row in [named, ["---"] * len(keep), *shown])


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
