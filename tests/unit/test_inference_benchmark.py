"""tools/benchmarks/inference.py and accuracy.py run, on tiny models, and write their table."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from speechcwcl.models.aligner import Aligner

TOOLS = Path(__file__).parents[2] / "tools" / "benchmarks"


def load(name, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location(f"bench_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(tiny_speech, tiny_text, tmp_path):
    torch.manual_seed(0)
    Aligner.build(tiny_speech, tiny_text).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_table_with_speed_and_accuracy(model, tmp_path, monkeypatch, capsys):
    accuracy, speed = load("accuracy", monkeypatch), load("inference", monkeypatch)
    monkeypatch.setattr(speed, "README", tmp_path / "README.md")
    speed.README.write_text("# Benchmarks\n\nbefore\n", encoding="utf-8")
    figures = ["--json", str(tmp_path / "found.json"), "--model", str(model)]
    assert accuracy.main([*figures, "--sets", "mini_words", "--limit", "6"]) == 0
    assert "mini_words: ours" in capsys.readouterr().out
    words = [*figures, "--rivals", "--seconds", "0.3", "--threads", "1", "--rounds", "2"]
    for _ in range(2):
        assert speed.main([*words, "--budget", "0", "--write"]) == 0
    text = speed.README.read_text(encoding="utf-8")
    assert text.startswith("# Benchmarks\n\nbefore\n")
    assert text.count("<!-- inference -->") == text.count("<!-- /inference -->") == 1
    assert "| ours, torch |" in text and "| 0.3 s, 1 thread |" in text
    assert "| 35 words, synthetic speech |" in text and "of 6 |" in text
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert len(found["speed"]["0.3 s, 1 thread"]["ours"]["cpu"]) == 2
    assert found["accuracy"]["mini_words"]["ours"]["n"] == 6


def test_ratio_is_the_rivals_time_over_ours(monkeypatch):
    speed = load("inference", monkeypatch)
    times = {"ours": {"cpu": [1.0, 2.0]}, "cascade": {"cpu": [8.0, 16.0]}}
    assert speed.ratios({"1 s": times}) == ["1 s: ours, torch 8.0 x Whisper tiny.en + MiniLM"]


def test_samples_are_nested_and_always_the_same(monkeypatch):
    accuracy = load("accuracy", monkeypatch)
    few = [clip.id for clip in accuracy.utterances("mini_words", None, 5)]
    more = [clip.id for clip in accuracy.utterances("mini_words", None, 9)]
    assert more[:5] == few and len(set(more)) == 9
    assert len(accuracy.utterances("mini_words", None, None)) == 420


def test_transcripts_are_not_made_twice(monkeypatch):
    accuracy = load("accuracy", monkeypatch)
    clips = accuracy.utterances("mini_words", None, 3)

    class Rival:
        def transcribe(self, wav):
            assert wav.dtype == np.float32
            return "Yes."

    known = {clips[0].id: "Known."}
    heard = accuracy.transcribe(Rival(), clips, known, lambda: None)
    assert heard == ["Known.", "Yes.", "Yes."] and len(known) == 3


def test_clap_pipeline_answers(tiny_text, monkeypatch):
    rivals = load("rivals", monkeypatch)
    pipeline = rivals.build_clap(layers=1, tokenizer=tiny_text, tiny=True)
    found = pipeline(np.zeros(48000, np.float32), candidate_labels=["yes", "no"])
    assert {row["label"] for row in found} == {"yes", "no"}


def test_a_folder_that_is_no_model(tmp_path, monkeypatch, capsys):
    speed = load("inference", monkeypatch)
    words = ["--model", str(tmp_path), "--json", str(tmp_path / "f.json"), "--rivals"]
    assert speed.main(words) == 2
    assert "no config.json" in capsys.readouterr().err
    assert "bench_inference" not in sys.modules
