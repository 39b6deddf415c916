"""The towers in plain torch against transformers, bit by bit; and what a first answer imports."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from speechcwcl.corpora.base import write_spoken
from speechcwcl.errors import UserError
from speechcwcl.models import text_side, towers
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.encoders.families import whisper
from speechcwcl.models.encoders.speech import SpeechEncoder
from speechcwcl.models.text_side import TextEncoder

TEXTS = [
    "turn on the light",
    "Café NAÏVE 日本 🙂",
    "a [MASK] b [SEP] c",
    "don't; 5.00\t\n ok",
    "on " * 90,
]


def test_whisper_frames_hash_and_names_are_transformers(tiny_speech, monkeypatch):
    plain = SpeechEncoder.from_pretrained(tiny_speech)
    assert isinstance(plain.model, towers.WhisperEncoder)
    monkeypatch.setattr(towers, "whisper_settings", lambda folder: None)
    theirs = SpeechEncoder.from_pretrained(tiny_speech)
    assert not isinstance(theirs.model, towers.WhisperEncoder)
    wav = torch.randn(2, 20000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([20000, 7001])
    for ours, other in zip(plain(wav, lengths), theirs(wav, lengths), strict=True):
        assert torch.equal(ours, other)
    assert plain.hash == theirs.hash
    assert list(plain.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("mels", [80, 128])
def test_mel_filters_are_transformers(mels):
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(201, mels, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    assert np.array_equal(whisper._mel_filters(mels), theirs)


def test_bert_ids_and_embeddings_are_transformers(bert, monkeypatch):
    plain = TextEncoder.from_pretrained(bert)
    assert isinstance(plain.model, towers.BertEncoder)
    monkeypatch.setattr(text_side, "open_wordpiece", lambda folder: None)
    theirs = TextEncoder.from_pretrained(bert)
    assert not isinstance(theirs.model, towers.BertEncoder)
    ids = theirs.tokenizer(TEXTS, padding=True, truncation=True, max_length=64)
    assert plain.tokenizer.encode(TEXTS, 64)["input_ids"].tolist() == ids["input_ids"]
    assert np.array_equal(plain.encode(TEXTS), theirs.encode(TEXTS))
    for text in TEXTS:  # alone, where nothing is padded and no mask is given
        assert np.array_equal(plain.encode([text]), theirs.encode([text]))


def test_another_network_is_left_to_transformers(bert, tiny_speech, tmp_path):
    for source, key, opened in (
        (bert, "hidden_act", towers.load_bert),
        (tiny_speech, "activation_function", towers.whisper_settings),
    ):
        folder = tmp_path / key
        folder.mkdir()
        for path in source.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        assert opened(folder) is not None
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, key: "relu"}))
        assert opened(folder) is None
        (folder / "config.json").write_text(json.dumps(config))
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-8])
        load = TextEncoder if key == "hidden_act" else SpeechEncoder
        with pytest.raises(UserError, match="cannot load"):
            load.from_pretrained(folder)


def test_a_first_answer_imports_nothing_heavy_but_torch(bert, tiny_speech, tmp_path):
    Aligner.build(str(tiny_speech), str(bert)).save_pretrained(tmp_path / "model")
    write_spoken(tmp_path / "a.wav", "go", seconds=0.5)
    code = (
        "import sys; from speechcwcl.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'transformers', 'torchaudio', 'speechbrain', 'datasets', 'sklearn', 'scipy',"
        " 'torch._dynamo', 'torch.distributed.tensor', 'sympy', 'pydantic', 'matplotlib'};"
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    words = ["classify", "--model", str(tmp_path / "model"), "--labels", "on;light"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, str(tmp_path / "a.wav")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []"
