"""The package as others use it from Python: load, classify, and the check of a device."""

from pathlib import Path

import numpy as np
import pytest
import torch

import speechcwcl
from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.device import check_device

CLIP = (0.1 * np.sin(np.arange(8000) / 7)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tiny_speech, tiny_text, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("door") / "model"
    Aligner.build(tiny_speech, tiny_text).save_pretrained(path)
    return path


def test_load_and_classify(folder):
    model = speechcwcl.load(folder)
    labels = {"on": ["turn on the light", "light on"], "off": "turn it off"}
    found = speechcwcl.classify(folder, [CLIP], labels, templates=["{}", "say {}"])
    assert found == speechcwcl.classify(model, [CLIP], labels, templates=["{}", "say {}"])
    assert {row["label"] for row in found[0]} == {"on", "off"}
    assert sum(row["score"] for row in found[0]) == pytest.approx(1)
    rows = model.encode_labels(list(labels.values()), ["{}", "say {}"])
    cosines = dict(zip(labels, (model.encode_speech([CLIP]) @ rows.T)[0], strict=True))
    assert all(row["cosine"] == pytest.approx(cosines[row["label"]]) for row in found[0])


@pytest.mark.parametrize(
    "name", ["cuda:7", "mps", "vulkan", "meta", "gpu", "cpu:x", "", "cuda:-1", "lazy"]
)
def test_a_device_that_is_not_there_is_told_in_one_line(name, folder):
    with pytest.raises(UserError) as error:
        speechcwcl.load(folder, device=name)
    line = str(error.value)
    assert line.startswith(f"--device {name}: ") and line.endswith("; use --device cpu")
    assert "\n" not in line and len(line) < 300


@pytest.mark.parametrize("audio", ["a.wav", Path("a.wav"), np.zeros(16000, np.float32)])
def test_one_recording_alone_is_not_taken_apart(folder, audio):
    model = speechcwcl.load(folder)
    for ask in (model.encode_speech, lambda one: model.classify(one, ["yes", "no"])):
        with pytest.raises(UserError, match="a list of recordings is expected, not .*; put it"):
            ask(audio)


def test_devices_and_precisions(folder):
    assert check_device("cpu", "bf16") == check_device(torch.device("cpu")) == "cpu"
    assert check_device(None) == ("cuda" if torch.cuda.is_available() else "cpu")
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # or every batch of new length waits
    with pytest.raises(UserError, match="fp16 needs a GPU; on a CPU use bf16"):
        check_device("cpu", "fp16")
    with pytest.raises(UserError, match="'bf17' is none of fp32, bf16, fp16 .closest: 'bf16'"):
        check_device("cpu", "bf17")
    with pytest.raises(UserError, match="an ONNX model runs on the CPU"):
        speechcwcl.load(folder, device="cuda", onnx=True)


def test_only_what_is_public_is_promised():
    assert {"load", "classify", "train", "register"} <= set(speechcwcl.__all__)
    assert all(callable(getattr(speechcwcl, name)) for name in speechcwcl.__all__)
