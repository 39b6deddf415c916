"""Two more formats as transformers folders: Whisper from CTranslate2, Moonshine from ONNX."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from speechcwcl.errors import UserError
from speechcwcl.files import write_json
from speechcwcl.models.folders import check_shapes
from speechcwcl.models.weights.catalogue import write_model, write_whisper_folder
from weights.readers import read_ctranslate2, read_onnx

# CTranslate2's names -> transformers' names; q, k, v stay joined until _ctranslate2_tensor.
_CTRANSLATE2_WHISPER = (
    (r"/gamma$", "/weight"),
    (r"/beta$", "/bias"),
    (r"layer_(\d+)", r"layers/\1"),
    (r"position_encodings/encodings$", "embed_positions/weight"),
    (r"embeddings/weight$", "embed_tokens/weight"),
    (r"self_attention/layer_norm", "self_attn_layer_norm"),
    (r"self_attention/linear_0", "self_attn/qkv"),
    (r"self_attention/linear_1", "self_attn/out_proj"),
    (r"attention/layer_norm", "encoder_attn_layer_norm"),
    (r"attention/linear_0", "encoder_attn/q_proj"),
    (r"attention/linear_1", "encoder_attn/kv"),
    (r"attention/linear_2", "encoder_attn/out_proj"),
    (r"ffn/layer_norm", "final_layer_norm"),
    (r"ffn/linear_0", "fc1"),
    (r"ffn/linear_1", "fc2"),
    (r"/", "."),
)


def ctranslate2_whisper_folder(model: Path, folder: Path) -> None:
    """Write a CTranslate2 Whisper (`model.bin`) as a transformers `WhisperModel` folder.

    Args:
        model: CTranslate2's binary file.
        folder: an existing folder.
    """
    tensors = read_ctranslate2(model)
    state = {}
    for name, tensor in tensors.items():
        if tensor.dim() and "alignment" not in name:
            state |= _ctranslate2_tensor(name, tensor)
    sizes = {
        "n_mels": state["encoder.conv1.weight"].shape[1],
        "n_vocab": state["decoder.embed_tokens.weight"].shape[0],
    }
    for side, letter in (("encoder", "audio"), ("decoder", "text")):
        context, width = state[f"{side}.embed_positions.weight"].shape
        sizes[f"n_{letter}_ctx"], sizes[f"n_{letter}_state"] = context, width
        sizes[f"n_{letter}_head"] = int(tensors[f"{side}/num_heads"])
        layers = {name.split(".")[2] for name in state if name.startswith(f"{side}.layers.")}
        sizes[f"n_{letter}_layer"] = len(layers)
    write_whisper_folder(folder, sizes, state)


def _ctranslate2_tensor(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Transformers' names of one CTranslate2 tensor; joined projections are taken apart."""
    for pattern, replacement in _CTRANSLATE2_WHISPER:
        name = re.sub(pattern, replacement, name)
    match = re.match(r"(.*)\.(qkv|kv)\.(weight|bias)$", name)
    if not match:
        return {name: tensor}
    stem, joined, kind = match.groups()
    split = {}
    for letter, part in zip(joined, tensor.chunk(len(joined)), strict=True):
        if kind == "bias" and letter == "k":  # Whisper has none; CTranslate2 writes zeros
            if part.any():
                raise UserError(f"Whisper: {name} has a key bias, which Whisper does not know")
            continue
        split[f"{stem}.{letter}_proj.{kind}"] = part
    return split


def onnx_moonshine_folder(model: Path, folder: Path) -> None:
    """Write Moonshine's exported encoder (ONNX) as a transformers folder of the encoder alone.

    Args:
        model: `encoder_model.onnx` in float32.
        folder: an existing folder.
    """
    from transformers import MoonshineConfig
    from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder

    tensors, steps = read_onnx(model)
    state = {n: t for n, t in tensors.items() if re.match(r"(conv\d|layers\.\d+|layer_norm)\.", n)}
    for step, inputs in steps:
        given = [tensors[name] for name in inputs if name.startswith("onnx::") and name in tensors]
        where = step.strip("/").split("/")
        if len(given) != 1 or where[-1] not in ("MatMul", "Mul", "Add"):
            continue
        name = ".".join(where[:-1]).replace("self_attn.dense", "self_attn.o_proj")
        kind = "bias" if where[-1] == "Add" else "weight"
        # An exported matrix product multiplies from the other side.
        state[f"{name}.{kind}"] = given[0].T if where[-1] == "MatMul" else given[0].flatten()
    width = state["layer_norm.weight"].shape[0]
    config = {
        "model_type": "moonshine",
        "architectures": ["MoonshineModel"],
        "hidden_size": width,
        "intermediate_size": state["layers.0.mlp.fc1.weight"].shape[0],
        "encoder_num_hidden_layers": len({n.split(".")[1] for n in state if "layers." in n}),
        "encoder_num_attention_heads": 8,
        "encoder_hidden_act": "gelu",
        "partial_rotary_factor": 0.9,
        "rope_theta": 10000.0,
    }
    with torch.device("meta"):
        encoder = MoonshineEncoder(MoonshineConfig(**config))
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    check_shapes("Moonshine", shapes, encoder.state_dict())
    write_model(folder, config, {f"encoder.{name}": tensor for name, tensor in state.items()})
    features = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000}
    write_json(folder / "preprocessor_config.json", features | {"do_normalize": False})
