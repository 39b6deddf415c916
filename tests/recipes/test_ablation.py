"""The ablation: a grid runs, resumes, names its winner by validation alone; its sets do not mix."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "recipes/cwcl/ablation"), str(ROOT / "tools")]

import ablate  # noqa: E402

from speechcwcl.corpora import get_corpus  # noqa: E402
from speechcwcl.data.manifest import compile_manifest  # noqa: E402

SETS = ("train", "valid_words", "test_words", "test_intents")


@pytest.fixture
def grid(tmp_path, tiny_speech, tiny_text):
    """A grid of two variants on the fake mini corpus; returns the words of its command line."""
    corpus = get_corpus("mini")
    for folder in corpus.prepare(corpus.fake(tmp_path / "fake"), tmp_path / "data", SETS):
        compile_manifest(folder, tmp_path / "dump" / folder.name / "manifest.jsonl")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({
        "speech_encoder": str(tiny_speech), "text_encoder": str(tiny_text), "batch_size": 4,
        "projection": {"hidden": [8]}, "epochs": 1, "threads": 1,
    }))  # fmt: skip
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({
        "defaults": "base.yaml", "train": "train", "valid": ["valid_words:mini_words_valid"],
        "test": ["test_words:mini_words", "test_intents:mini_intents"],
        "words": ["test_words:mini_words"], "intents": ["test_intents:mini_intents"],
        "seeds": [1, 2], "average": 1, "variants": {"cwcl": None, "clip, 2": {"loss": "clip"}},
    }))  # fmt: skip
    return ["--grid", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "runs"),
            "--dumpdir", str(tmp_path / "dump")]  # fmt: skip


def test_a_grid_runs_then_has_nothing_to_do(grid, tmp_path, capsys):
    assert ablate.main(grid) == 0
    text = (tmp_path / "runs/table.md").read_text()
    assert "| cwcl |" in text and "| clip, 2 |" in text and "2 variants, 4 runs" in text
    assert (tmp_path / "runs/front.png").stat().st_size > 1000
    weights = tmp_path / "runs/clip_2/2/model/model.safetensors"
    before = weights.stat().st_mtime_ns
    assert ablate.main(grid) == 0
    assert weights.stat().st_mtime_ns == before
    assert (tmp_path / "runs/table.md").read_text() == text
    # what is asked for changed: that run is done again, the others are not
    asked = json.loads((tmp_path / "runs/clip_2/2/asked.json").read_text())
    (tmp_path / "runs/clip_2/2/asked.json").write_text(json.dumps({**asked, "train": "other"}))
    assert ablate.main([*grid, "--only", "clip"]) == 0
    assert weights.stat().st_mtime_ns != before


def test_the_winner_is_chosen_by_validation_alone():
    grid = ablate.Grid(
        Path(), "train", ["v:p"], ["t:p"], ["t:p"], ["t:p"], [1, 2], 1, {"a": {}, "b": {}}
    )
    results = {"a": np.array([[50.0, 99.0], [52.0, 99.0]]), "b": np.array([[60.0, 1.0]])}
    text = ablate.table(results, [100.0, 100.0], grid)
    assert "**b**" in text and "| a | 51.0 ± 12.7 |" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [({"trian": "x"}, "closest: 'train'"), ({"words": ["no:such"]}, "'no:such' is none of")],
)
def test_a_wrong_grid_is_named(grid, tmp_path, capsys, change, message):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    assert ablate.main(grid) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def intent_texts(tmp_path):
    """A folder with the three text corpora in their layouts, with sentences in common."""
    text = tmp_path / "data/text"
    for split, sentences in {
        "train_reconstructed": ["wake me up", "play jazz", "dim the lights", "what's new"],
        "devel": ["wake me up", "stop the music"],
        "test": ["play jazz", "is it raining"],
    }.items():
        lines = [
            json.dumps({"slurp_id": n, "sentence": s, "intent": "a_b", "scenario": "a",
                        "action": "b", "recordings": [{"file": "x.flac"}]})
            for n, s in enumerate(sentences)
        ]  # fmt: skip
        (text / "slurp").mkdir(parents=True, exist_ok=True)
        (text / "slurp" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    from speechcwcl.corpora.stop import DOMAINS

    (text / "topv2").mkdir()
    for domain in DOMAINS:
        for split, words in (("eval", "Dim the lights"), ("test", "is it raining")):
            lines = ["domain\tutterance\tsemantic_parse"]
            lines += [
                f"{domain}\t{words}\t[IN:X {words} ]",
                f"{domain}\t{split} {domain}?\t[IN:Y ]",
            ]
            (text / "topv2" / f"{domain}_{split}.tsv").write_text("\n".join(lines) + "\n")
    (text / "snips/train").mkdir(parents=True)
    (text / "snips/train/seq.in").write_text("book a table\nplay jazz\nplay 3 songs\n")
    return tmp_path / "data"


def test_no_sentence_and_no_voice_of_a_test_is_in_training(intent_texts):
    import make_intent_speech as speech

    args = speech.parse_arguments(
        ["--data", str(intent_texts), "--out", "x", "--work", "y", "--valid", "3", "--kokoro", "2"]
    )
    clips, labels = speech.plan(args)
    texts = {name: {c.text for c in clips if c.set == name} for name in {c.set for c in clips}}
    voices = {name: {c.voice for c in clips if c.set == name} for name in texts}
    assert texts["intents_train"] >= {"dim the lights", "what's new", "book a table"}
    assert texts["test_slurp"] == {"play jazz", "is it raining"}
    for name in set(texts) - {"intents_train"}:
        assert not texts["intents_train"] & texts[name], name
        assert not voices["intents_train"] & voices[name], name
    assert {v.split("_")[0] for v in voices["test_slurp"]} == {"flite"}
    assert not any(v.startswith("flite") for v in voices["intents_train"] | voices["valid_slurp"])
    assert labels[next(c.id for c in clips if c.set == "test_slurp")]["scenario"] == "a"
    assert speech.plan(args)[0] == clips


@pytest.mark.parametrize("engine", ["flite", "espeak"])
def test_programs_speak(engine):
    programs = pytest.importorskip("mini_corpus.programs")
    if shutil.which(programs.PROGRAMS[engine]) is None:
        pytest.skip(f"{programs.PROGRAMS[engine]} is not installed")
    voice = {"flite": "flite_slt", "espeak": "espeak_en-us+f2"}[engine]
    slow, fast = (programs.speak_by_program(engine, voice, "turn it off", s) for s in (0.8, 1.25))
    assert 0.3 < len(fast) / 16000 < len(slow) / 16000 < 3 and np.abs(slow).max() > 0.05
