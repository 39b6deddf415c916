#!/usr/bin/env python3
"""CWCL on images: a small vision transformer learns the space of a frozen text encoder.

  python examples/images.py --work work --epochs 30

The losses know no modality. The images are the handwritten digits of scikit-learn, 8 x 8 pixels,
1,797 of them: small, so this shows how it is done and says nothing about vision. They are written
as an imagefolder with captions, as `datasets` reads it; put your own pictures and captions there.
Labels are worded otherwise than captions; the ten digits themselves have all been seen.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from speechcwcl.losses import build_loss
from speechcwcl.models.text_side import TextEncoder

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = ("the digit {}", "someone wrote a {}", "a {} in a small picture")
LABEL = "number {}"


def write_images(folder: Path, most: int | None = None) -> None:
    """The digits as `train` and `test` imagefolders; every fourth is for the test."""
    digits = load_digits()
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        lines = []
        for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            if (most and number >= most) or (number % 4 == 0) != (split == "test"):
                continue
            name = f"{number:04d}.png"
            Image.fromarray((pixels * 15.9).astype(np.uint8)).save(folder / split / name)
            text = CAPTIONS[number % len(CAPTIONS)].format(NAMES[digit])
            lines.append(json.dumps({"file_name": name, "text": text, "digit": int(digit)}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def pixels_of(rows: dict) -> Tensor:
    """(images, 1, 8, 8) from 0 to 1."""
    arrays = [np.asarray(image.convert("L"), dtype=np.float32) / 255 for image in rows["image"]]
    return torch.from_numpy(np.stack(arrays))[:, None]


class ImageSide(nn.Module):
    """A vision transformer and a projection into the text space."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        shape = {"image_size": 8, "patch_size": 2, "num_channels": 1}
        width = {"hidden_size": 64, "intermediate_size": 128}
        depth = {"num_hidden_layers": 3, "num_attention_heads": 4}
        self.encoder = ViTModel(ViTConfig(**shape, **width, **depth), add_pooling_layer=False)
        self.projection = nn.Linear(64, dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """(images, 1, 8, 8) -> (images, dim) unit-norm."""
        frames = self.encoder(pixels).last_hidden_state.mean(dim=1)
        return nn.functional.normalize(self.projection(frames), dim=-1)


def train(
    folder: Path, text_encoder: str, loss: str, epochs: int, batch: int = 128, label: str = LABEL
) -> float:
    """Train, then give the share of test images that their label's text is nearest to."""
    torch.manual_seed(0)
    sets = load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(folder / "cache"))
    images, rows = pixels_of(sets["train"][:]), sets["train"]["text"]
    text = TextEncoder.from_pretrained(text_encoder)
    known = sorted(set(rows))
    ids = torch.tensor([known.index(caption) for caption in rows])
    raw = torch.from_numpy(np.asarray(text.encode(known)))
    mean = raw.mean(dim=0)  # what all captions share says nothing
    captions = nn.functional.normalize(raw - mean, dim=-1)
    model, objective = ImageSide(captions.shape[1]), build_loss(loss)
    optimizer = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=2e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(batch):
            total = objective(model(images[part]), captions[ids[part]], text_ids=ids[part]).total
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    labels = torch.from_numpy(np.asarray(text.encode([label.format(name) for name in NAMES])))
    classes = nn.functional.normalize(labels - mean, dim=-1).numpy()
    with torch.no_grad():
        found = model.eval()(pixels_of(sets["test"][:])).numpy() @ classes.T
    return float(np.mean(found.argmax(axis=1) == np.array(sets["test"]["digit"])))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--losses", nargs="+", default=["cwcl_matched", "clip"])
    options = parser.parse_args()
    write_images(options.work / "digits")
    for loss in options.losses:
        share = train(options.work / "digits", "all-MiniLM-L6-v2", loss, options.epochs)
        print(f"{loss}: {100 * share:.1f} % of the test images")


if __name__ == "__main__":
    main()
