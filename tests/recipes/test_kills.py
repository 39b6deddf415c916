"""kill -9 at random moments of a whole recipe: it goes on, and ends with the same files.

`CWCL_KILLS=90 make test-slow PYTEST_ARGS="-s tests/recipes/test_kills.py"` kills more often.
"""

import hashlib
import os
import random
import signal
import subprocess
import time

import pytest
from test_run_sh import ROOT, command, tiny_config  # noqa: F401  (a fixture)

KILLS = int(os.environ.get("CWCL_KILLS", 12))


def digests(exp):
    """What must not depend on kills: the weights, the embeddings, the scores, the report's text."""
    wanted = ["model/model.safetensors", "eval/**/*.npy", "eval/**/scores.json"]
    paths = [path for pattern in wanted for path in sorted((exp / "tiny").glob(pattern))]
    return {
        path.relative_to(exp).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def leftovers(root):
    """Temporary files and folders that nobody will read."""
    found = [p for p in root.rglob("*") if ".cwcl-tmp" in p.name or p.suffix == ".partial"]
    return [path for path in found if path.is_relative_to(root)]


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path, tiny_config):  # noqa: F811
    options = [
        "--train_config", str(tiny_config), "--data_args", f"--fake {tmp_path / 'fake'}",
        "--nj", "1", "--min_duration", "0.05", "--train_args", "--ckpt_interval_steps 1",
    ]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    seconds, done = [], []
    for root in (whole, killed):
        root.mkdir()
    words, environment = command(ROOT / "egs/mini/cwcl1", whole, *options)
    began = time.monotonic()
    subprocess.run(words, env=environment, cwd=whole, check=True, capture_output=True)
    length = time.monotonic() - began
    expected = digests(whole / "exp")
    assert len(expected) > 5

    draw, kills, tries = random.Random(0), 0, 0
    words, environment = command(ROOT / "egs/mini/cwcl1", killed, *options)
    while tries < 4 * KILLS:
        tries += 1
        process = subprocess.Popen(
            words, env=environment, cwd=killed, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        # Short runs too: a resumed run skips what is done, so late moments come by themselves.
        wait = None if kills >= KILLS else draw.uniform(0.02, 1) * min(length, 25)
        try:
            out, _ = process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            seconds.append(wait)
            continue
        assert process.returncode == 0, out[-3000:]
        done.append(out)
        if kills >= KILLS:
            break
        for name in ("exp", "dump", "data"):  # it came to its end: from the beginning
            if draw.random() < 0.5:
                subprocess.run(["rm", "-rf", str(killed / name)], check=True)
    print(f"\n{kills} kills of runs of {length:.0f} s; {len(done)} ends")
    assert kills == KILLS and digests(killed / "exp") == expected
    assert leftovers(killed) == []
