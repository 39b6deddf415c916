"""Every training YAML of the recipes resolves strictly."""

from pathlib import Path

import pytest

from speechcwcl.losses import build_loss
from speechcwcl.training.config import load_config

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("recipes/cwcl/hparams/*.yaml")) + sorted(
    ROOT.glob("egs/*/cwcl1/conf/*.yaml")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_resolves_and_its_loss_builds(path):
    config = load_config(path)
    assert build_loss(config.loss, **config.loss_options)


def test_the_encoders_of_the_paper_are_there():
    speech = {load_config(path).speech_encoder for path in FILES}
    text = {load_config(path).text_encoder for path in FILES}
    assert any("hubert-base" in name for name in speech)
    assert any("wavlm-base-plus" in name for name in speech)
    assert sum("wav2vec2" in name for name in speech) >= 2
    assert sum("whisper" in name for name in speech) >= 3
    assert any("roberta" in name for name in text) and any("bart" in name for name in text)
