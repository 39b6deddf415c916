"""Trained models that come with the package: folders as `Aligner.save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path

DEFAULT_MODEL = "en-tiny"  # the one that is used when none is named


def boxed_models() -> dict[str, Path]:
    """Name -> folder of every model in the package."""
    here = Path(__file__).resolve().parent
    return {path.parent.name: path.parent for path in sorted(here.glob("*/config.json"))}
