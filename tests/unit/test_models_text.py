"""Text encoders of several kinds and the store of their embeddings."""

import json

import numpy as np
import pytest
import torch

from speechcwcl.cache.embed import TextStore, stored_encoder
from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.text_side import TextEncoder, describe_text

TEXTS = ["yes", "turn on the light", "a cat", "what is the weather like tomorrow", "a cat"]


@pytest.fixture(scope="module")
def encoder(tiny_text):
    return TextEncoder.from_pretrained(tiny_text)


def by_hand(folder, text, pooling):
    """One text, alone, through transformers."""
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        hidden = model(**tokens).last_hidden_state[0]
    pooled = {
        "mean": hidden.mean(0),
        "cls": hidden[0],
        "max": hidden.max(0).values,
        "last": hidden[-1],
    }[pooling]
    return (pooled / pooled.norm()).numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last"])
def test_poolings_against_transformers(pooling, tiny_text):
    found = TextEncoder.from_pretrained(tiny_text, pooling=pooling).encode(TEXTS, batch_size=3)
    for row, text in zip(found, TEXTS, strict=True):
        assert np.abs(row - by_hand(tiny_text, text, pooling)).max() < 1e-5


def test_unit_norm_any_batch_any_order(encoder):
    whole = encoder.encode(TEXTS)
    assert whole.dtype == np.float32
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    assert np.abs(whole - encoder.encode(TEXTS, batch_size=1)).max() < 1e-5
    assert np.abs(whole - encoder.encode(TEXTS[::-1], batch_size=2)[::-1]).max() < 1e-5
    assert np.array_equal(whole[2], whole[4])
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_frozen_whatever_is_asked(encoder):
    encoder.train()
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.parameters())
    assert next(encoder.parameters()).dtype == torch.float32


@pytest.mark.parametrize("bad", ["", "  ", None, 7])
def test_empty_text_is_named(bad, encoder):
    with pytest.raises(UserError, match="text 2 of 2 is empty or not text"):
        encoder.encode(["fine", bad])


def test_long_text_is_cut_not_refused(encoder):
    assert encoder.encode(["word " * 500]).shape == (1, encoder.dim)


