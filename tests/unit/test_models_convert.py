"""Other people's checkpoint formats, made tiny here, and the real ones where they are cached."""

import struct
from pathlib import Path

import pytest
import torch
from models_tiny import build

from speechcwcl.errors import UserError
from speechcwcl.models.weights import sources
from speechcwcl.models.weights.convert import (
    ctranslate2_whisper_folder,
    onnx_moonshine_folder,
    openai_whisper_folder,
)
from speechcwcl.models.weights.foreign import read_ctranslate2, read_onnx

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
TO_OPENAI = (
    (".layers.", ".blocks."),
    ("self_attn_layer_norm", "attn_ln"),
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("final_layer_norm", "mlp_ln"),
    ("self_attn.", "attn."),
    ("encoder_attn.", "cross_attn."),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    (".fc1.", ".mlp.0."),
    (".fc2.", ".mlp.2."),
    ("embed_positions.weight", "positional_embedding"),
    ("embed_tokens", "token_embedding"),
    ("encoder.layer_norm", "encoder.ln_post"),
    ("decoder.layer_norm", "decoder.ln"),
)
DIMS = {
    "n_mels": 80,
    "n_vocab": 32,
    "n_audio_ctx": 50,
    "n_audio_state": 32,
    "n_audio_head": 4,
    "n_audio_layer": 3,
    "n_text_ctx": 448,
    "n_text_state": 32,
    "n_text_head": 4,
    "n_text_layer": 1,
}


