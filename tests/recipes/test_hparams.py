"""Every training YAML of the recipes resolves strictly, and trains with towers of its own kind."""

from pathlib import Path

import models_tiny
import pytest
import torch

from speechcwcl.corpora.base import write_spoken
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import Utterance, write_datadir
from speechcwcl.losses import build_loss
from speechcwcl.models.text_side import describe_text
from speechcwcl.training.config import load_config
from speechcwcl.training.run import build_aligner, train

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(ROOT.glob("recipes/cwcl/hparams/*.yaml"))
FILES = RECIPES + sorted(ROOT.glob("egs/*/cwcl1/conf/*.yaml"))

# what a YAML's speech encoder is called -> a tiny one of the same family and the same norms
SPEECH = {
    "hubert-base": "hubert-group",
    "wav2vec2-base": "wav2vec2-group",
    "wav2vec2-large-lv60": "wav2vec2-layer",
    "wavlm-base": "wavlm-group",
    "whisper": "whisper",
}
TEXT = {"MiniLM": "bert", "mpnet": "mpnet", "roberta": "roberta", "bart": "bart"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_resolves_and_its_loss_builds(path):
    config = load_config(path)
    for spec in config.loss if isinstance(config.loss, list) else [config.loss]:
        assert build_loss(spec, **config.loss_options)


def test_the_encoders_of_the_paper_are_there():
    speech = {load_config(path).speech_encoder for path in FILES}
    text = {load_config(path).text_encoder for path in FILES}
    assert any("hubert-base" in name for name in speech)
    assert any("wavlm-base-plus" in name for name in speech)
    assert sum("wav2vec2" in name for name in speech) >= 2
    assert sum("whisper" in name for name in speech) >= 3
    assert any("roberta" in name for name in text) and any("bart" in name for name in text)
    assert any("mpnet" in name for name in text) and any("MiniLM" in name for name in text)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Eight utterances of different lengths and words."""
    root = tmp_path_factory.mktemp("eight")
    utterances = []
    for number, word in enumerate(["on", "off", "up", "down", "left", "right", "stop", "go"]):
        clip = root / f"{word}.wav"
        write_spoken(clip, word, seconds=0.3 + 0.03 * number)
        utterances.append(Utterance(word, str(clip), f"turn it {word}", "s"))
    folder = write_datadir(root / "data", utterances, corpus={})
    compile_manifest(folder, root / "train/manifest.jsonl", progress=False)
    return root / "train/manifest.jsonl"


def stand_in(table, name):
    """The value of the longest key that is in a name."""
    keys = [key for key in table if key in name.rsplit("/", 1)[-1]]
    assert keys, f"{name}: no stand-in; add one to this test"
    return table[max(keys, key=len)]


@pytest.fixture(scope="module")
def towers(tmp_path_factory, tiny_text):
    """A function: names of a YAML's encoders -> folders of tiny ones of the same families."""
    root, made = tmp_path_factory.mktemp("towers"), {}

    def tower(speech, text):
        kind, words = stand_in(SPEECH, speech), stand_in(TEXT, text)
        if kind not in made:
            made[kind] = models_tiny.save(kind, root / kind)
        if words not in made:
            made[words] = models_tiny.save_text(words, root / words, tiny_text)
        return made[kind], made[words]

    return tower


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_trains_two_steps_with_tiny_towers_of_its_own_families(path, towers, manifest, tmp_path):
    asked = load_config(path)
    speech, text = towers(asked.speech_encoder, asked.text_encoder)
    size = {"batch_size": 4, "epochs": 1, "num_workers": 0, "threads": 1, "warmup": 0}
    small = {"max_batch_length": None, "num_buckets": 1}
    chunk = {"grad_cache_chunk": 2} if asked.grad_cache_chunk else {}
    given = {"speech_encoder": str(speech), "text_encoder": str(text)}
    pooling = dict(asked.pooling_options)
    if "context" in pooling:  # its default of 6 heads does not divide the stand-in's width
        pooling["context"] = {**pooling["context"], "heads": 4}
    config = load_config(path, {**given, **size, **small, **chunk, "pooling_options": pooling})
    assert describe_text(text, config.text_pooling).pooling == "mean"

    before = {k: v.clone() for k, v in build_aligner(config).named_parameters() if v.requires_grad}
    expdir = tmp_path / "exp"
    run = train(config, train=manifest, expdir=expdir, dumpdir=tmp_path, device="cpu")
    (epoch,) = run.metrics
    assert epoch["step"] == 2 and 0 < epoch["train"]["loss"] < 100
    after = dict(run.model().named_parameters())
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    encoder = {name for name in before if name.startswith("speech_encoder.model.")}
    if asked.freeze == "all":
        assert not encoder and moved
    else:
        assert len(encoder & moved) > 0.8 * len(encoder), sorted(encoder - moved)
