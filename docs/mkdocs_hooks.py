"""Pages of the repository that lie outside docs/ join the site under `repo/`, links included.

A link that leads to a page or a picture of the site is bent to it; one that leads to any other file
of the repository becomes the file's path, since the site does not hold it.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
WANTED = re.compile(r"(^|/)(README|RESULTS|CONTRIBUTING|CHANGELOG|CARD)\.md$|\.(png|svg)$")


def outside() -> list[str]:
    """Paths of the pages and pictures that are not in docs/."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    # a copy without git: everything of the folders that are ours
    names = listed or [
        path.relative_to(ROOT).as_posix()
        for top in ("recipes", "egs", "tools", "CONTRIBUTING.md", "CHANGELOG.md")
        for path in [ROOT / top, *(ROOT / top).rglob("*")]
    ]
    ours = ("docs/", "tests/", "README.md", "speechcwcl/")
    return [
        n for n in names if WANTED.search(n) and not n.startswith(ours) and (ROOT / n).is_file()
    ]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them."""
    for name in outside():
        files.append(File.generated(config, f"repo/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Bend the links of one page."""
    uri = page.file.src_uri
    source = uri.removeprefix("repo/") if uri.startswith("repo/") else f"docs/{uri}"

    def bend(found: re.Match[str]) -> str:
        mark, shown, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return found[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        ours = there.removeprefix("docs/") if there.startswith("docs/") else f"repo/{there}"
        if there == "README.md":  # the front page of the repository: here it is the quick start
            ours = "index.md"
        if files.get_file_from_path(ours) is None:
            if not (ROOT / there).exists():
                return found[0]
            named = Path(there).stem == Path(shown).stem
            return f"`{there}`" if named else f"{shown} (`{there}`)"
        near = os.path.relpath(ours, posixpath.dirname(uri) or ".").replace(os.sep, "/")
        return f"{mark}[{shown}]({near}{'#' + anchor if anchor else ''})"

    parts = re.split(r"(```.*?```)", markdown, flags=re.S)
    return "".join(part if part.startswith("```") else LINK.sub(bend, part) for part in parts)
