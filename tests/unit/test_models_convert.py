"""OpenAI's checkpoints, made tiny here, and the real encoders where they are cached."""

from pathlib import Path

import pytest
import torch
from models_tiny import DIMS, openai_checkpoint

from speechcwcl.errors import UserError
from speechcwcl.models.weights import sources
from speechcwcl.models.weights.catalogue import openai_whisper_folder

OPENAI = {
    "encoder.conv1.weight": "encoder.conv1.weight",
    "encoder.positional_embedding": "encoder.embed_positions.weight",
    "encoder.blocks.0.attn.query.weight": "encoder.layers.0.self_attn.q_proj.weight",
    "encoder.blocks.0.attn.key.weight": "encoder.layers.0.self_attn.k_proj.weight",
    "encoder.blocks.0.attn.value.bias": "encoder.layers.0.self_attn.v_proj.bias",
    "encoder.blocks.0.attn.out.weight": "encoder.layers.0.self_attn.out_proj.weight",
    "encoder.blocks.0.attn_ln.weight": "encoder.layers.0.self_attn_layer_norm.weight",
    "encoder.blocks.0.mlp.0.weight": "encoder.layers.0.fc1.weight",
    "encoder.blocks.0.mlp.2.bias": "encoder.layers.0.fc2.bias",
    "encoder.blocks.0.mlp_ln.bias": "encoder.layers.0.final_layer_norm.bias",
    "encoder.ln_post.weight": "encoder.layer_norm.weight",
    "decoder.token_embedding.weight": "decoder.embed_tokens.weight",
    "decoder.blocks.0.cross_attn.query.bias": "decoder.layers.0.encoder_attn.q_proj.bias",
    "decoder.blocks.0.cross_attn.out.bias": "decoder.layers.0.encoder_attn.out_proj.bias",
    "decoder.blocks.0.cross_attn_ln.weight": "decoder.layers.0.encoder_attn_layer_norm.weight",
    "decoder.ln.weight": "decoder.layer_norm.weight",
    "decoder.positional_embedding": "decoder.embed_positions.weight",
}


def test_openai_whisper(tmp_path):
    from transformers import WhisperModel

    model, state = openai_checkpoint(tmp_path / "tiny.pt")
    for theirs, ours in OPENAI.items():
        assert torch.equal(state[theirs], model.state_dict()[ours])
    (tmp_path / "out").mkdir()
    openai_whisper_folder(tmp_path / "tiny.pt", tmp_path / "out")
    again = WhisperModel.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    mel = torch.randn(1, 80, 100)
    ids = torch.tensor([[1, 5, 7]])
    with torch.no_grad():
        a, b = (m(mel, decoder_input_ids=ids).last_hidden_state for m in (model, again))
    assert torch.allclose(a, b, atol=1e-6)


def test_openai_whisper_that_does_not_fit(tmp_path):
    _, state = openai_checkpoint(tmp_path / "x.pt")
    del state["encoder.conv1.bias"]
    torch.save({"dims": DIMS, "model_state_dict": state}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="encoder.conv1.bias"):
        openai_whisper_folder(tmp_path / "x.pt", tmp_path)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("should-not-exist"),))


def test_pickled_code_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"dims": Evil(), "model_state_dict": {}}, tmp_path / "x.pt")
    with pytest.raises(Exception, match="(?i)weights.only"):
        openai_whisper_folder(tmp_path / "x.pt", tmp_path)
    assert not Path("should-not-exist").exists()


def cached(name):
    try:
        return sources.resolve(name, offline=True)
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["whisper-tiny.en", "whisper-base", "moonshine-tiny"])
def test_real_speech_encoders(name, real_data):
    """Each spoken digit is nearest to the mean of the other speakers' same digit, mostly."""
    from speechcwcl.data.audio import load_audio
    from speechcwcl.models.audio_input import load_one
    from speechcwcl.models.encoders.frames import pad
    from speechcwcl.models.encoders.speech import SpeechEncoder

    cached(name)
    encoder = SpeechEncoder.from_pretrained(name, layers=[3]).eval()
    names = ("george", "jackson", "theo")
    paths = [
        real_data / "fsdd" / f"{d}_{n}_{k}.wav" for n in names for d in range(10) for k in (0, 1)
    ]
    clips = [load_audio(path) for path in paths]
    with torch.no_grad():
        frames, lengths = encoder(*pad([load_one(clip, 0, 16000) for clip in clips]))
    vectors = torch.stack([f[:n].mean(0) for f, n in zip(frames, lengths, strict=True)])
    vectors = vectors.view(3, 10, 2, -1) - vectors.mean(0)
    right = 0
    for speaker in range(3):
        others = [s for s in range(3) if s != speaker]
        means = torch.nn.functional.normalize(vectors[others].mean((0, 2)), dim=-1)
        found = (vectors[speaker] @ means.T).argmax(-1)
        right += int((found == torch.arange(10)[:, None]).sum())
    assert right > 30  # of 60; chance is 6
