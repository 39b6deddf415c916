"""Other people's models: a CLAP, a sentence-transformers model, the cascade; tiny, of configs."""

import json

import numpy as np
import pytest
import torch

from speechcwcl.cli.main import main
from speechcwcl.corpora.base import write_spoken
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import Utterance, write_datadir
from speechcwcl.errors import UserError
from speechcwcl.evaluation import evals
from speechcwcl.models import peers

WORDS = ("yes", "no", "stop", "go")


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * 16000)).astype(np.float32)


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    """A folder of a CLAP that reads letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        ClapAudioConfig,
        ClapConfig,
        ClapFeatureExtractor,
        ClapModel,
        ClapProcessor,
        ClapTextConfig,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clap")
    letters = {t: i for i, t in enumerate(["<pad>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"])}
    inner = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", model_max_length=40
    )
    audio = ClapAudioConfig(
        patch_embeds_hidden_size=16, hidden_size=128, depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
    )  # fmt: skip
    text = ClapTextConfig(
        vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, pad_token_id=0, max_position_embeddings=64,
    )  # fmt: skip
    both = {"text_config": text.to_dict(), "audio_config": audio.to_dict()}
    ClapModel(ClapConfig(**both, projection_dim=8)).save_pretrained(folder)
    extractor = ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad")
    ClapProcessor(extractor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """Folders of a Whisper with its decoder, and of its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    torch.manual_seed(0)
    folder, words = tmp_path_factory.mktemp("whisper"), tmp_path_factory.mktemp("words")
    # Whatever comes after the last of these is a time stamp to Whisper.
    tokens = ["<|endoftext|>", "<|startoftranscript|>", "yes", "no", "<|notimestamps|>"]
    config = WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=len(tokens),
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(tokens)}, unk_token="no"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(words / "tokenizer.json"))
    never = {"suppress_ids": [1, 4], "suppress_ids_begin": [0]}
    (words / "config.json").write_text(json.dumps(never))
    return folder, words


def test_a_clap_hears_each_clip_alone_and_cuts_long_ones_at_the_end(clap):
    model = peers.open_model(f"hf:{clap}")
    assert isinstance(model, peers.Clap) and model.rate == 48000
    long = noise(12)
    rows = model.encode_speech([long, noise(0.5)])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(model.encode_speech([long]), rows[:1])  # no random crop
    other_end = np.concatenate([long[: 10 * 16000], noise(2, seed=1)])
    np.testing.assert_allclose(model.encode_speech([other_end]), rows[:1], atol=1e-3)
    assert model.encode_text(["yes", "no", ""]).shape == (3, 8)
    pair = model.encode_text(["yes", "a much longer text"])
    np.testing.assert_allclose(model.encode_text(["yes"]), pair[:1], atol=1e-5)