def copy(source, target):
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def declare(folder, pooling_config, extra=()):
    """Make a folder a sentence-transformers one."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *extra]
    modules = [{"path": path, "type": f"sentence_transformers.models.{k}"} for path, k in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling_config))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_declared_pooling(config, expected, tiny_text, tmp_path):
    folder = copy(tiny_text, tmp_path)
    declare(folder, config)
    assert describe_text(folder).pooling == expected
    row = TextEncoder.from_pretrained(folder).encode(["a cat"])[0]
    assert np.abs(row - by_hand(tiny_text, "a cat", expected)).max() < 1e-5


@pytest.mark.parametrize(
    ("config", "extra", "words"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, (), "mean, cls"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, (), "pooling_mode_mean_sqrt_len_tokens"),
        ({"pooling_mode_mean_tokens": True}, (("2_Dense", "Dense"),), "a Dense module"),
    ],
)
def test_pipelines_we_do_not_have_are_refused(config, extra, words, tiny_text, tmp_path):
    folder = copy(tiny_text, tmp_path)
    declare(folder, config, extra)
    with pytest.raises(UserError, match=words):
        describe_text(folder)


def test_length_limit_and_lower_case_of_sentence_transformers(tiny_text, tmp_path):
    folder = copy(tiny_text, tmp_path)
    declared = {"max_seq_length": 3, "do_lower_case": True}
    (folder / "sentence_bert_config.json").write_text(json.dumps(declared))
    encoder = TextEncoder.from_pretrained(folder)
    assert (encoder.info.max_tokens, encoder.info.lower) == (3, True)
    rows = encoder.encode(["abc def", "ABC xyz"])
    assert np.array_equal(rows[0], rows[1])  # both are cut to the three letters "abc"


def test_hash_tells_encoders_apart(tiny_text, tmp_path):
    first = describe_text(tiny_text)
    folder = copy(tiny_text, tmp_path)
    assert describe_text(folder).hash == first.hash  # wherever it lies
    assert describe_text(folder, "cls").hash != first.hash
    (folder / "README.md").write_text("not a part of it")
    assert describe_text(folder).hash == first.hash
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert describe_text(folder).hash != first.hash


def test_of_an_encoder_decoder_only_the_encoder(tiny_text, tmp_path):
    from transformers import T5Config, T5Model

    copy(tiny_text, tmp_path)
    config = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=64)
    torch.manual_seed(0)
    T5Model(config).save_pretrained(tmp_path)
    encoder = TextEncoder.from_pretrained(tmp_path)
    assert encoder.encode(["a cat"]).shape == (1, 16)
    assert not any("decoder" in name for name in encoder.state_dict())


def test_broken_text_folders(tiny_text, tmp_path):
    with pytest.raises(UserError, match="text pooling: 'men'"):
        describe_text(tiny_text, "men")
    folder = copy(tiny_text, tmp_path)
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match="cannot load the text encoder"):
        TextEncoder.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights"):
        describe_text(folder)


def test_store_keeps_each_text_once(encoder, tmp_path):
    store = TextStore.open(tmp_path, encoder.hash)
    assert store.missing(TEXTS) == TEXTS[:4]
    assert store.add(TEXTS, encoder) == 4
    assert store.add(TEXTS, encoder) == 0
    assert len(store) == 4
    assert np.abs(store.lookup(TEXTS) - encoder.encode(TEXTS)).max() < 1e-6
    again = TextStore.open(tmp_path, encoder.hash)
    assert np.array_equal(again.lookup(TEXTS), store.lookup(TEXTS))
    assert not again.missing(["yes"])
    assert len(again) == 4


def test_what_one_model_embedded_is_there_for_the_next(
    tiny_speech, tiny_text, tmp_path, monkeypatch
):
    first, second = (Aligner.build(tiny_speech, tiny_text) for _ in range(2))
    second.set_text_mean(np.full(second.dim, 0.1))
    stored_encoder(first, tmp_path)(TEXTS[:3])
    wanted = second.encode_text(TEXTS)
    second.text.drop()
    embedded = []
    encode = TextEncoder.encode
    monkeypatch.setattr(
        TextEncoder,
        "encode",
        lambda self, texts, *a, **k: embedded.extend(texts) or encode(self, texts, *a, **k),
    )
    assert np.abs(stored_encoder(second, tmp_path)(TEXTS) - wanted).max() < 1e-6
    assert embedded == TEXTS[3:4]


class Stops(Exception):
    pass


class Breaking:
    """An encoder that dies at its third part."""

    def __init__(self, encoder):
        self.hash, self.dim, self._encoder, self._calls = encoder.hash, encoder.dim, encoder, 0

    def encode(self, texts, progress):
        self._calls += 1
        if self._calls == 3:
            raise Stops
        return self._encoder.encode(texts, progress=progress)


def test_store_goes_on_after_an_interruption(encoder, tmp_path):
    texts = [f"text number {word}" for word in "abcdefghij"]
    with pytest.raises(Stops):
        TextStore.open(tmp_path, encoder.hash).add(texts, Breaking(encoder), part=2)
    store = TextStore.open(tmp_path, encoder.hash)
    assert store.missing(texts) == texts[4:]
    # A part whose second file is missing was not finished.
    store.folder.joinpath("00001.json").unlink()
    store = TextStore.open(tmp_path, encoder.hash)
    assert store.missing(texts) == texts[2:]
    assert store.add(texts, encoder) == 8
    assert np.abs(store.lookup(texts) - encoder.encode(texts)).max() < 1e-6


def test_two_stores_on_one_folder(encoder, tmp_path):
    first, second = (TextStore.open(tmp_path, encoder.hash) for _ in range(2))
    first.add(TEXTS[:2], encoder)
    assert second.add(TEXTS, encoder) == 2
    again = TextStore.open(tmp_path, encoder.hash)
    assert len(again) == 4 and np.array_equal(again.lookup(TEXTS), second.lookup(TEXTS))


def test_store_names_what_is_missing(encoder, tmp_path):
    store = TextStore.open(tmp_path, encoder.hash)
    store.add(TEXTS, encoder)
    with pytest.raises(UserError, match="1 texts are not embedded, e.g. 'a cap'"):
        store.lookup(["yes", "a cap"])


def test_store_belongs_to_one_encoder(encoder, tiny_text, tmp_path):
    other = TextEncoder.from_pretrained(tiny_text, pooling="cls")
    with pytest.raises(UserError, match="another text encoder"):
        TextStore.open(tmp_path, encoder.hash).add(["yes"], other)
    store = TextStore.open(tmp_path, encoder.hash)
    store.add(TEXTS, encoder)
    (store.folder / "00000.npy").write_bytes(b"broken")
    with pytest.raises(UserError, match="00000.npy: broken; delete the folder"):
        TextStore.open(tmp_path, encoder.hash)


@pytest.mark.parametrize("wrapped", [False, True])
def test_of_bart_the_encoder_embeds(wrapped, tiny_text, tmp_path):
    """BART has no class of its own for that; BART-MNLI comes as a classifier."""
    import models_tiny
    from transformers import AutoTokenizer, BartForSequenceClassification, BartModel

    folder = models_tiny.save_text("bart", tmp_path / "bart", tiny_text)
    whole = BartModel.from_pretrained(folder, dtype=torch.float32).eval()
    if wrapped:
        classifier = BartForSequenceClassification(whole.config)
        classifier.model.load_state_dict(whole.state_dict())
        classifier.save_pretrained(folder)
    found = TextEncoder.from_pretrained(folder).encode(TEXTS, batch_size=2)
    for row, text in zip(found, TEXTS, strict=True):
        tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
        tokens.pop("token_type_ids", None)
        with torch.no_grad():
            mean = whole.get_encoder()(**tokens).last_hidden_state[0].mean(0)
        assert np.abs(row - (mean / mean.norm()).numpy()).max() < 1e-5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("meta.json", "[" * 3000),
        ("meta.json", "NaN"),
        ("00000.json", '{"yes": 1}'),
        ("00000.json", "[1, 2, 3, 4]"),
        ("00000.json", '["yes", "\\ud800", "a", "b"]'),
        ("00000.json", '["only one"]'),
        ("00000.json", "9" * 5000),
    ],
)
def test_whatever_stands_in_a_store_is_one_line(encoder, tmp_path, name, text):
    store = TextStore.open(tmp_path, encoder.hash)
    store.add(TEXTS, encoder)
    (store.folder / name).write_text(text)
    with pytest.raises(UserError) as caught:
        TextStore.open(tmp_path, encoder.hash)
    assert str(store.folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_store_of_other_arrays_is_refused(encoder, tmp_path):
    store = TextStore.open(tmp_path, encoder.hash)
    store.add(TEXTS, encoder)
    for rows in (np.zeros(4, np.float32), np.zeros((4, 2)), np.zeros((3, 24), np.float32)):
        np.save(store.folder / "00000.npy", rows)
        with pytest.raises(UserError, match="delete the folder"):
            TextStore.open(tmp_path, encoder.hash)
