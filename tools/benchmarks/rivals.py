"""What users would take instead: Whisper, then a text encoder; or a CLAP.

`Cascade` transcribes with Whisper tiny.en as transformers does it (the clip inside 30 s of
silence, greedy decoding) and takes the label whose text lies nearest to the transcript's in
all-MiniLM-L6-v2. `build_clap` gives the zero-shot-audio-classification pipeline around a CLAP of
random weights, whose cost is that of a trained one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechcwcl.files import read_json
from speechcwcl.models.encoders.families import quiet
from speechcwcl.models.text_side import TextEncoder
from speechcwcl.models.weights.sources import resolve

WHISPER, TOKENIZER, TEXT = "whisper-tiny.en", "whisper-tiny.en-tokenizer", "all-MiniLM-L6-v2"
# No label has more words; it only cuts short what has run away, in the cascade's favour.
MOST_TOKENS = 64
SETTINGS = f"greedy, one beam, no timestamps, no fallback, at most {MOST_TOKENS} tokens, 30 s input"
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Cascade:
    """Whisper tiny.en, then all-MiniLM-L6-v2.

    Args:
        whisper: folder or name of a Whisper with its decoder.
        tokenizer: folder or name of its tokenizer.json, with a config.json that lists the tokens
            never to say (`suppress_ids`, `suppress_ids_begin`).
        text: text encoder.
    """

    def __init__(
        self,
        whisper: str | Path = WHISPER,
        tokenizer: str | Path = TOKENIZER,
        text: str | Path = TEXT,
    ):
        from transformers import (
            GenerationConfig,
            PreTrainedTokenizerFast,
            WhisperFeatureExtractor,
            WhisperForConditionalGeneration,
        )
        from transformers.utils import logging

        logging.set_verbosity_error()  # generate() warns at every call
        folder, words = resolve(whisper), resolve(tokenizer)
        with quiet():
            self.model = WhisperForConditionalGeneration.from_pretrained(
                folder, dtype=torch.float32
            ).eval()
        self.features = WhisperFeatureExtractor.from_pretrained(folder)
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(words / "tokenizer.json"))
        never, config = read_json(words / "config.json"), self.model.config
        self.model.generation_config = GenerationConfig(
            decoder_start_token_id=config.decoder_start_token_id,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
            no_timestamps_token_id=self.tokenizer.convert_tokens_to_ids("<|notimestamps|>"),
            is_multilingual=False,
            return_timestamps=False,
            suppress_tokens=never["suppress_ids"],
            begin_suppress_tokens=never["suppress_ids_begin"],
            max_new_tokens=MOST_TOKENS,
        )
        self.text_encoder = TextEncoder.from_pretrained(text)

    @torch.no_grad()
    def transcribe(self, wav: np.ndarray) -> str:
        """The words of (samples,) float32 at 16 kHz."""
        features = self.features(wav, sampling_rate=16000, return_tensors="pt").input_features
        tokens = self.model.generate(features)
        return self.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()

    def encode_text(self, texts: list[str]) -> np.ndarray:
        """(texts, dim) unit norm."""
        return self.text_encoder.encode([text.strip() or "." for text in texts])

    def classify(self, wav: np.ndarray, labels: np.ndarray) -> int:
        """The number of the nearest label; `labels` (labels, dim) are embedded beforehand."""
        return int(np.argmax(labels @ self.encode_text([self.transcribe(wav)])[0]))


def spell(transcript: str) -> str:
    """A transcript nearer to how labels are written: no punctuation, single digits in words."""
    plain = re.sub(r"[^\w' ]+", " ", transcript.lower())
    words = (_NUMBERS[int(w)] if re.fullmatch("[0-9]", w) else w for w in plain.split())
    return " ".join(words)


def build_clap(layers: int = 6, tokenizer: str | Path = TEXT, tiny: bool = False) -> Any:
    """A zero-shot-audio-classification pipeline with a CLAP of random weights.

    The audio tower is the Swin transformer of LAION's CLAP (HTSAT-tiny: 27.5 M parameters) with
    half its width; the text tower has all-MiniLM-L6-v2's shape.

    Args:
        layers: of the text tower.
        tokenizer: folder or name of the tokenizer.
        tiny: towers that only show that it runs.
    """
    from transformers import (
        AutoTokenizer,
        ClapAudioConfig,
        ClapConfig,
        ClapFeatureExtractor,
        ClapModel,
        ClapTextConfig,
        ZeroShotAudioClassificationPipeline,
    )

    words = AutoTokenizer.from_pretrained(resolve(tokenizer))
    words.model_input_names = ["input_ids", "attention_mask"]  # CLAP's RoBERTa knows no others
    width = 16 if tiny else 48
    audio = ClapAudioConfig(
        patch_embeds_hidden_size=width,
        hidden_size=8 * width,
        depths=[1, 1, 1, 1] if tiny else [2, 2, 6, 2],
        num_attention_heads=[1, 2, 2, 4] if tiny else [2, 4, 8, 16],
    )
    text = ClapTextConfig(
        vocab_size=len(words), hidden_size=384, num_hidden_layers=layers, intermediate_size=1536,
        num_attention_heads=12, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    config = ClapConfig(
        text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=384
    )
    torch.manual_seed(0)
    return ZeroShotAudioClassificationPipeline(
        model=ClapModel(config).eval(),
        # As laion/clap-htsat-unfused has it: 48 kHz, 10 s, shorter clips repeated.
        feature_extractor=ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad"),
        tokenizer=words,
    )
