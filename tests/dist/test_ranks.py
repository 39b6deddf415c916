"""Two and four gloo ranks have the gradient of one process, to 1e-6."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CASES = [
    "closed form",
    "matrix of targets",
    "even",
    "equal transcripts",
    "clip",
    "siglip",
    "supcon",
    "mixed",
    "bank",
    "bank, both anchors",
    "cached gradients",
    "cached gradients, bank",
]


def launch(module, ranks, *words, timeout=900):
    """Run a module of this folder on so many ranks of this machine."""
    done = subprocess.run(
        [sys.executable, str(HERE / "launch.py"), module, ranks, *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    launch("ranks", "2,4", folder)
    return folder


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def errors(request, folder):
    return json.loads((folder / f"{request.param}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES)
def test_gradient_of_one_process(errors, case):
    assert errors[case] < 1e-6


def test_without_a_gather_the_gradient_is_another(errors):
    """The instrument sees an error when there is one."""
    assert errors["wrong: nothing gathered"] > 0.1
    assert set(errors) == {*CASES, "wrong: nothing gathered"}


def test_a_speechbrain_brain_under_ddp(tmp_path):
    """Training ends at the weights of one process, with whole batches and with cached gradients."""
    launch("brain_ranks", "2", tmp_path / "gaps.json")
    gaps = json.loads((tmp_path / "gaps.json").read_text(encoding="utf-8"))
    assert set(gaps) == {f"{n}, accumulation {a}" for n in ("whole", "cached") for a in (1, 3)}
    assert max(gaps.values()) < 1e-6


@pytest.fixture
def busy_processor():
    """Two processes that only compute: ranks fall out of step."""
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(2)]
    yield
    for process in processes:
        process.kill()
        process.wait()


def test_ranks_save_and_delete_many_checkpoints(tmp_path, busy_processor):
    """Ranks that list the folder at different moments must not wait for each other for ever."""
    launch("checkpoint_ranks", "2", tmp_path, 40, timeout=240)
    latest, *rest = map(int, (tmp_path / "kept.txt").read_text().split())
    assert latest == 39 and 2 <= len(rest) <= 5