def test_a_sentence_transformers_model_gives_what_its_clap_gives(clap, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.base.modules import Transformer

    st.SentenceTransformer(modules=[Transformer(str(clap))]).save(str(tmp_path / "st"))
    model, want = peers.open_model(f"hf:{tmp_path / 'st'}"), peers.open_model(f"hf:{clap}")
    assert isinstance(model, peers.Sentences) and model.rate == 48000
    clip = noise(0.5)
    np.testing.assert_allclose(model.encode_speech([clip]), want.encode_speech([clip]), atol=1e-5)
    np.testing.assert_allclose(model.encode_text(["yes"]), want.encode_text(["yes"]), atol=1e-5)


def test_a_sentence_transformers_model_of_text_is_refused(tiny_text, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    words = Transformer(str(tiny_text))
    st.SentenceTransformer(modules=[words, Pooling(24)]).save(str(tmp_path / "st"))
    with pytest.raises(UserError, match="takes text only, no audio"):
        peers.open_model(f"hf:{tmp_path / 'st'}")


def test_a_plain_text_encoder_is_refused(tiny_text):
    with pytest.raises(UserError, match=f"hf:{tiny_text}: .* cannot take audio"):
        peers.open_model(f"hf:{tiny_text}")


def test_the_cascade_embeds_what_it_transcribes(whisper, tiny_text, monkeypatch):
    monkeypatch.setattr(peers, "MOST_TOKENS", 3)
    folder, words = whisper
    model = peers.Cascade(folder, tiny_text, tokenizer=words)
    heard = model.transcribe(np.zeros(8000, np.float32))
    assert heard and set(heard.split()) <= {"yes", "no"} and len(heard.split()) <= 3
    row = model.encode_speech([np.zeros(8000, np.float32)])
    np.testing.assert_allclose(row, model.encode_text([heard]), atol=1e-6)
    assert peers.Cascade(folder, tiny_text, tokenizer=words, spelt=True).identity != model.identity


def test_spelling_is_the_labels_not_the_transcribers():
    assert peers.spell("7.") == "seven"
    assert peers.spell("Set it to 20, don't!") == "set it to 20 don't"
    assert peers.spell("...") == ""


@pytest.fixture
def dump(tmp_path):
    """Two compiled sets, `train` and `test`, of four words."""
    for seed, name in enumerate(("train", "test")):
        utterances = []
        for word in WORDS:
            path = tmp_path / f"{name}_{word}.wav"
            write_spoken(path, word, seed)
            labels = {"label": word}
            utterances.append(Utterance(f"{name}-{word}", str(path), word, name, labels=labels))
        folder = write_datadir(tmp_path / "data" / name, utterances, corpus={"name": "words"})
        compile_manifest(folder, tmp_path / "dump" / name / "manifest.jsonl", progress=False)
    return tmp_path / "dump"


def test_evaluate_scores_a_peer_on_our_sets_with_one_command(clap, dump, tmp_path, capsys):
    exp = tmp_path / "exp"
    words = ["evaluate", str(exp), "--model", f"hf:{clap}", "--dumpdir", str(dump)]
    words += ["--evals", "test:gsc_10", "test:retrieval", "--probe", "train"]
    assert main(words) == 0
    assert "test: gsc_10 top-1 " in capsys.readouterr().out
    scores = json.loads((exp / "eval/test/gsc_10/scores.json").read_text())
    assert scores["n"] == 4 and scores["text_bound"]["n"] == 4
    assert json.loads((exp / "eval/test/gsc_10/probe.json").read_text())["probe"].keys() == {
        "embedding"
    }
    assert not list((exp / "eval/test").glob(".*.npy"))


def test_a_cut_off_run_goes_on(clap, dump, tmp_path, monkeypatch):
    monkeypatch.setattr(evals, "_BLOCK", 2)
    model, heard = peers.open_model(f"hf:{clap}"), []

    def hear(wav, whole=model._hear):
        heard.append(len(wav))
        if len(heard) == 4:
            raise KeyboardInterrupt
        return whole(wav)

    monkeypatch.setattr(model, "_hear", hear)
    with pytest.raises(KeyboardInterrupt):
        evals.embed_set(model, tmp_path / "exp", dump, "test")
    rows = evals.embed_set(model, tmp_path / "exp", dump, "test")
    assert len(heard) == 6  # two of the four were kept
    monkeypatch.undo()
    again = evals.embed_set(peers.open_model(f"hf:{clap}"), tmp_path / "other", dump, "test")
    np.testing.assert_array_equal(rows, again)


@pytest.mark.parametrize(
    "name", ["cascade:", "cascade:whisper-tiny.en", "cascade:+text", "cascade:a+b+loud"]
)
def test_a_malformed_cascade_is_one_line(name, tmp_path, capsys):
    assert main(["evaluate", str(tmp_path), "--model", name, "--evals", "a:retrieval"]) == 2
    assert "expected cascade:WHISPER+TEXT" in capsys.readouterr().err
