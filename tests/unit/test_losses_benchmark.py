"""tools/benchmarks/loss.py runs, checks the contenders against each other and writes its table."""

import importlib.util
import json
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "benchmarks" / "loss.py"


@pytest.fixture
def tool(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOL.parent))
    spec = importlib.util.spec_from_file_location("loss_benchmark", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "README", tmp_path / "README.md")
    return module


def _words(tmp_path, *more):
    words = ["--sizes", "32", "64", "--dims", "8", "--seconds", "0", "--json"]
    return [*words, str(tmp_path / "found.json"), "--write", *more]


def test_table_is_written_and_replaced(tool, tmp_path, capsys):
    tool.README.write_text("# Benchmarks\n\nbefore\n", encoding="utf-8")
    for _ in range(2):
        tool.main(_words(tmp_path, "--only", "cwcl", "clip", "plain"))
    text = tool.README.read_text(encoding="utf-8")
    assert text.startswith("# Benchmarks\n\nbefore\n")
    assert text.count("<!-- loss-cpu -->") == text.count("<!-- /loss-cpu -->") == 1
    rows = [line for line in text.splitlines() if line.startswith(("| 32 ", "| 64 "))]
    assert len(rows) == 2
    head = next(line for line in text.splitlines() if line.startswith("| N "))
    assert all(row.count("|") == head.count("|") for row in rows)
    assert "plain CWCL formula" in head
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert {row["rows"] for row in found["rows"]} == {32, 64}


def test_what_does_not_fit_is_left_out(tool, tmp_path, capsys):
    tool.main(_words(tmp_path, "--only", "cwcl", "plain", "--limit", "0.00005"))
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    fitted = {row["rows"]: set(row["seconds"]) for row in found["rows"]}
    assert fitted == {32: {"floor", "cwcl", "plain"}, 64: {"floor", "cwcl"}}


def test_missing_rivals_are_named(tool, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tool, "NEEDS", {"open_clip": "no-such-package-here"})
    tool.main(_words(tmp_path, "--only", "cwcl", "open_clip"))
    told = capsys.readouterr()
    assert "open_clip ClipLoss: left out, no-such-package-here is not installed" in told.err
    assert "open_clip ClipLoss" not in told.out


def test_a_contender_that_computes_something_else_is_refused(tool, tmp_path, monkeypatch):
    monkeypatch.setitem(tool.CONTENDERS, "plain", tool.CONTENDERS["clip"])
    with pytest.raises(SystemExit, match="plain CWCL formula differs from our CWCL"):
        tool.main(_words(tmp_path, "--only", "cwcl", "plain"))
