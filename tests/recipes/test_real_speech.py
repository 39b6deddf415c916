"""The demo's model on real recordings, none of which was trained on.

The quick test scores a model that `make demo` has left (or SPEECHCWCL_DEMO_MODEL), its digits on
the test split of their makers; the slow one makes it first, and scores it on all.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEAST = {"digits": 90.0, "words": 80.0}


def score(model, data, out):
    """Top-1 in percent, by set, as tools/real_speech.py prints it."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/real_speech.py"), "--data", str(data),
         "--model", str(model), "--out", str(out)],
        capture_output=True, text=True, cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT)), timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(re.findall(r"^\| (\w+): .*?\| (?:R@1 )?([\d.]+) %", done.stdout, re.M))
    return {name: float(value) for name, value in found.items()}


def check(found):
    for name, least in LEAST.items():
        assert found[name] >= least, f"{name}: {found[name]} % on real speech, less than {least} %"
    assert found["sentences"] > 5 * 100 / 48  # five times chance at the very least


def test_a_demo_model_hears_real_digits_and_words(real_data, tmp_path):
    default = ROOT / "egs/mini/cwcl1/exp/cwcl/model"
    model = Path(os.environ.get("SPEECHCWCL_DEMO_MODEL", default))
    if not (model / "config.json").exists():
        pytest.skip("no demo model; run `make demo` first, or set SPEECHCWCL_DEMO_MODEL")
    (tmp_path / "data/fsdd").mkdir(parents=True)
    for place in real_data.iterdir():
        if place.name != "fsdd":
            (tmp_path / "data" / place.name).symlink_to(place)
    for clip in (real_data / "fsdd").glob("*_[0-4].wav"):
        (tmp_path / "data/fsdd" / clip.name).symlink_to(clip)
    check(score(model, tmp_path / "data", tmp_path / "real"))


@pytest.mark.slow
def test_the_demo_makes_a_model_that_hears_real_speech(real_data, tmp_path):
    places = [w for n in ("data", "dump", "exp") for w in (f"--{n}dir", str(tmp_path / n))]
    done = subprocess.run([str(ROOT / "egs/mini/cwcl1/run.sh"), *places], timeout=1800)
    assert done.returncode == 0
    check(score(tmp_path / "exp/cwcl/model", real_data, tmp_path / "real"))
