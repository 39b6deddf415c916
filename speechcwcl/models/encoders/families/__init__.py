"""Families of speech encoders: a transformers model cut into front end, layers, final norm."""

from __future__ import annotations

import hashlib
import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechcwcl.errors import UserError, first_line
from speechcwcl.files import read_json, sha256_json
from speechcwcl.models import towers
from speechcwcl.models.encoders.frames import attention_mask, masked_moments

SAMPLE_RATE = 16000
# model_type of a config.json -> module.class, imported only when needed; a script adds a class
FAMILIES: dict[str, str | type[Family]] = {
    "wav2vec2": "wav2vec2.Wav2Vec2",
    "hubert": "wav2vec2.Wav2Vec2",
    "wavlm": "wav2vec2.WavLM",
    "data2vec-audio": "wav2vec2.Data2VecAudio",
    "wav2vec2-bert": "wav2vec2_bert.Wav2Vec2Bert",
    "whisper": "whisper.Whisper",
    "moonshine": "moonshine.Moonshine",
}
# Checkpoints of speech translation have an adapter that shortens the frames for a decoder we lack.
_ADAPTERS = ("add_adapter", "use_intermediate_ffn_before_adapter")
# The settings that change a network's output without changing the shape of a tensor.
_SHAPING = (
    "model_type",
    "num_attention_heads",
    "encoder_attention_heads",
    "encoder_num_attention_heads",
    "hidden_act",
    "activation_function",
    "encoder_hidden_act",
    "layer_norm_eps",
    "do_stable_layer_norm",
    "feat_extract_norm",
    "feat_extract_activation",
    "conv_stride",
    "position_embeddings_type",
    "scale_embedding",
)


class Family(ABC):
    """A transformers speech encoder cut into front end, layers and final norm.

    A family computes nothing of its own where transformers' modules can be called; it only puts
    masks where padding would otherwise leak, so that an utterance's frames do not depend on what
    else is in the batch.

    Args:
        model: the transformers encoder (owns all parameters).
        feature_config: the feature extractor's configuration (may be empty).
    """

    # module and class of the encoder alone, below `transformers.models`, where the checkpoint holds
    # a decoder too; it is never read into memory
    encoder: ClassVar[str] = ""
    # whether waveforms get zero mean and unit variance unless the checkpoint says otherwise
    normalises: ClassVar[bool | None] = None  # None: never
    min_samples: int = 400  # shorter waveforms are zero-padded to so many, whatever the batch
    window_frames: int | None = None  # attention never looks across so many; None: no limit
    # seconds of digital silence before and after a clip unless told otherwise; its frames are taken
    # out again after the top layer
    silence: tuple[float, float] = (0.0, 0.0)
    layers: nn.ModuleList  # the transformer layers, lowest first
    final_modules: list[nn.Module]  # applied after the top one; none where layers normalise
    hop: int  # samples from one frame to the next

    def __init__(self, model: Any, feature_config: dict[str, Any]):
        self.model = model  # transformers' modules have no types of their own
        self.config = model.config
        self.feature_config = feature_config
        self.dim: int = self.config.hidden_size  # of Whisper's, another name for d_model

    @classmethod
    def build(cls, config: Any) -> nn.Module:
        """An encoder with random weights from a transformers configuration."""
        if cls.encoder:
            config._attn_implementation = _attention(config)
            return cls._class()(config)
        return cls._class().from_config(
            _without_adapter(config), attn_implementation=_attention(config)
        )

    @classmethod
    def load(cls, folder: Path, config: Any) -> nn.Module:
        """The pretrained encoder in `folder` as float32; heads and decoders are left out."""
        mapping = {r"^(model\.)?encoder\.": ""} if cls.encoder else None
        return load_pretrained(cls._class(), folder, _without_adapter(config), mapping)

    @classmethod
    def _class(cls) -> Any:
        if not cls.encoder:
            from transformers import AutoModel

            return AutoModel
        return _imported(f"transformers.models.{cls.encoder}")

    @abstractmethod
    def front(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Everything below the lowest layer, positions included.

        Args:
            wav: (batch, samples) at 16 kHz, zero beyond `lengths`, at least `min_samples`.
            lengths: (batch,) in samples, at least `min_samples`.

        Returns:
            (batch, frames, dim), zero beyond the frame lengths, and (batch,) frame lengths.
        """

    def normalise(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """Waveform normalisation over the true length, before any padding to `min_samples`."""
        wanted = self.feature_config.get("do_normalize", self.normalises)
        if self.normalises is None or not wanted:
            return wav
        mean, variance = masked_moments(wav[:, None], lengths, over_channels=False)
        return (wav - mean[:, 0]) * torch.rsqrt(variance[:, 0] + 1e-7)

    def context(self, hidden: Tensor, frame_lengths: Tensor) -> Any:
        """Whatever the layers share: attention mask, positions. Must not depend on a layer's
        output, only on its shape and the lengths."""
        return attention_mask(hidden, frame_lengths)

    def layer(self, index: int, hidden: Tensor, context: Any) -> Tensor:
        """Apply layer `index`."""
        return self.layers[index](hidden, attention_mask=context)

    def final(self, hidden: Tensor) -> Tensor:
        """Apply what follows the top layer."""
        for module in self.final_modules:
            hidden = module(hidden)
        return hidden


def open_family(
    folder: Path,
    where: str,
    *,
    weights: bool = True,
    check: Callable[[nn.Module], None] | None = None,
) -> Family:
    """The speech encoder in a transformers folder; never runs code of the folder.

    Args:
        folder: holds config.json, and the weights if they are wanted.
        where: what the user called it, for messages.
        weights: read them; otherwise they are random.
        check: of the network, before anything is computed from its configuration.

    Raises:
        UserError: not a speech encoder that we know, or broken.
    """
    config: Any = towers.whisper_settings(folder)
    stored = config.stored if config else read_json(folder / "config.json", dict)
    kind = family_class(str(stored.get("model_type")), where)
    if config is None:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:
            why = first_line(error)
            raise UserError(f"{folder}: cannot read config.json: {why}") from error
    model = kind.load(folder, config) if weights else kind.build(config)
    if check is not None:
        check(model)
    return kind(model, _features(folder))


def family_class(model_type: str, where: str) -> type[Family]:
    """The family that reads a `model_type` of transformers."""
    if model_type not in FAMILIES:
        raise UserError(
            f"{where}: model type {model_type!r} is not a speech encoder that speechcwcl knows "
            f"({', '.join(FAMILIES)})"
        )
    found = FAMILIES[model_type]
    return _imported(f"{__name__}.{found}") if isinstance(found, str) else found


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _features(folder: Path) -> dict[str, Any]:
    """The feature extractor's settings in a model folder, or an empty dictionary."""
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "feature")):
        if (folder / name).is_file():
            data = read_json(folder / name)
            return data if key is None else data.get("feature_extractor", {})
    return {}


