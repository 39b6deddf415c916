#!/usr/bin/env python3
"""Two Whisper encoders side by side, as one speech encoder whose frames hold those of both.

`ablate.py` knows the family that this file adds; a variant names the folder that it writes. A model
that was trained on it opens only after `import both`, so not in the commands of the package.

Example:
    recipes/cwcl/ablation/both.py exp/both whisper-tiny.en whisper-base
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, WhisperConfig

from speechcwcl.errors import UserError, first_line, require
from speechcwcl.files import read_json, replace_folder
from speechcwcl.models.encoders.families import FAMILIES, Family, network_hash, open_family
from speechcwcl.models.encoders.families.whisper import Whisper
from speechcwcl.models.towers import WhisperEncoder
from speechcwcl.models.weights.sources import resolve

NAME = "speechcwcl-both"
FILES = ("config.json", "model.safetensors")


class BothConfig(PretrainedConfig):
    """`parts`: the config.json of each encoder."""

    model_type = NAME

    def __init__(self, parts: tuple[dict[str, Any], ...] = (), **more: Any) -> None:
        super().__init__(**more)
        self.parts = list(parts)
        self.hidden_size = sum(part["d_model"] for part in self.parts)


class Both(Family):
    """Several Whispers: a layer is all layers of that number, each on its own share of a frame."""

    min_samples, hop, silence = Whisper.min_samples, Whisper.hop, Whisper.silence

    def __init__(self, model: Any, feature_config: dict[str, Any]) -> None:
        super().__init__(model, feature_config)
        self.parts = [Whisper(encoder, {}) for encoder in model]
        self.window_frames = self.parts[0].window_frames
        deepest = max(len(part.layers) for part in self.parts)
        self.layers = nn.ModuleList(
            nn.ModuleList(part.layers[i] for part in self.parts if i < len(part.layers))
            for i in range(deepest)
        )
        self.final_modules = [module for part in self.parts for module in part.final_modules]

    @classmethod
    def build(cls, config: Any) -> nn.Module:
        """The encoders with random weights."""
        encoders: Any = nn.ModuleList(WhisperEncoder(WhisperConfig(**p)) for p in config.parts)
        encoders.config = config
        return encoders

    @classmethod
    def load(cls, folder: Path, config: Any) -> nn.Module:
        """The encoders in `folder`."""
        encoders = cls.build(config)
        try:
            encoders.load_state_dict(load_file(folder / FILES[1]))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{folder}: cannot load the weights: {first_line(error)}") from error
        return encoders

    def shares(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """(batch, frames, dim) of each encoder, out of one after the other."""
        return hidden.split([part.dim for part in self.parts], dim=-1)

    def front(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The frames of all, side by side."""
        found = [part.front(wav, lengths) for part in self.parts]
        return torch.cat([hidden for hidden, _ in found], dim=-1), found[0][1]

    def layer(self, index: int, hidden: Tensor, context: Any) -> Tensor:
        """Apply layer `index` of those that have one; the others' frames stay."""
        pairs = zip(self.parts, self.shares(hidden), strict=True)
        return torch.cat(
            [
                part.layer(index, share, context) if index < len(part.layers) else share
                for part, share in pairs
            ],
            dim=-1,
        )

    def final(self, hidden: Tensor) -> Tensor:
        """Apply each encoder's own final norm."""
        pairs = zip(self.parts, self.shares(hidden), strict=True)
        return torch.cat([part.final(share) for part, share in pairs], dim=-1)


AutoConfig.register(NAME, BothConfig)
FAMILIES[NAME] = Both


def main() -> int:
    """Write a folder with the weights of several Whispers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="is written")
    parser.add_argument("whisper", nargs="+", help="names or folders of encoders")
    args = parser.parse_args()
    try:
        places = [resolve(name) for name in args.whisper]
        found = [(open_family(p, n), p) for p, n in zip(places, args.whisper, strict=True)]
        others = [str(place) for family, place in found if type(family) is not Whisper]
        require(not others, f"{', '.join(others)}: not Whisper")
        # the hash of a network knows no order of its parts, so there is only one: by size
        found.sort(key=lambda pair: (pair[0].dim, network_hash(pair[0])))
        parts = tuple(read_json(place / "config.json") for _, place in found)
        encoders = nn.ModuleList(family.model for family, _ in found)
        with replace_folder(args.folder, lambda _: FILES) as folder:
            BothConfig(parts=parts).save_pretrained(folder)
            save_file(encoders.state_dict(), folder / FILES[1])
    except UserError as error:
        print(f"both: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
