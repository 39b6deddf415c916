"""Sections of the benchmarks' README that their scripts write."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

from speechcwcl.files import atomic_write, read_text

README = Path(__file__).with_name("README.md")


def machine() -> str:
    """The kind of processor, without the machine's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"Machine: {line.split(':')[1].strip()}"
    return f"Machine: {platform.machine()}"


def write_section(name: str, title: str, text: str, page: Path = README) -> None:
    """Put `text` between the marks of a section; a new section goes to the end, with a title.

    Args:
        name: of the marks, `<!-- name -->` and `<!-- /name -->`.
        title: Markdown heading of a new section.
        text: Markdown.
        page: the file.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    whole = read_text(page) if page.exists() else "# Benchmarks\n"
    block = f"{begin}\n{text.strip()}\n{end}"
    if begin in whole and end in whole:
        head, rest = whole.split(begin, 1)
        whole = head + block + rest.split(end, 1)[1]
    else:
        whole = whole.rstrip("\n") + f"\n\n{title}\n\n{block}\n"
    with atomic_write(page) as stream:
        stream.write(whole)
