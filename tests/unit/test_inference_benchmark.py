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


def test_spelling_is_the_labels_not_the_transcribers(monkeypatch):
    rivals = load("rivals", monkeypatch)
    assert rivals.spell("7.") == "seven"
    assert rivals.spell("Set it to 20, don't!") == "set it to 20 don't"
    assert rivals.spell("...") == ""


def test_cascade_transcribes_and_classifies(tiny_text, tmp_path, monkeypatch):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    rivals = load("rivals", monkeypatch)
    torch.manual_seed(0)
    # Whatever comes after the last of these is a time stamp to Whisper.
    words = ["<|endoftext|>", "<|startoftranscript|>", "yes", "no", "<|notimestamps|>"]
    config = WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=len(words),
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(tmp_path)
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="no"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "words"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    never = {"suppress_ids": [1, 4], "suppress_ids_begin": [0]}
    (folder / "config.json").write_text(json.dumps(never))
    monkeypatch.setattr(rivals, "MOST_TOKENS", 3)
    rival = rivals.Cascade(tmp_path, folder, tiny_text)
    wav = np.zeros(8000, np.float32)
    heard = rival.transcribe(wav)
    assert heard and set(heard.split()) <= {"yes", "no"} and len(heard.split()) <= 3
    labels = rival.encode_text(["x", heard])
    assert rival.classify(wav, labels) == 1


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
