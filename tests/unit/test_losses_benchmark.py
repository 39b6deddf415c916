"""tools/benchmarks/loss.py runs, checks the contenders against each other and writes its table."""

import dataclasses
import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest
import torch

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
    for names in (["cwcl"], ["cwcl", "clip", "plain"]):
        tool.main(_words(tmp_path, "--only", *names))
    text = tool.README.read_text(encoding="utf-8")
    assert text.startswith("# Benchmarks\n\nbefore\n")
    assert text.count("<!-- loss-cpu -->") == text.count("<!-- /loss-cpu -->") == 1
    lines = [line for line in text.splitlines() if line.startswith("|")]
    times, memory = lines[:4], lines[4:]
    for part in (times, memory):
        assert [line.split("|")[1].strip() for line in part] == ["N", "---:", "32", "64"]
        assert len({line.count("|") for line in part}) == 1
        assert "plain CWCL formula" in part[0]
    assert "our CWCL / our CLIP" in times[0]
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert {row["rows"] for row in found["rows"]} == {32, 64}


def test_two_checkouts_take_turns(tool, tmp_path, capsys):
    tool.README.write_text("# Benchmarks\n", encoding="utf-8")
    words = ["--sizes", "24", "--dims", "8", "--seconds", "0", "--rounds", "2", "2", "--write"]
    tool.main([*words, "--beside", str(TOOL.parents[2])])
    text = tool.README.read_text(encoding="utf-8")
    assert text.count("<!-- loss-beside -->") == 1
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[0].strip() for row in rows] == [*sys.modules["loss_beside"].LOSSES]
    for _, count, _, before, now, ratio, *_ in rows:
        assert int(count) == 24
        assert float(before) > 0 and float(now) > 0 and float(ratio) > 0


def test_another_checkout_must_hold_the_package(tool, tmp_path, capfd):
    with pytest.raises(SystemExit, match="the process of one checkout has ended"):
        tool.main(["--sizes", "24", "--dims", "8", "--beside", str(tmp_path)])
    assert "holds no speechcwcl" in capfd.readouterr().err


def test_what_does_not_fit_is_left_out(tool, tmp_path, capsys):
    tool.main(_words(tmp_path, "--only", "cwcl", "plain", "--limit", "0.00005"))
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    fitted = {row["rows"]: set(row["seconds"]) for row in found["rows"]}
    assert fitted == {32: {"floor", "cwcl", "plain"}, 64: {"floor", "cwcl"}}


def test_missing_rivals_are_named(tool, tmp_path, capsys, monkeypatch):
    absent = dataclasses.replace(tool.CONTENDERS["open_clip"], needs="no-such-package-here")
    monkeypatch.setitem(tool.CONTENDERS, "open_clip", absent)
    tool.main(_words(tmp_path, "--only", "cwcl", "open_clip"))
    told = capsys.readouterr()
    assert "open_clip ClipLoss: left out, no-such-package-here is not installed" in told.err
    assert "open_clip ClipLoss" not in told.out


def test_a_contender_that_computes_something_else_is_refused(tool, tmp_path, monkeypatch):
    other = dataclasses.replace(tool.CONTENDERS["plain"], make=tool.CONTENDERS["clip"].make)
    monkeypatch.setitem(tool.CONTENDERS, "plain", other)
    with pytest.raises(SystemExit, match="plain CWCL formula differs from our CWCL"):
        tool.main(_words(tmp_path, "--only", "cwcl", "plain"))


@pytest.mark.parametrize(("rows", "dim"), [(24, 16), (60, 8)])  # Q Q^T, and Q^T Q
def test_floors_are_the_products_that_are_needed(tool, rows, dim):
    """Counted by PyTorch itself: two of N x N x dim, and what the targets add."""
    from torch.utils.flop_counter import FlopCounterMode

    def flops(run):
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    case = tool.Case(rows, dim, "cpu", torch.float32, 7)
    least = 2 * 2 * rows * rows * dim
    assert flops(case.floor) == least
    assert flops(case.cwcl_floor) == least + min(2 * rows * rows * dim, 4 * rows * dim * dim)


def test_what_memory_cannot_keep_is_counted_twice(tool, monkeypatch):
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setattr(sys.modules["loss_contenders"], "DEFAULT_MEMORY", 4 * 60 * 30)
    case = tool.Case(60, 8, "cpu", torch.float32, 10)
    with FlopCounterMode(display=False) as counter:
        case.cwcl_floor()
    expected = 2 * 2 * 60 * 60 * 8 + 4 * 60 * 8 * 8 + 2 * 30 * 60 * 8
    assert counter.get_total_flops() == expected


def test_a_gpu_is_timed_by_its_own_events(tool, monkeypatch):
    """Between events in the queue, after what came before has ended; in seconds."""
    told = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            told.append("event")

        def elapsed_time(self, other):
            assert told == ["wait", "event", "run", "event", "wait"]
            return 250.0

    cuda = types.SimpleNamespace(Event=Event, synchronize=lambda: told.append("wait"))
    monkeypatch.setattr(torch, "cuda", cuda)
    assert tool.timed(lambda: told.append("run"), "cuda:0", "wall") == 0.25


def test_gpu_memory_is_what_torch_allocated(tool, monkeypatch):
    cuda = types.SimpleNamespace(
        synchronize=lambda: None,
        reset_peak_memory_stats=lambda: None,
        memory_allocated=lambda: 2**20,
        max_memory_allocated=lambda: 4 * 2**20,
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    assert tool.Memory("cuda").measure(lambda: None) == 3.0


def test_torch_compile_is_a_contender_on_a_gpu_only(tool):
    assert "compiled" in tool.default_contenders("cuda:0")
    assert "compiled" not in tool.default_contenders("cpu")
