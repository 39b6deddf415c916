"""Every program of examples/ on tiny data."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from stream_sets import WORDS, make_set

import speechcwcl
from speechcwcl.losses import TERMS
from speechcwcl.models.aligner import Aligner

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted((ROOT / "examples").glob("*.py"))


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    make_set(root)
    return root


@pytest.fixture
def tiny(tiny_speech, tiny_text):
    return {
        "speech_encoder": str(tiny_speech), "text_encoder": str(tiny_text), "batch_size": 8,
        "threads": 1, "projection": {"hidden": [16]},
    }  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_speech, tiny_text):
    torch.manual_seed(0)
    return Aligner.build(tiny_speech, tiny_text)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_examples_are_short_and_listed(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 120
    assert f"[{path.name}]({path.name})" in (ROOT / "examples/README.md").read_text("utf-8")


def test_train(sets, tiny, tmp_path):
    table = sets / "folder/train.csv"
    lines = [f"c{number:02d}.flac,{word}" for number, word in enumerate(WORDS)]
    table.write_text("\n".join(["audio,text", *lines]) + "\n", encoding="utf-8")
    answers = example("train").train(table, tmp_path, ["on", "off"], epochs=1, **tiny)
    assert [{row["label"] for row in answer} for answer in answers] == [{"on", "off"}] * 3
    assert (tmp_path / "exp/model/model.safetensors").exists()


def test_own_loss(sets, tiny, tmp_path):
    before = dict(TERMS)
    try:
        module = example("own_loss")
        rows, ids = torch.eye(3), torch.tensor([0, 1, 1])
        assert module.hardest(rows, rows, margin=1.5).item() == pytest.approx(0.5)
        crossed = rows[[0, 2, 1]]  # the texts of the second and third clip are exchanged, but equal
        assert module.hardest(rows, crossed, ids, margin=0.5).item() == pytest.approx(1 / 3)
        TERMS.clear()
        TERMS.update(before)
        metrics = module.train(sets / "dump/train/manifest.jsonl", tmp_path, epochs=2, **tiny)
    finally:
        TERMS.clear()
        TERMS.update(before)
    for epoch in metrics:
        found = epoch["train"]
        assert found["loss"] == pytest.approx(found["cwcl"] + 5 * found["hardest"], rel=1e-4)


def test_few_shot(sets, model, tmp_path, monkeypatch):
    for number, path in enumerate(sorted((sets / "folder").glob("*.flac"))):
        target = tmp_path / ("switch_on" if number % 2 else "switch_off") / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    module = example("few_shot")
    monkeypatch.setattr(speechcwcl, "load", lambda name: model)
    found = module.compare(tmp_path, draws=2)
    assert set(found) >= {"zero-shot", "1 examples, centroid", "4 examples, text+shots"}
    assert all(0 <= value <= 100 for value in found.values())


def test_stream(sets, tiny, tmp_path):
    shards = [str(path) for path in sorted((sets / "shards").rglob("*.tar"))]
    metrics = example("stream").train(shards, tmp_path, 2, epochs=2, **tiny)
    assert [epoch["step"] for epoch in metrics] == [2, 4]
    written = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert not written & {".flac", ".wav", ".tar"}
    assert json.loads((tmp_path / "data/train/stream.json").read_text())["shards"] == shards


def test_service(sets, model):
    pytest.importorskip("fastapi", reason="needs the extra [service]")
    testing = pytest.importorskip("fastapi.testclient", reason="needs httpx")
    module = example("service")
    client = testing.TestClient(module.create_app(model, most_bytes=50_000, most_seconds=1))
    clip = (sets / "folder/c00.flac").read_bytes()
    asked = {"params": {"label": ["on", "off"]}}
    answer = client.post("/classify", content=clip, **asked)
    assert answer.status_code == 200
    assert sum(row["score"] for row in answer.json()) == pytest.approx(1)
    assert {row["label"] for row in answer.json()} == {"on", "off"}
    assert client.post("/classify", content=clip).status_code == 422  # no label
    assert client.post("/classify", content=b"no audio", **asked).status_code == 422
    assert client.post("/classify", content=bytes(50_001), **asked).status_code == 413
    chunks = iter([bytes(30_000)] * 2)  # without a length in the header
    assert client.post("/classify", content=chunks, **asked).status_code == 413
    long = example("service").create_app(model, most_seconds=0.1)
    told = testing.TestClient(long).post("/classify", content=clip, **asked)
    assert told.status_code == 422 and "at most 0.1 s" in told.json()["detail"]


def test_images(tmp_path, tiny_text):
    module = example("images")
    module.write_images(tmp_path / "digits", most=400)
    # a random text encoder knows no synonyms: labels are worded as some captions are
    share = module.train(
        tmp_path / "digits",
        str(tiny_text),
        "cwcl_matched",
        epochs=40,
        batch=50,
        label="the digit {}",
    )
    assert share > 0.3  # chance is 0.1
