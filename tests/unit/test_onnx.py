"""Exported models: the same embeddings as the model itself, and folders that open safely or not."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from models_tiny import EXACT, check_parity, clips, model_for_export, pad

from speechcwcl.errors import UserError
from speechcwcl.export.onnx_graph import SpeechGraph
from speechcwcl.models.aligner import Aligner
from speechcwcl.zeroshot.grid import GRID

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from speechcwcl.export.onnx import export, largest_difference
from speechcwcl.export.onnx_model import OnnxAligner

ASKED = """
import json
import sys
import numpy as np
import speechcwcl
from speechcwcl.zeroshot import enrolment
from speechcwcl.zeroshot.grid import GRID
from speechcwcl.zeroshot.spotting import Spotter

model = speechcwcl.load(sys.argv[1], onnx=True, threads=1)
wave = np.random.default_rng(0).standard_normal(GRID.block_samples * 3).astype(np.float32) * 0.1
enrolment.background_of = lambda model: enrolment.embed_stream(model, wave)
labels = ["turn on", "the light"]
keywords = model.enrol(labels, {"turn on": [wave[:16000]]}, false_alarms_per_hour=1)
spotter = Spotter(model, keywords, level=-100.0)
print(json.dumps({
    "events": len(spotter.push(wave) + spotter.finish()),
    "torch": "torch" in sys.modules,
    "text": model.encode_text(["turn on", "the light", "ok", "naive cafe, don't"]).tolist(),
    "speech": model.encode_speech([wave[:8000]]).tolist(),
}))
"""


@pytest.fixture(scope="module")
def loaded(bert, once):
    """A Whisper whose position table ends after one second, asked by two processes in turn."""

    def ask(folder):
        model_for_export("whisper", folder / "speech", bert).save_pretrained(folder / "model")
        words = [sys.executable, "-c", ASKED, str(folder / "model")]
        env = {**os.environ, "SPEECHCWCL_CACHE": str(folder / "cache")}
        for name in ("first", "again"):
            done = subprocess.run(words, capture_output=True, text=True, check=True, env=env)
            (folder / f"{name}.json").write_text(json.dumps([done.stdout, done.stderr]))

    return once("onnx", ask)


@pytest.fixture(scope="module")
def model(loaded):
    return Aligner.from_pretrained(loaded / "model")


@pytest.fixture(scope="module")
def exact(loaded, tmp_path_factory):
    """What that wrote, as if exported without the text encoder."""
    [config] = loaded.glob("cache/onnx/*/config.json")
    folder = shutil.copytree(config.parent, tmp_path_factory.mktemp("onnx") / "m")
    (folder / "text.onnx").unlink()
    edit(folder, lambda c: c["files"].pop("text.onnx"))
    return folder


@pytest.fixture(scope="module")
def onnx_model(exact):
    return OnnxAligner.from_pretrained(exact, threads=1)


def test_whisper_alone_padded_in_any_order_and_in_windows(model, onnx_model):
    check_parity(model, onnx_model, clips(0.7, 3.3, 1.0, 0.05, 0.0002, 2.0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["wav2vec2-group", "wav2vec2-layer", "hubert-layer", "hubert-batchnorm", "wavlm-group",
     "wavlm-layer", "data2vec", "moonshine", "whisper"],
)  # fmt: skip
def test_all_families_with_mixed_layers(name, tiny_text, tmp_path):
    model = model_for_export(name, tmp_path / "speech", tiny_text, layers="mix", freeze=1)
    export(model, tmp_path / "m")
    exported = OnnxAligner.from_pretrained(tmp_path / "m", threads=1)
    check_parity(model, exported, clips(0.7, 0.05, 1.3, 0.0002))


@pytest.mark.parametrize("name", ["whisper", "wavlm-group", "moonshine", "data2vec"])
def test_the_graph_computes_what_the_model_computes(name, tiny_text, tmp_path):
    """Without exporting: quick, so for every family whose export takes long."""
    model = model_for_export(name, tmp_path, tiny_text, layers="mix")
    graph = SpeechGraph(model)
    for waves in (clips(0.7, 3.3, 0.05), clips(0.0002), clips(2.0)):
        wav, lengths = pad(waves)
        with torch.no_grad():
            assert (graph(wav, lengths) - model.embed_speech(wav, lengths)).abs().max() < 1e-5


def test_family_that_cannot_be_exported_is_named(tiny_text, tmp_path):
    model = model_for_export("w2v-bert-key", tmp_path / "speech", tiny_text)
    with pytest.raises(UserError, match="'wav2vec2-bert' are not supported yet.*whisper"):
        export(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_parity_in_one_call(model, onnx_model):
    found = largest_difference(model, onnx_model)
    assert max(found["alone"], found["padded"], found["reversed"]) < EXACT
    assert found["cosine"] > 0.9999


def test_same_words_and_results_as_the_aligner(model, onnx_model):
    waves, labels = clips(0.5, 1.2), {"a": "turn on", "b": ["the light", "cafe"], "c": "on"}
    assert onnx_model.dim == model.dim
    assert onnx_model.text.hash == model.text.hash
    assert onnx_model.logit_scale == pytest.approx(model.logit_scale.item(), rel=1e-6)
    assert np.abs(onnx_model.encode_text(["turn"]) - model.encode_text(["turn"])).max() < 1e-6
    rows = model.encode_labels(["turn", "light"], ["the {}"])
    assert np.abs(onnx_model.encode_labels(["turn", "light"], ["the {}"]) - rows).max() < 1e-6
    wanted = model.classify(waves, labels, top_k=2)
    for a, b in zip(onnx_model.classify(waves, labels, top_k=2), wanted, strict=True):
        assert [row["label"] for row in a] == [row["label"] for row in b]
        for one, other in zip(a, b, strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-3)
            assert one["cosine"] == pytest.approx(other["cosine"], abs=EXACT)
    slow = onnx_model.encode_speech([waves[0][::2]], sample_rate=8000)
    assert np.abs(slow - model.encode_speech([waves[0][::2]], sample_rate=8000)).max() < EXACT


def test_exporting_leaves_the_model_as_it_was(model, onnx_model):
    model.train()
    try:
        assert model.training
        before = model.encode_speech(clips(0.5))
        SpeechGraph(model)
        assert np.array_equal(model.encode_speech(clips(0.5)), before)
    finally:
        model.eval()


# -- folders ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(exact, tmp_path):
    return shutil.copytree(exact, tmp_path / "m")


def refused(folder, words):
    with pytest.raises(UserError, match=words) as caught:
        OnnxAligner.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_truncated_and_changed_graphs(folder):
    path = folder / "model.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refused(folder, "truncated or changed")
    path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    refused(folder, "its sha256 is not the one in config.json")
    path.unlink()
    refused(folder, "missing; copy the whole folder again")


def test_a_graph_that_is_none(folder):
    from speechcwcl.export import onnx_model
    from speechcwcl.models import folders

    def replace(content):
        (folder / "config.json").unlink(missing_ok=True)
        (folder / "model.onnx").write_bytes(content)
        head = ("format", "version", "speechcwcl", "files")
        kept = {k: v for k, v in config.items() if k not in head}
        folders.write_config(folder, kept, onnx_model.FORMAT, onnx_model.VERSION)

    config = json.loads((folder / "config.json").read_text())
    replace(b"nonsense")
    refused(folder, "onnxruntime refuses it")
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    replace(onnx.ModelProto.SerializeToString(other))
    refused(folder, "not the graph of `speechcwcl export`")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(version=2), "format version 2.*upgrade"),
        (lambda c: c.update(format="speechcwcl-aligner"), "export it first: speechcwcl export"),
        (lambda c: c.update(format="x"), "not an exported model"),
        (lambda c: c.update(precison="int8"), "unknown key 'precison' .closest: 'precision'"),
        (lambda c: c.pop("text"), "key 'text' is missing"),
        (lambda c: c.update(dim=True), "key 'dim' is missing or of the wrong type"),
        (lambda c: c["text_mean"].pop(), "'text_mean' is not 24 numbers"),
        (lambda c: c["text_mean"].__setitem__(0, "x"), "'text_mean' is not 24 numbers"),
        (lambda c: c["text"].pop("hash"), "not as expected"),
        (lambda c: c["files"].clear(), "does not list model.onnx"),
        (lambda c: c["files"].update({"../x": {}}), "outside the folder"),
    ],
)
def test_changed_configuration(change, words, folder):
    edit(folder, change)
    refused(folder, words)


def test_not_an_exported_model_at_all(tmp_path, folder):
    refused(tmp_path / "nothing", "no such folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no config.json")
    (folder / "config.json").write_text("{]")
    refused(folder, "not valid JSON")


def test_other_text_encoder_is_refused_when_it_is_used(folder):
    edit(folder, lambda c: c["text"].update(hash="0" * 64))
    exported = OnnxAligner.from_pretrained(folder)
    exported.encode_speech(clips(0.2))
    with pytest.raises(UserError, match="not the one this model was trained with"):
        exported.encode_text(["yes"])


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_missing_extra_is_named(package, folder, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"need.* pip install speechcwcl\[onnx\]"):
        if package == "onnxruntime":
            OnnxAligner.from_pretrained(folder)
        else:
            export(model, tmp_path / "other")


def test_windows_of_a_stream(model, onnx_model):
    blocks = np.stack([np.resize(wave, GRID.block_samples) for wave in clips(0.7, 2.0, 1.1)])
    wanted = model.encode_windows(blocks)
    assert wanted.shape == (3, GRID.places, model.dim)
    assert np.abs(onnx_model.encode_windows(blocks) - wanted).max() < EXACT
    assert np.abs(onnx_model.encode_windows(blocks[1:2]) - wanted[1:2]).max() < EXACT
    wav, lengths = pad(list(blocks))
    with torch.no_grad():  # the third window is that stretch of the frames
        frames, _ = model.speech_encoder(wav, lengths)
        rate = model.speech_encoder.frame_rate
        start, size = round(2 * GRID.step * rate), round(GRID.length * rate)
        rows = model.head(frames[:, start : start + size], torch.full((3,), size))
    assert np.abs(rows.numpy() - wanted[:, 2]).max() < 1e-5
    assert onnx_model.identity == model.identity


def test_exported_once_with_both_towers_and_no_torch(loaded, model):
    first, again = (json.loads((loaded / f"{n}.json").read_text()) for n in ("first", "again"))
    assert "exporting to ONNX once" in first[1] and not again[1]
    found = json.loads(again[0])
    assert found["events"] > 0 and not found["torch"]
    texts = ["turn on", "the light", "ok", "naive cafe, don't"]
    assert np.abs(found["text"] - model.encode_text(texts)).max() < 1e-5
    wave = np.random.default_rng(0).standard_normal(GRID.block_samples * 3).astype(np.float32)
    assert np.abs(found["speech"] - model.encode_speech([0.1 * wave[:8000]])).max() < EXACT
    [config] = loaded.glob("cache/onnx/*/config.json")
    inside = {path.name for path in config.parent.iterdir()}
    assert {"model.onnx", "windows.onnx", "text.onnx"} <= inside
    assert OnnxAligner.from_pretrained(config.parent).identity == model.identity
