"""What users would take instead: the cascade of `speechcwcl.models.peers`, or a CLAP.

`build_clap` gives the zero-shot-audio-classification pipeline around a CLAP of random weights,
whose cost is that of a trained one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from speechcwcl.models.peers import MOST_TOKENS, Cascade, spell
from speechcwcl.models.weights.sources import resolve

__all__ = ["SETTINGS", "Cascade", "build_clap", "spell"]
TEXT = "all-MiniLM-L6-v2"
SETTINGS = f"greedy, one beam, no timestamps, no fallback, at most {MOST_TOKENS} tokens, 30 s input"


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
