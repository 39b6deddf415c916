"""The walk of CONTRIBUTING.md, step by step, in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(tmp_path):
    """A copy of what the walk needs."""
    for name in ("speechcwcl", "egs/TEMPLATE", "recipes/cwcl/hparams", "tools/new_recipe.sh"):
        source, target = ROOT / name, tmp_path / "repo" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    (tmp_path / "repo/bin").mkdir()
    return tmp_path / "repo"


def commands():
    """The indented commands of the section, in order."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Add a corpus")[1].split("## ")[0]
    blocks = re.findall(r"```\n(.*?)```", section, re.S)
    return [line for block in blocks for line in block.splitlines()]


def shell(command, copy, **more):
    tools = copy / "bin"  # where the command is put
    environment = dict(os.environ, PATH=f"{tools}:{os.environ['PATH']}")
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        command, shell=True, cwd=copy, env=environment, capture_output=True, text=True, timeout=600
    )


def test_the_walk_of_contributing(copy, tiny_speech, tiny_text):
    make, fake, real = commands()
    assert shell(make, copy).returncode == 0
    again = shell(make, copy)
    assert again.returncode == 2 and "is there already" in again.stderr
    tiny = copy / "tiny.yaml"
    tiny.write_text(yaml.safe_dump({
        "speech_encoder": str(tiny_speech), "text_encoder": str(tiny_text), "epochs": 1,
        "batch_size": 4, "threads": 1, "projection": {"hidden": [8]},
    }))  # fmt: skip
    faked = fake.replace("/tmp/mycorpus", str(copy / "fake")) + f" --train_config {tiny}"
    with forked.speechcwcl(copy / "bin", package=copy):
        done = shell(faked, copy)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (copy / "egs/mycorpus/cwcl1/exp/report.html").exists()
    # the same with --data: the fake is in the layout that the csv reader wants
    table = copy / "fake/mycorpus/metadata.csv"  # as a spreadsheet of a German office writes it
    table.write_text("\ufeff" + table.read_text().replace(",", ";"), encoding="utf-8")
    owned = real.replace("FOLDER", str(copy / "fake/mycorpus")) + f" --train_config {tiny}"
    script = f'#!/bin/sh\nexec {sys.executable} -m speechcwcl.cli.main "$@"\n'
    (copy / "bin/speechcwcl").write_text(script)
    done = shell(owned + " --stop_stage 2", copy)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", ["", "My Corpus", "1st", "../x"])
def test_a_bad_name_is_refused(copy, name):
    done = shell(f"tools/new_recipe.sh '{name}'", copy)
    assert done.returncode == 2 and "usage" in done.stderr
