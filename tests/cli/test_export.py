"""`speechcwcl export`: from a model folder to a folder that classifies without torch's encoder."""

import shutil

import numpy as np
import pytest
from models_tiny import check_parity, clips, model_for_export

from speechcwcl.cli.main import main
from speechcwcl.models.aligner import Aligner

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from speechcwcl.export import onnx, onnx_model
from speechcwcl.export.onnx_model import FORMAT, VERSION, OnnxAligner
from speechcwcl.models.folders import write_config


@pytest.fixture(scope="module")
def saved(tiny_text, tmp_path_factory):
    """A HuBERT with the group norm that sees a whole clip; wav2vec2 is the same family."""
    folder = tmp_path_factory.mktemp("saved")
    model = model_for_export("hubert-group", folder / "speech", tiny_text, silence=[0.1, 0.05])
    model.save_pretrained(folder / "model")
    return folder / "model"


def test_export_check_and_use(saved, tmp_path, capsys, monkeypatch):
    """In int8, which goes through the exact graphs: these are looked at too."""
    out, exact, quantise = tmp_path / "onnx", tmp_path / "exact", onnx._quantise

    def keep(graph, target, external):
        exact.mkdir(exist_ok=True)
        shutil.copy(graph, exact)
        quantise(graph, target, external)

    monkeypatch.setattr(onnx, "_quantise", keep)
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
    assert exported.config["info"] == {"exported_from": "model", "model": model.identity}
    found = onnx.largest_difference(model, exported)
    assert found["cosine"] > 0.98
    assert found["alone"] > 1e-4  # else nothing was quantised
    wave = np.sin(np.arange(8000) / 9).astype(np.float32)
    labels = [row["label"] for row in exported.classify([wave], ["yes", "no"])[0]]
    assert sorted(labels) == ["no", "yes"]

    head = ("format", "version", "speechcwcl", "files")
    config = {k: v for k, v in exported.config.items() if k not in head}
    write_config(exact, {**config, "precision": "float32"}, FORMAT, VERSION)
    plain = OnnxAligner.from_pretrained(exact, threads=1)
    check_parity(model, plain, clips(0.7, 0.05, 1.3, 0.0002))


def test_a_check_that_fails_says_so(saved, tmp_path, capsys, monkeypatch):
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