def openai_checkpoint(path):
    """A tiny Whisper under OpenAI's names."""
    from transformers import WhisperConfig, WhisperModel

    torch.manual_seed(0)
    config = build("whisper").config.to_dict() | {"encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    model = WhisperModel(WhisperConfig(**config)).eval()
    state = {}
    for name, tensor in model.state_dict().items():
        for theirs, ours in TO_OPENAI:
            name = name.replace(theirs, ours)
        state[name] = tensor
    torch.save({"dims": DIMS, "model_state_dict": state}, path)
    return model, state


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


CT2_LAYER = {
    "self_attention/layer_norm/gamma": "self_attn_layer_norm.weight",
    "self_attention/layer_norm/beta": "self_attn_layer_norm.bias",
    "self_attention/linear_1/weight": "self_attn.out_proj.weight",
    "self_attention/linear_1/bias": "self_attn.out_proj.bias",
    "ffn/layer_norm/gamma": "final_layer_norm.weight",
    "ffn/layer_norm/beta": "final_layer_norm.bias",
    "ffn/linear_0/weight": "fc1.weight",
    "ffn/linear_0/bias": "fc1.bias",
    "ffn/linear_1/weight": "fc2.weight",
    "ffn/linear_1/bias": "fc2.bias",
}
CT2_CROSS = {
    "attention/layer_norm/gamma": "encoder_attn_layer_norm.weight",
    "attention/layer_norm/beta": "encoder_attn_layer_norm.bias",
    "attention/linear_0/weight": "encoder_attn.q_proj.weight",
    "attention/linear_0/bias": "encoder_attn.q_proj.bias",
    "attention/linear_2/weight": "encoder_attn.out_proj.weight",
    "attention/linear_2/bias": "encoder_attn.out_proj.bias",
}
CT2_TOP = {
    "encoder/conv1/weight": "encoder.conv1.weight",
    "encoder/conv1/bias": "encoder.conv1.bias",
    "encoder/conv2/weight": "encoder.conv2.weight",
    "encoder/conv2/bias": "encoder.conv2.bias",
    "encoder/position_encodings/encodings": "encoder.embed_positions.weight",
    "encoder/layer_norm/gamma": "encoder.layer_norm.weight",
    "encoder/layer_norm/beta": "encoder.layer_norm.bias",
    "decoder/embeddings/weight": "decoder.embed_tokens.weight",
    "decoder/position_encodings/encodings": "decoder.embed_positions.weight",
    "decoder/layer_norm/gamma": "decoder.layer_norm.weight",
    "decoder/layer_norm/beta": "decoder.layer_norm.bias",
}


def ctranslate2_variables(state, key_bias=0.0):
    """A tiny Whisper's tensors as CTranslate2 names and joins them."""
    variables = {name: state[ours] for name, ours in CT2_TOP.items()}
    layers = [("encoder", i) for i in range(3)] + [("decoder", 0)]
    for side, index in layers:
        stem, ours = f"{side}/layer_{index}", f"{side}.layers.{index}"
        names = CT2_LAYER | (CT2_CROSS if side == "decoder" else {})
        variables |= {f"{stem}/{a}": state[f"{ours}.{b}"] for a, b in names.items()}
        joined = [("self_attention/linear_0", "self_attn", "qkv")]
        joined += [("attention/linear_1", "encoder_attn", "kv")] if side == "decoder" else []
        for theirs, attention, letters in joined:
            parts = [state[f"{ours}.{attention}.{c}_proj.weight"] for c in letters]
            variables[f"{stem}/{theirs}/weight"] = torch.cat(parts)
            key = torch.full((32,), key_bias)
            biases = [
                key if c == "k" else state[f"{ours}.{attention}.{c}_proj.bias"] for c in letters
            ]
            variables[f"{stem}/{theirs}/bias"] = torch.cat(biases)
    heads = torch.tensor(4, dtype=torch.int16)
    return variables | {"encoder/num_heads": heads, "decoder/num_heads": heads}


def write_ctranslate2(path, variables):
    def text(value):
        data = value.encode() + b"\0"
        return struct.pack("<H", len(data)) + data

    out = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, tensor in variables.items():
        data = tensor.numpy().tobytes()
        kind = {torch.float32: 0, torch.int16: 2}[tensor.dtype]
        out += text(name) + struct.pack(f"<B{tensor.dim()}I", tensor.dim(), *tensor.shape)
        out += struct.pack("<BI", kind, len(data)) + data
    path.write_bytes(out + struct.pack("<I", 0))


def test_ctranslate2_whisper(tmp_path):
    from transformers import WhisperModel

    model, _ = openai_checkpoint(tmp_path / "unused.pt")
    write_ctranslate2(tmp_path / "model.bin", ctranslate2_variables(model.state_dict()))
    (tmp_path / "out").mkdir()
    ctranslate2_whisper_folder(tmp_path / "model.bin", tmp_path / "out")
    again = WhisperModel.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert again.config.encoder_attention_heads == 4
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_ctranslate2_whisper_with_a_key_bias_is_no_whisper(tmp_path):
    model, _ = openai_checkpoint(tmp_path / "unused.pt")
    variables = ctranslate2_variables(model.state_dict(), key_bias=0.1)
    write_ctranslate2(tmp_path / "model.bin", variables)
    with pytest.raises(UserError, match="key bias"):
        ctranslate2_whisper_folder(tmp_path / "model.bin", tmp_path)


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def message(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def onnx_file(encoder):
    """An encoder as PyTorch's exporter writes it: products transposed, nameless, used by a step."""
    graph, count = b"", 0
    for name, tensor in encoder.state_dict().items():
        module, _, kind = name.rpartition(".")
        step = module.replace("self_attn.o_proj", "self_attn.dense")
        anonymous = (
            ("groupnorm" in name, {"weight": "Mul", "bias": "Add"}[kind], tensor[:, None]),
            (
                "layers." in name and tensor.dim() == 2,
                "MatMul",
                tensor.transpose(0, -1).contiguous(),
            ),
        )
        for applies, operation, exported in anonymous:
            if applies:
                count += 1
                name, tensor = f"onnx::{operation}_{count}", exported
                node = message(1, b"x") + message(1, name.encode())
                node += message(3, f"/{step.replace('.', '/')}/{operation}".encode())
                graph += message(1, node.replace(b"layers/", b"layers."))
        shape = b"".join(varint(1 << 3) + varint(size) for size in tensor.shape)
        body = shape + varint(2 << 3) + varint(1) + message(8, name.encode())
        graph += message(5, body + message(9, tensor.numpy().tobytes()))
    return varint(1 << 3) + varint(8) + message(7, graph)


def test_onnx_moonshine(tmp_path):
    from speechcwcl.models.encoders.speech import SpeechEncoder

    encoder = onnx_encoder()
    (tmp_path / "encoder.onnx").write_bytes(onnx_file(encoder))
    (tmp_path / "out").mkdir()
    onnx_moonshine_folder(tmp_path / "encoder.onnx", tmp_path / "out")
    again = SpeechEncoder.from_pretrained(tmp_path / "out").model
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def onnx_encoder():
    from transformers import MoonshineConfig
    from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder

    torch.manual_seed(0)
    config = MoonshineConfig(
        hidden_size=64, intermediate_size=48, encoder_num_hidden_layers=2, vocab_size=32
    )
    encoder = MoonshineEncoder(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def test_onnx_moonshine_that_does_not_fit(tmp_path):
    encoder = onnx_encoder()
    del encoder.layers[1].mlp.fc1
    (tmp_path / "encoder.onnx").write_bytes(onnx_file(encoder))
    with pytest.raises(UserError, match="tensor layers.1.mlp.fc1"):
        onnx_moonshine_folder(tmp_path / "encoder.onnx", tmp_path)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("should-not-exist"),))


def test_pickled_code_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"dims": Evil(), "model_state_dict": {}}, tmp_path / "x.pt")
    with pytest.raises(Exception, match="(?i)weights.only"):
        openai_whisper_folder(tmp_path / "x.pt", tmp_path)
    assert not Path("should-not-exist").exists()


