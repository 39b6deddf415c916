"""The stage runner: skips what holds, runs again what changed, keeps the log."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from speechcwcl.cli.main import main
from speechcwcl.stages import also_reads, run_stage


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


def test_audio_that_a_data_folder_names_is_an_input_too(tmp_path, capfd):
    (tmp_path / "data").mkdir()
    (tmp_path / "my clip.wav").write_bytes(b"1234")
    (tmp_path / "data/wav.scp").write_text(f"a {tmp_path}/my clip.wav\nb pipe in it |\n")
    for expected in ("a", "a"):
        assert stage(tmp_path, "a", inputs="data") == 0
        assert (tmp_path / "out.txt").read_text() == expected
    (tmp_path / "my clip.wav").write_bytes(b"4321")
    assert stage(tmp_path, "a", inputs="data") == 0
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


def folder_stage(root, notes=""):
    """A stage that makes a folder of two files and counts how often it ran."""
    out = root / "out"
    program = (
        "import pathlib, sys; from speechcwcl.stages import also_reads; "
        f"out = pathlib.Path({str(out)!r}); out.mkdir(exist_ok=True); "
        "(out / 'a.txt').write_text('aaaa'); (out / 'b.bin').write_bytes(bytes(100)); "
        f"also_reads(*{notes.split()!r}); "
        f"log = pathlib.Path({str(root / 'count')!r}); "
        "log.write_text((log.read_text() if log.exists() else '') + 'x')"
    )
    code = run_stage(
        "stage 3: y", [sys.executable, "-c", program], stamp=root / "stamps/3",
        log=root / "logs/3.log", outputs=[str(out)],
    )  # fmt: skip
    assert code == 0
    return len((root / "count").read_text())


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "harm",
    [
        lambda out: (out / "b.bin").unlink(),
        lambda out: cut(out / "b.bin"),
        lambda out: (out / "a.txt").write_text("aaab"),
        lambda out: (out / "b.bin").write_bytes(b""),
        shutil.rmtree,
    ],
    ids=["one removed", "one cut", "one changed", "one emptied", "all removed"],
)
def test_an_output_that_is_not_as_it_was_is_made_again(tmp_path, harm):
    assert folder_stage(tmp_path) == 1
    assert folder_stage(tmp_path) == 1
    harm(tmp_path / "out")
    assert folder_stage(tmp_path) == 2
    assert folder_stage(tmp_path) == 2


def test_what_is_added_to_an_output_folder_does_not_matter(tmp_path):
    assert folder_stage(tmp_path) == 1
    (tmp_path / "out/more.txt").write_text("x")
    (tmp_path / "out/.hidden.lock").write_text("x")
    assert folder_stage(tmp_path) == 1


def test_what_a_command_says_it_read_counts(tmp_path):
    source, base = tmp_path / "corpus", tmp_path / "base.yaml"
    (source / "deep").mkdir(parents=True)
    (source / "metadata.csv").write_text("a,b\n")
    base.write_text("x: 1\n")
    notes = f"{source} {base}"
    assert folder_stage(tmp_path, notes) == 1
    os.utime(base)  # as after a checkout: the content is the same
    assert folder_stage(tmp_path, notes) == 1
    (source / "metadata.csv").write_text("a,bb\n")
    assert folder_stage(tmp_path, notes) == 2
    (source / "deep/new.wav").write_bytes(b"x")
    assert folder_stage(tmp_path, notes) == 3
    base.write_text("x: 2\n")
    assert folder_stage(tmp_path, notes) == 4
    assert folder_stage(tmp_path, notes) == 4
    base.unlink()
    assert folder_stage(tmp_path, notes) == 5


def test_notes_outside_a_stage_go_nowhere(tmp_path, monkeypatch):
    monkeypatch.delenv("SPEECHCWCL_STAGE_NOTES", raising=False)
    also_reads(tmp_path)


def test_a_second_run_waits_and_then_has_nothing_to_do(tmp_path):
    words = [
        sys.executable, "-m", "speechcwcl.cli.main", "stage", "--name", "stage 2: x", "--stamp",
        str(tmp_path / "2"), "--log", str(tmp_path / "2.log"), "--outputs", str(tmp_path / "o"),
        "--", "sh", "-c", f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; touch {tmp_path}/o",
    ]  # fmt: skip
    first = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "stage 2: x\n"  # it runs, and waits for `go`
    second = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert "another process is busy with this stage" in second.stdout.readline()
    (tmp_path / "go").touch()
    assert first.wait(timeout=60) == 0
    assert "done before, nothing changed; skipped" in second.communicate(timeout=60)[0]
    assert second.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_the_log_is_one_line_with_its_path(tmp_path, capfd):
    started = time.monotonic()
    words = ["stage", "--name", "s", "--stamp", str(tmp_path / "s"), "--log", "/dev/full"]
    assert main([*words, "--", "sh", "-c", "echo a; sleep 60"]) == 2
    error = capfd.readouterr().err.strip()
    assert error.count("\n") == 0 and "/dev/full: cannot write: No space left" in error
    assert time.monotonic() - started < 30  # the command was ended
    assert not (tmp_path / "s").exists()
