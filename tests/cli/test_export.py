"""`speechcwcl export`: from a model folder to a folder that classifies without torch's encoder."""

import numpy as np
import pytest
import torch

from speechcwcl.cli.main import main
from speechcwcl.models.aligner import Aligner

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def saved(tiny_speech, tiny_text, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved") / "model"
    Aligner.build(tiny_speech, tiny_text).save_pretrained(folder)
    return folder


def test_export_check_and_use(saved, tmp_path, capsys):
    """In int8, which goes through the exact graph; that one has tests of its own (test_onnx.py)."""
    from speechcwcl.export.onnx import largest_difference
    from speechcwcl.export.onnx_model import OnnxAligner

    out = tmp_path / "onnx"
    assert main(["export", "--model", str(saved), "--out", str(out), "--int8", "--check"]) == 0
    told = capsys.readouterr().out
    assert "exported:" in told and "int8" in told
    assert "checked: largest difference alone" in told
    names = sorted(path.name for path in out.iterdir())
    assert names == ["config.json", "model.onnx", "windows.onnx"]
    graph = (out / "model.onnx").read_bytes()
    assert b"MatMulInteger" in graph and b"ConvInteger" not in graph
    model, exported = Aligner.from_pretrained(saved), OnnxAligner.from_pretrained(out)
    assert exported.config["precision"] == "int8"
    identity = Aligner.from_pretrained(saved).identity
    assert exported.config["info"] == {"exported_from": "model", "model": identity}
    found = largest_difference(model, exported)
    assert found["cosine"] > 0.98
    assert found["alone"] > 1e-4  # else nothing was quantised
    wave = np.sin(np.arange(8000) / 9).astype(np.float32)
    labels = [row["label"] for row in exported.classify([wave], ["yes", "no"])[0]]
    assert sorted(labels) == ["no", "yes"]


def test_a_check_that_fails_says_so(saved, tmp_path, capsys, monkeypatch):
    from speechcwcl.export import onnx, onnx_model

    def made(*_, **__):
        (tmp_path / "o").mkdir(exist_ok=True)

    monkeypatch.setattr(onnx, "export", made)
    monkeypatch.setattr(onnx_model.OnnxAligner, "from_pretrained", lambda *_: None)
    far = {"alone": 2e-4, "padded": 0.0, "reversed": 0.0, "cosine": 1.0}
    monkeypatch.setattr(onnx, "largest_difference", lambda *_: far)
    words = ["export", "--model", str(saved), "--out", str(tmp_path / "o"), "--check"]
    assert main(words) == 2
    assert "does not give the model's embeddings" in capsys.readouterr().err
    assert main([*words, "--int8"]) == 0


def test_what_is_there_already_is_not_overwritten(saved, tmp_path, capsys):
    assert main(["export", "--model", str(saved), "--out", str(saved)]) == 2
    assert "is in the way (it holds " in capsys.readouterr().err
    assert (saved / "model.safetensors").exists()


def test_no_model(tmp_path, capsys):
    assert main(["export", "--model", str(tmp_path / "x"), "--out", str(tmp_path / "o")]) == 2
    assert "no such folder" in capsys.readouterr().err
