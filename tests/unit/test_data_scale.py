"""Memory: preparing a corpus of a million utterances takes less than a gigabyte."""

import subprocess
import sys

import pytest

SCALE = """
import random, resource, sys
from speechcwcl.data.kaldi import Utterance, write_datadir
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.manifest import Manifest
count, folder = int(sys.argv[1]), sys.argv[2]
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def utterances():
    for k in range(count):
        i = k * 7919 % count  # scattered, so that sorting has something to do
        yield Utterance(f"utterance-{i:09d}", f"/corpora/some/audio/part{i % 997}/{i:09d}.flac",
            "some words that are as long as a sentence is, " * 2, f"speaker{i % 5000}",
            duration=1 + i % 20, labels={"label": f"l{i % 60}"})
start = peak()
write_datadir(folder + "/set", utterances(), corpus={})
compile_manifest(folder + "/set", folder + "/m.jsonl", nj=2, progress=False)
manifest = Manifest(folder + "/m.jsonl")
assert len(manifest) == count and manifest[count // 2].id == f"utterance-{count // 2:09d}"
print(peak() - start)
"""


def growth(tmp_path, count):
    """MB of memory that preparing `count` utterances adds."""
    done = subprocess.run(
        [sys.executable, "-c", SCALE, str(count), str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


def test_memory_is_bounded(tmp_path, monkeypatch):
    assert growth(tmp_path, 60_000) < 60


@pytest.mark.slow
def test_a_million_utterances_take_less_than_a_gigabyte(tmp_path):
    assert growth(tmp_path, 1_000_000) < 1000
