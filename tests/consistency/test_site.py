"""The site builds with warnings as errors and asks nothing of the network; the notebook runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs/quickstart.ipynb"


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra [docs]")
    words = ["build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *words], cwd=ROOT, capture_output=True, text=True,
        env=dict(os.environ, NO_MKDOCS_2_WARNING="1"), timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {page: page.read_text("utf-8") for page in (tmp_path / "site").rglob("*.html")}
    assert len(pages) > 20
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]*src=\"?https?:|<link[^>]*stylesheet[^>]*https?:"
    )
    assert not [page for page, text in pages.items() if loaded.search(text)]
    reference = (tmp_path / "site/reference/losses/index.html").read_text("utf-8")
    assert "speechcwcl.losses.cwcl" in reference and "unit-norm" in reference


def test_the_site_needs_no_pytorch():
    needed = subprocess.run(
        [sys.executable, str(ROOT / "docs/needs.py")], capture_output=True, text=True, check=True
    ).stdout.split()
    assert any(line.startswith("mkdocs") for line in needed)
    assert not [line for line in needed if re.match("torch|transformers|speechbrain", line)]


def test_every_page_has_a_place_in_the_site():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = (ROOT / "docs").rglob("*.md")
    missing = [p.name for p in pages if p.relative_to(ROOT / "docs").as_posix() not in navigation]
    assert not missing


def test_the_notebook_runs_and_keeps_no_output(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")]
    where = {"metadata": {"path": str(ROOT / "docs")}}
    nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    answers = re.findall(r"said (\w+) +heard (\w+)", printed)
    assert len(answers) == 6
    assert sum(said == heard for said, heard in answers) >= 4, printed
    assert re.search(r"level \d+\.\d; \d of 6 clips are known", printed)
