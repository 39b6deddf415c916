"""OpenAI's Whisper checkpoints as ordinary transformers folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from speechcwcl.errors import UserError
from speechcwcl.files import write_json

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


def openai_whisper_folder(checkpoint: Path, folder: Path) -> None:
    """Write OpenAI's Whisper checkpoint (`*.pt`) as a transformers `WhisperModel` folder.

    The tensors keep their values and their precision; only their names change.

    Args:
        checkpoint: a file with `dims` and `model_state_dict`, opened without pickled code.
        folder: an existing folder that gets config.json, preprocessor_config.json and
            model.safetensors.
    """
    data = torch.load(checkpoint, map_location="cpu", weights_only=True)
    dims, state = data["dims"], data["model_state_dict"]
    write_whisper_folder(folder, dims, {_openai_name(k): v for k, v in state.items()})


def _openai_name(name: str) -> str:
    for pattern, replacement in _OPENAI_WHISPER:
        name = re.sub(pattern, replacement, name)
    return name


def write_whisper_folder(
    folder: Path, dims: dict[str, int], state: dict[str, torch.Tensor]
) -> None:
    """Write a `WhisperModel` folder from sizes (OpenAI's names) and renamed tensors.

    Args:
        folder: an existing folder.
        dims: `n_mels, n_vocab, n_audio_ctx, n_audio_state, n_audio_head, n_audio_layer,
            n_text_ctx, n_text_state, n_text_head, n_text_layer`.
        state: tensors under transformers' names (`encoder.*`, `decoder.*`).
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
        model = WhisperModel(WhisperConfig.from_dict(config))
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    check_names("Whisper", {name: tuple(t.shape) for name, t in state.items()}, expected)
    write_model(folder, config, state)
    features = {"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 16000}
    features |= {"feature_size": dims["n_mels"], "n_fft": 400, "hop_length": 160}
    write_json(folder / "preprocessor_config.json", features | {"chunk_length": 30})


def check_names(title: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise unless two `{tensor name: shape}` tables are equal."""
    wrong = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    if wrong:
        raise UserError(
            f"{title}: the checkpoint does not fit the architecture: tensor {wrong[0]} has shape "
            f"{found.get(wrong[0])}, expected {expected.get(wrong[0])} ({len(wrong)} differ)"
        )


def write_model(folder: Path, config: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    """Write model.safetensors and config.json."""
    # Shared storage would be refused by safetensors, hence the copies.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
