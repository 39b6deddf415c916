"""The stage runner: skips what holds, runs again what changed, keeps the log."""

import sys

from speechcwcl.cli.main import main


def stage(folder, text, code=0, inputs="in.txt"):
    program = (
        f"import pathlib, sys; print('first\\rlast'); "
        f"p = pathlib.Path({str(folder / 'out.txt')!r}); "
        f"p.write_text((p.read_text() if p.exists() else '') + {text!r}); sys.exit({code})"
    )
    return main(
        ["stage", "--name", "stage 2: x", "--stamp", str(folder / "stamps/2"),
         "--log", str(folder / "logs/2.log"), "--inputs", str(folder / inputs),
         "--outputs", str(folder / "out.txt"), "--", sys.executable, "-c", program]
    )  # fmt: skip


def test_a_stage_runs_once_and_again_when_its_input_changes(tmp_path, capfd):
    (tmp_path / "in.txt").write_text("1")
    assert stage(tmp_path, "a") == 0
    assert stage(tmp_path, "a") == 0
    assert (tmp_path / "out.txt").read_text() == "a"
    assert "nothing changed; skipped" in capfd.readouterr().out
    (tmp_path / "in.txt").write_text("2")
    assert stage(tmp_path, "a") == 0
    assert (tmp_path / "out.txt").read_text() == "aa"


def test_a_changed_command_or_a_lost_output_runs_again(tmp_path):
    (tmp_path / "in.txt").write_text("1")
    stage(tmp_path, "a")
    stage(tmp_path, "b")
    assert (tmp_path / "out.txt").read_text() == "ab"
    (tmp_path / "out.txt").unlink()
    stage(tmp_path, "b")
    assert (tmp_path / "out.txt").read_text() == "b"


def test_a_failed_stage_leaves_no_stamp_and_passes_the_code(tmp_path, capfd):
    (tmp_path / "in.txt").write_text("1")
    assert stage(tmp_path, "a", code=2) == 2
    assert not (tmp_path / "stamps/2").exists()
    assert "failed (exit code 2)" in capfd.readouterr().err
    assert stage(tmp_path, "a", code=1) == 1


def test_the_log_keeps_the_last_state_of_a_progress_bar(tmp_path):
    (tmp_path / "in.txt").write_text("1")
    stage(tmp_path, "a")
    assert (tmp_path / "logs/2.log").read_text() == "last\n"


def test_a_broken_stamp_proves_nothing(tmp_path):
    (tmp_path / "in.txt").write_text("1")
    stage(tmp_path, "a")
    (tmp_path / "stamps/2").write_text("{")
    stage(tmp_path, "a")
    assert (tmp_path / "out.txt").read_text() == "aa"
