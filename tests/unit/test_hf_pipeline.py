"""Our folders in transformers' own zero-shot-audio-classification pipeline."""

import json

import numpy as np
import pytest
import torch
import transformers
from models_tiny import clips

import speechcwcl
from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner

LABELS = ["yes", "no", "turn left", "stop now"]
WAVES = clips(0.7, 0.3, 1.1)


@pytest.fixture(scope="module", params=[False, True], ids=["light", "towers"])
def folder(request, tiny_speech, tiny_text, tmp_path_factory):
    torch.manual_seed(0)
    aligner = Aligner.build(tiny_speech, tiny_text, logit_scale=30.0)
    with torch.no_grad():
        for parameter in aligner.projection.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    aligner.set_text_mean(np.full(aligner.dim, 0.05))
    path = tmp_path_factory.mktemp("hf") / "model"
    aligner.save_pretrained(path, with_towers=request.param)
    speechcwcl.register()
    return path


def pipe(folder, **options):
    return transformers.pipeline(
        "zero-shot-audio-classification", model=str(folder), device="cpu", **options
    )


@pytest.mark.parametrize("template", ["{}", "he says {}."])
def test_the_pipeline_gives_what_classify_gives(folder, template):
    model = Aligner.from_pretrained(folder)
    found = pipe(folder)(WAVES, candidate_labels=LABELS, hypothesis_template=template)
    expected = model.classify(WAVES, candidate_labels=LABELS, hypothesis_template=template)
    for row, wanted in zip(found, expected, strict=True):
        assert [entry["label"] for entry in row] == [entry["label"] for entry in wanted]
        scores = [entry["score"] for entry in row]
        assert scores == pytest.approx([entry["score"] for entry in wanted], abs=1e-5)
    tops = {row[0]["score"] for row in found}
    assert len(tops) == len(WAVES)  # the recordings do matter


def test_registering_again_does_no_harm(folder):
    speechcwcl.register()
    config = transformers.AutoConfig.from_pretrained(folder)
    assert type(config).__name__ == "SpeechCwclConfig"
    assert config.model_type == "speechcwcl"


def test_auto_classes_and_one_forward_pass(folder):
    model = transformers.AutoModel.from_pretrained(folder)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    inputs = processor(text=LABELS, audio=WAVES, sampling_rate=16000)
    output = model(**inputs)
    assert output.logits_per_audio.shape == (3, 4)
    assert torch.equal(output.logits_per_text, output.logits_per_audio.T)
    aligner = Aligner.from_pretrained(folder)
    assert np.abs(output.audio_embeds.numpy() - aligner.encode_speech(WAVES)).max() < 1e-5
    assert np.abs(output.text_embeds.numpy() - aligner.encode_text(LABELS)).max() < 1e-5
    only = model(**processor(audio=WAVES[0], sampling_rate=16000))
    assert only.text_embeds is None and only.logits_per_audio is None


def test_batches_of_the_pipeline_change_nothing(folder):
    options = {"candidate_labels": LABELS, "hypothesis_template": "{}"}
    one = pipe(folder)
    alone = [one(wave, **options) for wave in WAVES]
    for row, wanted in zip(one(WAVES, batch_size=3, **options), alone, strict=True):
        assert [entry["label"] for entry in row] == [entry["label"] for entry in wanted]
        assert row[0]["score"] == pytest.approx(wanted[0]["score"], abs=1e-5)


def test_saved_from_the_model_again(folder, tmp_path):
    transformers.AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "again")
    again = Aligner.from_pretrained(tmp_path / "again")
    before = Aligner.from_pretrained(folder).encode_speech(WAVES)
    assert np.array_equal(again.encode_speech(WAVES), before)


def test_half_precision_is_refused(folder):
    with pytest.raises(UserError, match="float32"):
        transformers.AutoModel.from_pretrained(folder, dtype=torch.float16)


def test_the_checks_of_the_folder_hold_here_too(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "evil.py").write_text("raise SystemExit")
    with pytest.raises(UserError, match="can run code"):
        transformers.AutoModel.from_pretrained(copy)
    (copy / "evil.py").unlink()
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(UserError, match="truncated"):
        transformers.AutoModel.from_pretrained(copy)


def test_a_folder_of_earlier_days_opens_as_before(folder, tmp_path):
    """Neither model_type nor preprocessor_config.json: what 0.1.0 wrote at first."""
    import shutil

    copy = tmp_path / "old"
    shutil.copytree(folder, copy)
    (copy / "preprocessor_config.json").unlink()
    config = json.loads((copy / "config.json").read_text())
    del config["model_type"], config["files"]["preprocessor_config.json"]
    (copy / "config.json").write_text(json.dumps(config))
    old, new = Aligner.from_pretrained(copy), Aligner.from_pretrained(folder)
    assert np.array_equal(old.encode_speech(WAVES), new.encode_speech(WAVES))
