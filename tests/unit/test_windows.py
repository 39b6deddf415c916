"""Long recordings are looked at in windows over their frames."""

import json

import numpy as np
import pytest
import torch
from models_tiny import clips, pad, save

from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner

WAVES = clips(0.7, 0.05, 1.3, 0.4, 0.0002)


@pytest.fixture
def aligner(tmp_path, tiny_text):
    torch.manual_seed(0)
    speech = save("whisper", tmp_path / "speech")
    return Aligner.build(speech, tiny_text, projection={"hidden": [16]}, frame_stride=2).eval()


WINDOWS = {"seconds": [0.2, 0.4], "longer_than": 0.6}


def test_long_recordings_are_embedded_in_windows_short_ones_as_they_are(aligner):
    whole = aligner.encode_speech(WAVES)
    assert [len(p) for p in aligner.encode_parts(WAVES)] == [1] * len(WAVES)
    aligner.windows = WINDOWS
    parts = aligner.encode_parts(WAVES)
    for row, part, wave in zip(whole, parts, WAVES, strict=True):
        if len(wave) <= 0.6 * 16000:
            assert np.abs(part - row).max() < 1e-5
        else:
            assert len(part) > 2 and np.allclose(np.linalg.norm(part, axis=1), 1, atol=1e-6)
    # a window as long as the recording is the recording
    aligner.windows = {"seconds": [60.0], "longer_than": 0.6}
    (only,) = aligner.encode_parts([WAVES[0]])
    assert np.abs(only - whole[0]).max() < 1e-5


def test_windows_cover_the_recording_to_its_end(aligner):
    aligner.windows = {"seconds": [0.2], "longer_than": 0.1}
    wav, lengths = pad([WAVES[2]])
    frames, count = aligner.speech_encoder(wav, lengths)
    size = round(0.2 * aligner.speech_encoder.frame_rate)
    last = aligner.head(frames[:, int(count[0]) - size :], torch.tensor([size]))
    assert np.abs(aligner.encode_parts([WAVES[2]])[0][-1] - last.detach().numpy()).max() < 1e-5


def test_the_best_window_answers_unless_there_is_a_threshold(aligner):
    labels = ["yes", "no", "stop"]
    rows = aligner.encode_labels(labels)
    whole = {r["label"]: r["cosine"] for r in aligner.classify([WAVES[2]], labels)[0]}
    aligner.windows = WINDOWS
    best = (aligner.encode_parts([WAVES[2]])[0] @ rows.T).max(axis=0)
    found = {r["label"]: r["cosine"] for r in aligner.classify([WAVES[2]], labels)[0]}
    assert found == pytest.approx(dict(zip(labels, best.tolist(), strict=True)), abs=1e-5)
    kept = aligner.classify([WAVES[2]], labels, threshold=-1.0)[0]
    assert {r["label"]: r["cosine"] for r in kept if r["label"] in whole} == pytest.approx(whole)


def test_windows_are_saved_and_bad_ones_refused(aligner, tmp_path):
    aligner.windows = WINDOWS
    aligner.save_pretrained(tmp_path / "model")
    opened = Aligner.from_pretrained(tmp_path / "model")
    assert opened.windows == WINDOWS
    config = json.loads((tmp_path / "model/config.json").read_text())
    for bad in ([], {"seconds": []}, {"seconds": [0], "longer_than": 1}, {"seconds": 1}):
        (tmp_path / "model/config.json").write_text(json.dumps(config | {"windows": bad}))
        with pytest.raises(UserError, match="windows"):
            Aligner.from_pretrained(tmp_path / "model")