def _without_adapter(config: Any) -> Any:
    for name in _ADAPTERS:
        if getattr(config, name, False):
            setattr(config, name, False)
    return config


def _attention(config: Any) -> str:
    # WavLM computes its own attention; everything else here knows torch's fused one.
    return "eager" if config.model_type == "wavlm" else "sdpa"


def load_pretrained(cls: Any, folder: Path, config: Any, key_mapping: dict | None = None) -> Any:
    """`cls.from_pretrained` in float32 that never runs a repository's code or invents weights.

    Raises:
        UserError: unreadable weights, or tensors of the encoder that the checkpoint lacks.
    """
    options: dict[str, Any] = {"key_mapping": key_mapping} if key_mapping else {}
    try:
        with quiet():
            model, info = cls.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                attn_implementation=_attention(config),
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        why = first_line(error)
        raise UserError(f"{folder}: cannot load the weights: {why}") from error
    # Used only by self-supervised training, and some checkpoints leave it out.
    missing = sorted(k for k in info["missing_keys"] if not k.endswith("masked_spec_embed"))
    if missing or info["mismatched_keys"]:
        name = (missing or [str(info["mismatched_keys"])])[0]
        raise UserError(
            f"{folder}: the weights do not fit config.json: {name} is missing or of another shape "
            f"({len(missing) + len(info['mismatched_keys'])} in all)"
        )
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' notes about the parts of a checkpoint that are not wanted."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.CRITICAL)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def network_hash(family: Family) -> str:
    """Hash of the network: what its configuration does to it, and its tensors without their names.

    Releases of transformers rename tensors and add settings with defaults; neither changes the
    network, and a model trained today should still find its encoder tomorrow.
    """
    config = {name: getattr(family.config, name, None) for name in _SHAPING}
    digests = sorted(map(tensor_hash, family.model.state_dict().values()))
    return sha256_json([config, digests])


def tensor_hash(tensor: Tensor) -> str:
    """Hex sha256 of a tensor's shape and values."""
    digest = hashlib.sha256(repr(tuple(tensor.shape)).encode())
    digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