@pytest.mark.parametrize("data", [b"", b"\6\0\0\0", b"\5\0\0\0abc", b"\x3a\xff\xff\xff\x7f"])
def test_foreign_formats_that_are_broken(data, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UserError, match="not a CTranslate2 model"):
        read_ctranslate2(path)
    with pytest.raises(UserError, match="not an ONNX model"):
        read_onnx(path)


def cached(name):
    if not sources.is_cached(name):
        pytest.skip(f"{name} is not in the cache; `speechcwcl fetch {name}` puts it there")
    return sources.resolve(name)


@pytest.mark.parametrize("name", ["whisper-tiny.en", "whisper-base", "moonshine-tiny"])
def test_real_speech_encoders(name, real_data):
    """Each spoken digit is nearest to the mean of the other speakers' same digit, mostly."""
    from speechcwcl.data.audio import load_audio
    from speechcwcl.models.audio_input import load_batch
    from speechcwcl.models.encoders.speech import SpeechEncoder

    cached(name)
    encoder = SpeechEncoder.from_pretrained(name, layers=[3]).eval()
    names = ("george", "jackson", "theo")
    paths = [
        real_data / "fsdd" / f"{d}_{n}_{k}.wav" for n in names for d in range(10) for k in (0, 1)
    ]
    clips = [load_audio(path) for path in paths]
    with torch.no_grad():
        frames, lengths = encoder(*load_batch(list(enumerate(clips)), 16000))
    vectors = torch.stack([f[:n].mean(0) for f, n in zip(frames, lengths, strict=True)])
    vectors = vectors.view(3, 10, 2, -1) - vectors.mean(0)
    right = 0
    for speaker in range(3):
        others = [s for s in range(3) if s != speaker]
        means = torch.nn.functional.normalize(vectors[others].mean((0, 2)), dim=-1)
        found = (vectors[speaker] @ means.T).argmax(-1)
        right += int((found == torch.arange(10)[:, None]).sum())
    assert right > 30  # of 60; chance is 6
