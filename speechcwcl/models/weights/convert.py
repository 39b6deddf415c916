"""Turning other people's checkpoint formats into ordinary transformers folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from speechcwcl.errors import UserError
from speechcwcl.files import write_json
from speechcwcl.models.weights.foreign import read_ctranslate2, read_onnx

# OpenAI's names -> transformers' names, applied in this order.
_OPENAI_WHISPER = (
    (r"\bblocks\b", "layers"),
    (r"\bmlp\.0\b", "fc1"),
    (r"\bmlp\.2\b", "fc2"),
    (r"\bmlp_ln\b", "final_layer_norm"),
    (r"\bcross_attn_ln\b", "encoder_attn_layer_norm"),
    (r"\bcross_attn\b", "encoder_attn"),
    (r"\battn_ln\b", "self_attn_layer_norm"),
    (r"\battn\b", "self_attn"),
    (r"\bquery\b", "q_proj"),
    (r"\bkey\b", "k_proj"),
    (r"\bvalue\b", "v_proj"),
    (r"\battn\.out\b", "attn.out_proj"),
    (r"_attn\.out\b", "_attn.out_proj"),
    (r"\bpositional_embedding\b", "embed_positions.weight"),
    (r"\btoken_embedding\b", "embed_tokens"),
    (r"\bln_post\b", "layer_norm"),
    (r"^decoder\.ln\b", "decoder.layer_norm"),
)
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


def openai_whisper_folder(checkpoint: Path, folder: Path) -> None:
    """Write OpenAI's Whisper checkpoint (``*.pt``) as a transformers ``WhisperModel`` folder.

    The tensors keep their values and their precision; only their names change.

    Args:
        checkpoint: a file with ``dims`` and ``model_state_dict``, opened without pickled code.
        folder: an existing folder that gets config.json, preprocessor_config.json and
            model.safetensors.
    """
    data = torch.load(checkpoint, map_location="cpu", weights_only=True)
    dims, state = data["dims"], data["model_state_dict"]
    write_whisper_folder(folder, dims, {_openai_name(k): v for k, v in state.items()})


def ctranslate2_whisper_folder(model: Path, folder: Path) -> None:
    """Write a CTranslate2 Whisper (``model.bin``) as a transformers ``WhisperModel`` folder.

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
        model: ``encoder_model.onnx`` in float32.
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
    expected = {name: tuple(t.shape) for name, t in encoder.state_dict().items()}
    check_names("Moonshine", {name: tuple(t.shape) for name, t in state.items()}, expected)
    _write(folder, config, {f"encoder.{name}": tensor for name, tensor in state.items()})
    features = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000}
    write_json(folder / "preprocessor_config.json", features | {"do_normalize": False})


def _openai_name(name: str) -> str:
    for pattern, replacement in _OPENAI_WHISPER:
        name = re.sub(pattern, replacement, name)
    return name


def write_whisper_folder(
    folder: Path, dims: dict[str, int], state: dict[str, torch.Tensor]
) -> None:
    """Write a ``WhisperModel`` folder from sizes (OpenAI's names) and renamed tensors.

    Args:
        folder: an existing folder.
        dims: ``n_mels, n_vocab, n_audio_ctx, n_audio_state, n_audio_head, n_audio_layer,
            n_text_ctx, n_text_state, n_text_head, n_text_layer``.
        state: tensors under transformers' names (``encoder.*``, ``decoder.*``).
    """
    from transformers import WhisperConfig, WhisperModel

    # <|endoftext|>, and <|startoftranscript|> after it: one place later in the multilingual models.
    end = 50256 if dims["n_vocab"] <= 51864 else 50257
    end = min(end, dims["n_vocab"] - 2)
    # Written out by hand: the same bytes whatever version of transformers converts.
    config = {
        "model_type": "whisper",
        "architectures": ["WhisperModel"],
        "vocab_size": dims["n_vocab"],
        "num_mel_bins": dims["n_mels"],
        "d_model": dims["n_audio_state"],
        "max_source_positions": dims["n_audio_ctx"],
        "encoder_layers": dims["n_audio_layer"],
        "encoder_attention_heads": dims["n_audio_head"],
        "encoder_ffn_dim": 4 * dims["n_audio_state"],
        "decoder_layers": dims["n_text_layer"],
        "decoder_attention_heads": dims["n_text_head"],
        "decoder_ffn_dim": 4 * dims["n_text_state"],
        "max_target_positions": dims["n_text_ctx"],
        "activation_function": "gelu",
        "pad_token_id": end,
        "bos_token_id": end,
        "eos_token_id": end,
        "decoder_start_token_id": end + 1,
    }
    with torch.device("meta"):
        model = WhisperModel(WhisperConfig(**config))
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    check_names("Whisper", {name: tuple(t.shape) for name, t in state.items()}, expected)
    _write(folder, config, state)
    features = {"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 16000}
    features |= {"feature_size": dims["n_mels"], "n_fft": 400, "hop_length": 160}
    write_json(folder / "preprocessor_config.json", features | {"chunk_length": 30})


def check_names(title: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise unless two ``{tensor name: shape}`` tables are equal."""
    wrong = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    if wrong:
        raise UserError(
            f"{title}: the checkpoint does not fit the architecture: tensor {wrong[0]} has shape "
            f"{found.get(wrong[0])}, expected {expected.get(wrong[0])} ({len(wrong)} differ)"
        )


def _write(folder: Path, config: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    # Shared storage would be refused by safetensors, hence the copies.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
