"""Our model folders in transformers' own pipeline, with no code from the folder.

Example:

    import speechcwcl, transformers

    speechcwcl.register()
    pipe = transformers.pipeline("zero-shot-audio-classification", model="exp/cwcl/model")
    pipe(wav, candidate_labels=["yes", "no"], hypothesis_template="{}")

`wav` is (samples,) float32 at 16 kHz; for paths the pipeline itself asks for the `ffmpeg`
program. Its own default template is `"This is a sound of {}."`: say `"{}"` for the label as it
is. Ranking and scores are those of `speechcwcl.zeroshot.classifier.classify`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.utils import ModelOutput

from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.audio_input import load_one
from speechcwcl.models.encoders.frames import pad
from speechcwcl.models.folders import MODEL_TYPE, TextInfo, read_config
from speechcwcl.models.weights.sources import locate, resolve


class SpeechCwclConfig(PreTrainedConfig):
    """`config.json` of a saved aligner, as transformers sees it."""

    model_type = MODEL_TYPE


@dataclass
class SpeechCwclOutput(ModelOutput):
    """What the model gives."""

    logits_per_audio: Tensor | None = None  # (clips, texts) cosine times logit scale
    logits_per_text: Tensor | None = None  # its transpose
    audio_embeds: Tensor | None = None  # (clips, dim), (texts, dim) unit norm
    text_embeds: Tensor | None = None  # (clips, dim), (texts, dim) unit norm


class SpeechCwclFeatureExtractor(SequenceFeatureExtractor):
    """Pads waveforms; what the speech encoder wants of them, the model does itself."""

    model_input_names = ["input_values", "lengths"]

    def __init__(self, feature_size: int = 1, sampling_rate: int = 16000, **kwargs: Any):
        kwargs.setdefault("padding_value", 0.0)
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, **kwargs)

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        return_tensors: str | None = "pt",
        **_: Any,
    ) -> BatchFeature:
        """`input_values` (clips, samples) and `lengths` (clips,) of one or more clips."""
        one = isinstance(raw_speech, np.ndarray | Tensor) and raw_speech.ndim == 1
        clips = [raw_speech] if one else list(raw_speech)
        items = [c if isinstance(c, np.ndarray | Tensor) else np.asarray(c, "f4") for c in clips]
        rate = sampling_rate or self.sampling_rate
        wav, lengths = pad([load_one(clip, n, rate) for n, clip in enumerate(items)])
        return BatchFeature({"input_values": wav, "lengths": lengths}, tensor_type=return_tensors)


class LabelTokenizer:
    """The tokenizer of the aligner's text encoder, cutting and lower-casing as that does.

    Everything but the call is the tokenizer's own.
    """

    def __init__(self, tokenizer: Any, info: TextInfo):
        self.tokenizer = tokenizer
        self.info = info

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, **_: Any) -> LabelTokenizer:
        """Load it from where the aligner in `folder` has its text encoder."""
        path = locate(folder)
        config = read_config(path)
        info = TextInfo(**config["text"])
        source = path / "text" if config["towers"] else resolve(info.source)
        return cls(AutoTokenizer.from_pretrained(source, trust_remote_code=False), info)

    def __call__(self, texts: str | list[str], **options: Any) -> Any:
        """Token ids and attention mask; see the tokenizer."""
        if self.info.lower:
            texts = texts.lower() if isinstance(texts, str) else [text.lower() for text in texts]
        limits = {"truncation": True, "max_length": self.info.max_tokens}
        return self.tokenizer(texts, **{**limits, **options})

    def __getattr__(self, name: str) -> Any:
        if name in ("tokenizer", "info"):  # not set yet, as when it is copied
            raise AttributeError(name)
        return getattr(self.tokenizer, name)


class SpeechCwclProcessor(ProcessorMixin):
    """Feature extractor and tokenizer in one."""

    def __init__(self, feature_extractor: Any = None, tokenizer: Any = None):
        self.feature_extractor = feature_extractor
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(  # type: ignore[override]  # transformers' names many more options
        cls, folder: str | os.PathLike, **_: Any
    ) -> SpeechCwclProcessor:
        """Load both for the aligner in `folder`."""
        extractor = SpeechCwclFeatureExtractor()
        return cls(extractor, LabelTokenizer.from_pretrained(folder))

    def __call__(self, text: Any = None, audio: Any = None, **options: Any) -> BatchFeature:
        """The model's inputs for texts, audio, or both."""
        inputs: dict[str, Any] = {}
        if text is not None:
            inputs.update(self.tokenizer(text, return_tensors="pt", padding=True))
        if audio is not None:
            inputs.update(self.feature_extractor(audio, **options))
        return BatchFeature(inputs)


