"""What all tests share: tiny towers built from a config, real recordings where there are any."""

import functools
import json
import os
import shutil
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # in processes that tests start too: workers share the cores

import numpy as np
import pytest
import torch

from speechcwcl.corpora import get_corpus
from speechcwcl.data.audio import write_audio
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.files import lock

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository():
    """The top of this repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data():
    """The folder of real recordings and annotations; the test is skipped where it is absent."""
    folder = Path(os.environ.get("SPEECHCWCL_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SPEECHCWCL_REAL_DATA to run this")
    return folder


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """`once(name, make)`: a folder that the first worker to ask for it fills, for all workers."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def get(name, make):
        folder, done = base / "once" / name, base / "once" / f"{name}.done"
        with lock(base / "once" / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def fakes(tmp_path_factory):
    """The name of a corpus -> the folder of its fake; not to be changed (copy it)."""
    root = tmp_path_factory.mktemp("fakes")
    return functools.cache(lambda name: get_corpus(name).fake(root / name))


@pytest.fixture(scope="session")
def mini(fakes, tmp_path_factory):
    """A function: manifests of the fake mini corpus, a set a folder, into a folder."""
    root = tmp_path_factory.mktemp("mini")
    names = ("train", "valid_words", "valid_sentences", "test_words", "test_intents")
    for folder in get_corpus("mini").prepare(fakes("mini"), root / "data", names):
        compile_manifest(folder, root / "dump" / folder.name / "manifest.jsonl", progress=False)
    return functools.partial(shutil.copytree, root / "dump")


@pytest.fixture
def little_background(tmp_path_factory, monkeypatch):
    """Six seconds of ordinary sound in place of minutes, kept in a cache of the test's own."""
    folder = tmp_path_factory.mktemp("background")
    rng = np.random.default_rng(0)
    write_audio(folder / "noise.ogg", (0.1 * rng.standard_normal(6 * 16000)).astype(np.float32))
    monkeypatch.setattr("speechcwcl.zeroshot.enrolment.BACKGROUND", folder)
    monkeypatch.setattr("speechcwcl.zeroshot.enrolment.cache_folder", lambda: folder)


@pytest.fixture(scope="session")
def tiny_speech(tmp_path_factory):
    """A Whisper of two narrow layers, saved as transformers saves it."""
    from transformers import WhisperConfig, WhisperModel

    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=64, vocab_size=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny_speech")
    WhisperModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory):
    """A BERT of one narrow layer that reads letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz'"
    tokens = ["[PAD]", "[UNK]", *letters, *("##" + c for c in letters)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tiny_text")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    ).save_pretrained(folder)
    config = BertConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        vocab_size=len(tokens), max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A narrow BERT with its own kind of tokenizer, in two layers."""
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["turn", "on", "the", "light", "cafe", "naive", "don", "t", "a", "b", "c", "ok"]
    words += ["##s", ";", ".", "'", "5", "日", "0"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    BertTokenizer(vocab=vocabulary, model_max_length=64).save_pretrained(folder)
    # What MiniLM's says; transformers writes less.
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    config = BertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        vocab_size=len(tokens), max_position_embeddings=64, position_embedding_type="absolute",
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder
