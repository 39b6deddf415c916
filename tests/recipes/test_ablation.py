"""The ablation: a grid runs, resumes, names its winner by validation alone; its sets do not mix."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "recipes/cwcl/ablation"), str(ROOT / "tools")]

import ablate  # noqa: E402
import both  # noqa: E402
from transformers import WhisperConfig, WhisperModel  # noqa: E402

from speechcwcl.data.kaldi import Utterance  # noqa: E402
from speechcwcl.data.manifest import Manifest  # noqa: E402
from speechcwcl.errors import UserError  # noqa: E402
from speechcwcl.models.encoders.speech import SpeechEncoder  # noqa: E402


@pytest.fixture
def grid(mini, tmp_path, tiny_speech, tiny_text):
    """A grid of two variants on the fake mini corpus; returns the words of its command line."""
    mini(tmp_path / "dump")
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
    assert ablate.main([*grid, "--report"]) == 0
    assert (tmp_path / "runs/table.md").read_text() == text
    # a run of before there was some key is the same run
    path = tmp_path / "runs/clip_2/2/asked.json"
    asked = json.loads(path.read_text())
    del asked["config"]["augment_seed"]
    path.write_text(json.dumps(asked))
    assert ablate.main(grid) == 0
    assert weights.stat().st_mtime_ns == before
    # what is asked for changed: that run is done again, the others are not
    path.write_text(json.dumps({**asked, "train": "other"}))
    assert ablate.main([*grid, "--only", "clip"]) == 0
    assert weights.stat().st_mtime_ns != before


def test_a_variant_may_have_its_own_training_set(grid, tmp_path, capsys):
    path = tmp_path / "grid.yaml"
    variants = {"cwcl": {"train": "valid_words"}, "unfinished": {}}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"variants": variants}))
    assert ablate.main([*grid, "--report"]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert ablate.main([*grid, "--only", "cwcl", "--seeds", "1"]) == 0
    asked = json.loads((tmp_path / "runs/cwcl/1/asked.json").read_text())
    assert asked["train"] == "valid_words" and "train" not in asked["config"]
    assert ablate.main([*grid, "--report"]) == 0
    assert "1 variants, 1 runs" in (tmp_path / "runs/table.md").read_text()


def test_the_winner_is_chosen_by_validation_alone():
    grid = ablate.Grid(
        Path(), "train", ["v:p"], ["t:p"], ["t:p"], ["t:p"], [1, 2], 1, {"a": {}, "b": {}}
    )
    results = {"a": np.array([[50.0, 99.0], [52.0, 99.0]]), "b": np.array([[60.0, 1.0]])}
    text = ablate.table(results, [100.0, 100.0], grid)
    assert "**b**" in text and "| a | 51.0 ± 12.7 |" in text


def test_differences_are_taken_seed_by_seed():
    grid = ablate.Grid(
        Path(), "train", ["v:p"], ["t:p"], ["t:p"], ["t:p"], [1, 2], 1, {"a": {}, "b": {}}
    )
    results = {"a": np.array([[50.0, 9.0], [60.0, 7.0]]), "b": np.array([[51.0, 9.0], [61.0, 9.0]])}
    results["once"] = np.array([[1.0, 1.0]])  # has not the same seeds
    text = ablate.differences(results, "a", grid)
    assert "| b | 1.0 ± 0.0 | 1.0 ± 0.0 | 1.0 ± 12.7 | 2 |" in text and "once" not in text
    with pytest.raises(UserError, match="closest: 'a'|no finished variant"):
        ablate.differences(results, "aa", grid)


def test_own_losses_of_the_grid_with_fixed_temperatures(tmp_path):
    from speechcwcl.losses import build_loss
    from speechcwcl.training.config import load_config

    path = ROOT / "recipes/cwcl/ablation/fixed.yaml"
    speech, text = (
        torch.nn.functional.normalize(torch.randn(12, 6, generator=torch.manual_seed(seed)), dim=1)
        for seed in (1, 2)
    )
    other = tmp_path / "teacher.npy"
    np.save(other, text.numpy())
    ids = torch.arange(12)

    def loss(spec, **options):
        return build_loss(spec, temperature=0.1, learnable=False, **options)(
            speech, text, ids
        ).total

    grid = ablate.Grid.read(path)
    for changes in grid.variants.values():
        changes = {key: value for key, value in (changes or {}).items() if key != "train"}
        config = load_config(grid.defaults, changes)
        for spec in config.loss if isinstance(config.loss, list) else [config.loss]:
            build_loss(spec, loss_file=config.loss_file, **config.loss_options)
    forth = {"cl": {"weight": 1, "direction": "speech_to_text"}}
    ranked = loss({"ranked": {"weight": 1, "power": 60.0}})
    assert ranked == pytest.approx(loss(forth).item(), rel=1e-5)  # only its own text is left
    softmax = {"cwcl": {"weighting": {"softmax": 0.05}, "anchor": "speech"}}
    taught = {"taught": {"embeddings": str(other), "softmax": 0.05}}
    assert loss(taught) == pytest.approx(loss(softmax).item(), rel=1e-5)
    free = {"free_texts": {"embeddings": str(other), "count": 0}}
    assert loss(free) == pytest.approx(loss("clip").item(), rel=1e-5)
    free["free_texts"]["count"] = 40
    assert loss(free) > loss("clip") + 0.1  # more to be told apart from
    # the teacher says what the text says
    distilled = loss({"distilled": {"embeddings": str(other)}})
    assert distilled == pytest.approx(loss("cosine").item(), rel=1e-5)
    level = {"dense": {"low": 0.1, "high": 0.1}}
    assert build_loss(level)(speech, text, ids).total == pytest.approx(
        loss("clip").item(), rel=1e-5
    )


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
    clips, labels = (plan := speech.plan(args)).clips, plan.labels
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
    assert speech.plan(args) == plan


def test_sets_of_single_words_hold_the_same_words(tmp_path, monkeypatch):
    import soundfile
    import words

    texts = {"a-1": "turn it on", "a-2": "on", "a-3": "on", "a-4": "off", "train-af-1": "off"}
    read, clip = tmp_path / "read.flac", tmp_path / "said.flac"
    soundfile.write(read, np.zeros(16000), 16000)
    soundfile.write(clip, np.zeros(8000), 16000)
    rows = [{"id": key, "audio": str(read), "start": 0.0, "end": 1.0, "duration": 1.0, "text": text,
             "speaker": "s", "labels": {}} for key, text in texts.items()]  # fmt: skip
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    monkeypatch.setattr(words, "speak", lambda clips, work, jobs: clips)
    monkeypatch.setattr(words, "utterances", lambda clips, labels, args: [
        Utterance(c.id, str(clip), c.text, c.voice) for c in clips
    ])  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["words.py", str(tmp_path / "manifest.jsonl"), "--dump",
                                      str(tmp_path), "--work", str(tmp_path / "work")])  # fmt: skip
    assert words.main() == 0
    made = {
        name: Manifest(tmp_path / f"words_{name}/manifest.jsonl")
        for name in ("none", "cut", "spoken", "both", "more")
    }
    said = {name: sorted(u.text for u in some if u.text) for name, some in made.items()}
    assert said["none"] == ["turn it on"]  # neither cut words nor those of the mini corpus
    assert said["cut"] == said["spoken"] == ["off", "on", "on", "turn it on"]
    assert said["both"] == ["off", "off", "on", "on", "on", "on", "turn it on"]
    assert {u.duration for u in made["spoken"] if u.text == "on"} == {0.5}
    assert said["more"].count("off") == 1 + 1 + 1 + 4  # cut, spoken, cut closer, two speeds of both
    lengths = sorted(len(u.load()) / 16000 for u in made["more"] if u.text == "off")
    assert lengths == pytest.approx([0.42, 0.5, 0.59, 0.83, 0.86, 1, 1.18], abs=0.05)


@pytest.mark.parametrize(
    "voice", ["flite_slt", "espeak_en-us+f2", "espeak_mb-fr1-en", "pico_en-GB_p090", "rhvoice_bdl"]
)
def test_programs_speak(voice):
    from mini_corpus import UserError, programs

    try:
        programs.check_programs({voice})
    except UserError as error:
        pytest.skip(str(error))
    engine = voice.split("_")[0]
    slow, fast = (programs.speak_by_program(engine, voice, "turn it off", s) for s in (0.8, 1.25))
    assert 0.3 < len(fast) / 16000 < len(slow) / 16000 < 3 and np.abs(slow).max() > 0.05


def test_more_voices_are_of_training_alone(intent_texts, monkeypatch):
    import make_intent_speech as speech

    own = [Utterance(text, "x.wav", text, "s") for text in ("seven", "play jazz", "yes please")]
    monkeypatch.setattr(speech, "mini_train", lambda out: own)
    args = ["--data", str(intent_texts), "--out", "x", "--work", "y", "--valid", "3", "--snips",
            "0", "--topv2", "1"]  # fmt: skip
    plan = speech.plan(speech.parse_arguments([*args, "--voices"]))
    sets = {name: [c for c in plan.clips if c.set == name] for name in plan.sum_of}
    before = speech.plan(speech.parse_arguments(args))
    assert [c for c in plan.clips if c in before.clips] == before.clips
    # all sentences, those that intents_train has no room for too, and the words
    texts = {c.text for c in sets["voices_train"]}
    assert texts > {c.text for c in sets["intents_train"]} | {"book a table", "seven"}
    assert not texts & {c.text for n in ("test_slurp", "valid_slurp") for c in sets[n]}
    assert {c.text: c.kind for c in sets["accents_train"]}["seven"] == "word"
    voices = {name: {c.voice.rpartition("_p")[0] or c.voice for c in clips}
              for name, clips in sets.items()}  # fmt: skip
    for name, others in voices.items():
        assert name == "voices_train" or not voices["voices_train"] & others, name


def test_voices_of_programs(tmp_path, monkeypatch):
    """A stand-in for the programs writes one second of 24 kHz where it is told to."""
    import soundfile
    from mini_corpus import UserError, programs

    soundfile.write(tmp_path / "one.wav", np.full(24000, 0.1), 24000)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(programs, "MBROLA", tmp_path)
    for name in ("espeak-ng", "pico2wave", "RHVoice-test"):
        script = f'for w; do case $w in *.wav) cp {tmp_path}/one.wav "$w";; esac; done\n'
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n{script}')
        (tmp_path / name).chmod(0o755)
    for voice, seconds in (("espeak_en-us+m3", 1.0), ("pico_en-GB_p080", 1.25), ("rhvoice_x", 1.0)):
        audio = programs.speak_by_program(voice.split("_")[0], voice, "hello", 1.2)
        assert audio.dtype == np.float32 and len(audio) == round(seconds * 16000)
    said = (tmp_path / "said").read_text().splitlines()
    assert "-s 198" in said[0] and 'speed level="150"' in said[1] and "-r 120" in said[2]
    programs.check_programs({"pico_en-GB", "af_sky", "hibari_p080"})
    with pytest.raises(UserError, match="apt-get install mbrola mbrola-fr1"):
        programs.check_programs({"espeak_mb-fr1-en"})
    (tmp_path / "pico2wave").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="libttspico-utils"):
        programs.check_programs({"pico_en-GB"})


def test_two_whispers_side_by_side_hear_what_each_hears(tmp_path, monkeypatch, tiny_text, capsys):
    folders = []
    for layers, heads in ((2, 2), (3, 4)):  # the lower one waits while the other goes on
        config = WhisperConfig(
            d_model=8 * heads, encoder_layers=layers, encoder_attention_heads=heads,
            encoder_ffn_dim=48, decoder_layers=1, decoder_attention_heads=heads,
            decoder_ffn_dim=16, vocab_size=32, max_source_positions=100, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )  # fmt: skip
        folders.append(str(tmp_path / str(layers)))
        WhisperModel(config).save_pretrained(folders[-1])
    monkeypatch.setattr(sys, "argv", ["both", str(tmp_path / "both"), *folders])
    assert both.main() == 0
    wav, lengths = torch.randn(2, 40000), torch.tensor([40000, 9000])  # longer than a window
    pair, *alone = (
        SpeechEncoder.from_pretrained(f, freeze="all")(wav, lengths)
        for f in (tmp_path / "both", *folders)
    )
    assert torch.equal(pair[0], torch.cat([frames for frames, _ in alone], dim=-1))
    assert torch.equal(pair[1], alone[0][1])
    for made, order in (("again", folders), ("turned", folders[::-1])):  # their hash has no order
        monkeypatch.setattr(sys, "argv", ["both", str(tmp_path / made), *order])
        assert both.main() == 0
        weights = [(tmp_path / m / "model.safetensors").read_bytes() for m in ("both", made)]
        assert weights[0] == weights[1]
    (tmp_path / "both/model.safetensors").write_bytes(weights[0][:-8])
    with pytest.raises(UserError, match="both: cannot load the weights"):
        SpeechEncoder.from_pretrained(tmp_path / "both")
    monkeypatch.setattr(sys, "argv", ["both", str(tmp_path / "no"), folders[0], str(tiny_text)])
    assert both.main() == 2
    assert not (tmp_path / "no").exists()
    assert "\nboth: " in capsys.readouterr().err


def test_noisy_copies_of_a_set(mini, tmp_path, monkeypatch):
    import noisy

    mini(tmp_path / "dump")
    monkeypatch.setattr(sys, "argv", ["noisy", "test_words", "--dump", str(tmp_path / "dump")])
    assert noisy.main() == 0
    clean = Manifest(tmp_path / "dump/test_words/manifest.jsonl")
    for snr in (10, 0):
        loud = Manifest(tmp_path / f"dump/test_words_{snr}db/manifest.jsonl")
        assert [(u.id, u.text, u.labels) for u in loud] == [(u.id, u.text, u.labels) for u in clean]
        for u, v in zip(clean, loud, strict=True):
            wav, heard = u.load(), v.load()
            assert len(wav) == len(heard)
            scale = (wav @ heard) / (wav @ wav)  # a loud sum is scaled down
            noise = heard / scale - wav
            assert 10 * np.log10((wav @ wav) / (noise @ noise)) == pytest.approx(snr, abs=1.5)
    monkeypatch.setattr(sys, "argv", ["noisy", "gone", "--dump", str(tmp_path / "dump")])
    assert noisy.main() == 2
