"""The default towers in plain torch: Whisper's encoder and BERT, as transformers to the bit.

Importing transformers' modelling code takes as long as everything else of a first answer together.
Modules, names and order are transformers', so that weights, optimiser states and hashes fit either.
Whatever is not exactly one of these two networks is left to transformers: the functions here give
None then.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from speechcwcl.errors import UserError
from speechcwcl.files import read_json, write_json
from speechcwcl.models.device import on_meta

_WEIGHTS = "model.safetensors"
# What these networks have no code for: key -> the values that ask for nothing.
_WHISPER_FIXED: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu",),
    "dropout": (0, None),
    "attention_dropout": (0, None),
    "activation_dropout": (0, None),
    "encoder_layerdrop": (0, None),
    "scale_embedding": (False, None),
}
_BERT_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "quantization_config": (None,),
}
_WHISPER_SIZES = (
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "num_mel_bins",
    "max_source_positions",
)
_BERT_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
_MOST_LAYERS = 1000


class WhisperSettings(SimpleNamespace):
    """A Whisper's config.json with the attributes that transformers' configuration has."""

    stored: dict[str, Any]

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json, as transformers' configurations do."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", self.stored)


def whisper_settings(folder: Path) -> WhisperSettings | None:
    """The settings in a folder, if `WhisperEncoder` is that network."""
    config = _plain_config(folder, "whisper", _WHISPER_SIZES, _WHISPER_FIXED)
    if config is None or config["d_model"] % config["encoder_attention_heads"]:
        return None
    return WhisperSettings(
        model_type="whisper",
        stored=config,
        hidden_size=config["d_model"],
        num_hidden_layers=config["encoder_layers"],
        num_attention_heads=config["encoder_attention_heads"],
        activation_function="gelu",
        scale_embedding=False,
        **{name: config[name] for name in _WHISPER_SIZES},
    )


def _plain_config(
    folder: Path, kind: str, sizes: tuple[str, ...], fixed: Mapping[str, tuple[Any, ...]]
) -> dict[str, Any] | None:
    try:
        config = read_json(folder / "config.json", dict)
    except UserError:
        return None
    if config.get("model_type") != kind or (folder / "adapter_config.json").exists():
        return None
    if any(config.get(key) not in values for key, values in fixed.items()):
        return None
    numbers = [config.get(name) for name in sizes]
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers):
        return None
    layers = next(config[name] for name in sizes if name.endswith("layers"))
    return config if layers <= _MOST_LAYERS else None


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.scaling = (dim // heads) ** -0.5
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        shape = (*hidden.shape[:-1], self.heads, -1)
        query = (self.q_proj(hidden) * self.scaling).view(shape).transpose(1, 2).contiguous()
        key = self.k_proj(hidden).view(shape).transpose(1, 2).contiguous()
        value = self.v_proj(hidden).view(shape).transpose(1, 2).contiguous()
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
        return self.out_proj(mixed.transpose(1, 2).reshape(hidden.shape).contiguous())


class _WhisperLayer(nn.Module):
    def __init__(self, config: WhisperSettings):
        super().__init__()
        self.self_attn = _Attention(config.d_model, config.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden), attention_mask)
        hidden = hidden + self.fc2(F.gelu(self.fc1(self.final_layer_norm(hidden))))
        if hidden.dtype == torch.float16:
            most = torch.finfo(hidden.dtype).max - 1000
            hidden = hidden.clamp(min=-most, max=most)
        return hidden


class WhisperEncoder(nn.Module):
    """Parameters of transformers' `WhisperEncoder`; the family calls its parts."""

    def __init__(self, config: WhisperSettings):
        super().__init__()
        self.config = config
        dim = config.d_model
        self.conv1 = nn.Conv1d(config.num_mel_bins, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_source_positions, dim)
        self.layers = nn.ModuleList(_WhisperLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(dim)


def load_whisper(folder: Path, config: WhisperSettings) -> WhisperEncoder | None:
    """The encoder in float32, without its decoder; None where the weights do not fit."""
    with on_meta():
        model = WhisperEncoder(config)
    return _filled(model, folder / _WEIGHTS, ("model.encoder.", "encoder.", ""))


def _filled(model: Any, path: Path, prefixes: tuple[str, ...]) -> Any:
    """`model` (on meta) with the tensors of a file as float32, or None where one does not fit."""
    wanted = model.state_dict()
    try:
        with safe_open(path, "pt") as file:
            there = set(file.keys())
            prefix = next((p for p in prefixes if all(p + name in there for name in wanted)), None)
            if prefix is None:
                return None
            state = {}
            for name, tensor in wanted.items():
                if tuple(file.get_slice(prefix + name).get_shape()) != tuple(tensor.shape):
                    return None
                state[name] = file.get_tensor(prefix + name).float()
    except (SafetensorError, OSError, ValueError):
        return None
    model.load_state_dict(state, assign=True)
    return model.eval()


class _BertSelf(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        shape = (*hidden.shape[:-1], self.heads, -1)
        query, key, value = (
            part(hidden).view(shape).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=query.shape[-1] ** -0.5
        )
        return mixed.transpose(1, 2).reshape(hidden.shape).contiguous()


class _BertOutput(nn.Module):
    def __init__(self, width: int, dim: int, eps: float):
        super().__init__()
        self.dense = nn.Linear(width, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(hidden) + residual)


class _BertLayer(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.attention = nn.ModuleDict(
            {
                "self": _BertSelf(dim, config.num_attention_heads),
                "output": _BertOutput(dim, dim, eps),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(dim, config.intermediate_size)})
        self.output = _BertOutput(config.intermediate_size, dim, eps)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        mixed = self.attention["output"](self.attention["self"](hidden, mask), hidden)
        return self.output(F.gelu(self.intermediate["dense"](mixed)), mixed)


class BertEncoder(nn.Module):
    """Frozen BERT without its pooler and its dropout."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.config = config
        dim = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocab_size, dim),
                "position_embeddings": nn.Embedding(config.max_position_embeddings, dim),
                "token_type_embeddings": nn.Embedding(config.type_vocab_size, dim),
                "LayerNorm": nn.LayerNorm(dim, eps=config.layer_norm_eps),
            }
        )
        layers = [_BertLayer(config) for _ in range(config.num_hidden_layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> SimpleNamespace:
        """`last_hidden_state` (texts, tokens, dim) of (texts, tokens) ids."""
        parts = self.embeddings
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        place = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        hidden = parts["word_embeddings"](input_ids)
        hidden = hidden + parts["token_type_embeddings"](token_type_ids)
        hidden = parts["LayerNorm"](hidden + parts["position_embeddings"](place))
        mask = None
        if (
            torch.compiler.is_exporting() or not attention_mask.all()
        ):  # without one, torch takes a kernel that rounds otherwise
            mask = attention_mask.bool()[:, None, None, :]
            mask = mask.expand(-1, -1, input_ids.shape[1], -1)
        layers: Any = self.encoder["layer"]
        for layer in layers:
            hidden = layer(hidden, mask)
        return SimpleNamespace(last_hidden_state=hidden)


def load_bert(folder: Path) -> BertEncoder | None:
    """The encoder of a folder in float32; None where it is another network."""
    config = _plain_config(folder, "bert", _BERT_SIZES, _BERT_FIXED)
    eps = config.get("layer_norm_eps") if config else None
    if config is None or not isinstance(eps, float):
        return None
    if config["hidden_size"] % config["num_attention_heads"]:
        return None
    sizes = {name: config[name] for name in _BERT_SIZES}
    with on_meta():
        model = BertEncoder(SimpleNamespace(model_type="bert", layer_norm_eps=eps, **sizes))
    return _filled(model, folder / _WEIGHTS, ("bert.", ""))