class SpeechCwclModel(PreTrainedModel):
    """An aligner with its text encoder, behind transformers' interface."""

    config_class = SpeechCwclConfig
    main_input_name = "input_values"
    input_modalities = ["audio", "text"]

    def __init__(self, config: SpeechCwclConfig, aligner: Aligner | None = None):
        super().__init__(config)
        if aligner is None:
            raise UserError("SpeechCwclModel: use from_pretrained; to train, see speechcwcl train")
        self.aligner = aligner
        self.text_tower = aligner.text_encoder  # so that .to(device) takes it along

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, folder: str | os.PathLike, *_: Any, config: Any = None, **options: Any
    ) -> SpeechCwclModel:
        """Open the folder with `Aligner.from_pretrained` and all of its checks.

        Raises:
            UserError: as there, or a precision other than float32 is asked for.
        """
        dtype = options.get("dtype", options.get("torch_dtype"))
        if dtype not in (None, "auto", "float32", torch.float32):
            raise UserError(f"dtype {dtype}: speechcwcl models compute in float32")
        path = locate(folder)
        config = config or SpeechCwclConfig(**read_config(path))
        return cls(config, Aligner.from_pretrained(path)).eval()

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike, **_: Any
    ) -> None:
        """Write an ordinary folder of an aligner, with the towers if it came with them."""
        towers = bool(getattr(self.config, "towers", False))
        self.aligner.save_pretrained(os.fspath(save_directory), with_towers=towers)

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_values: Tensor | None = None,
        lengths: Tensor | None = None,
        **text_inputs: Any,
    ) -> SpeechCwclOutput:
        """Embed clips and texts, whichever are given, and compare them.

        Args:
            input_ids: (texts, tokens).
            attention_mask: (texts, tokens).
            input_values: (clips, samples) at 16 kHz.
            lengths: (clips,) in samples; whole rows when left out.
            **text_inputs: what else the tokenizer gives.
        """
        audio = text = logits = None
        if input_values is not None:
            if lengths is None:
                lengths = torch.full((len(input_values),), input_values.shape[1])
            audio = self.aligner.embed_speech(input_values, lengths)
        if input_ids is not None:
            tokens = {"input_ids": input_ids, "attention_mask": attention_mask, **text_inputs}
            text = self.aligner.transform_text(self.text_tower.embed_tokens(tokens))
        if audio is not None and text is not None:
            logits = audio @ text.T * self.aligner.logit_scale
        return SpeechCwclOutput(
            logits_per_audio=logits,
            logits_per_text=None if logits is None else logits.T,
            audio_embeds=audio,
            text_embeds=text,
        )


def register() -> None:
    """Make transformers' Auto classes and pipelines know our folders; may be called again."""
    AutoConfig.register(MODEL_TYPE, SpeechCwclConfig, exist_ok=True)
    AutoModel.register(SpeechCwclConfig, SpeechCwclModel, exist_ok=True)
    AutoFeatureExtractor.register(SpeechCwclConfig, SpeechCwclFeatureExtractor, exist_ok=True)
    AutoTokenizer.register(SpeechCwclConfig, tokenizer_class=LabelTokenizer, exist_ok=True)
    AutoProcessor.register(SpeechCwclConfig, SpeechCwclProcessor, exist_ok=True)
