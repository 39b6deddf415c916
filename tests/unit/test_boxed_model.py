"""The model in the package: found by name, used when none is named, refused when it is altered."""

import importlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from speechcwcl.assets import DEFAULT_MODEL, boxed_models
from speechcwcl.cli.main import main
from speechcwcl.corpora.base import write_spoken
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import Utterance, write_datadir
from speechcwcl.errors import UserError
from speechcwcl.models import checkpoint, folders
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.weights.sources import locate
from speechcwcl.training.config import load_config

FOLDER = boxed_models()[DEFAULT_MODEL]


def test_it_is_small_whole_and_in_half_precision():
    config, shapes = checkpoint.read(FOLDER)  # every hash is checked
    assert not config["towers"] and config["speech"]["source"] == "whisper-tiny.en"
    with safe_open(FOLDER / folders.WEIGHTS, "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}  # noqa: SIM118
    assert (FOLDER / folders.WEIGHTS).stat().st_size <= 12_000_000
    assert sum(math.prod(shape) for shape in shapes.values()) > 1_000_000


def test_a_training_can_go_on_from_it():
    boxed = checkpoint.read(FOLDER)[0]
    path = Path(__file__).parents[2] / "egs/release/cwcl1/conf/further.yaml"
    config = load_config(path)
    assert (
        config.init_model == DEFAULT_MODEL and config.freeze == boxed["speech"]["options"]["freeze"]
    )
    for key in ("pooling", "pooling_options", "projection"):
        assert getattr(config, key) == boxed[key]


def test_it_is_found_by_name_and_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    assert locate(DEFAULT_MODEL) == FOLDER
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT_MODEL).mkdir()
    assert locate(DEFAULT_MODEL).resolve() == tmp_path / DEFAULT_MODEL


@pytest.mark.parametrize("how", ["truncated", "altered", "config"])
def test_a_damaged_one_is_refused(tmp_path, how):
    copy = tmp_path / "en-tiny"
    shutil.copytree(FOLDER, copy)
    path = copy / folders.WEIGHTS
    data = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(data[:-100])
    elif how == "altered":
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        config = json.loads((copy / "config.json").read_text())
        config["files"][folders.WEIGHTS]["sha256"] = "0" * 64
        (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="truncated or changed|sha256"):
        checkpoint.read(copy)


def test_verbs_use_it_when_no_model_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SPEECHCWCL_CACHE", str(tmp_path))
    monkeypatch.setenv("SPEECHCWCL_OFFLINE", "1")
    clip = tmp_path / "a.wav"
    write_spoken(clip, "go", seconds=0.3)
    assert main(["classify", "--labels", "yes;no", str(clip)]) == 2
    line = capsys.readouterr().err.strip()
    for name in ("whisper-tiny.en", "all-MiniLM-L6-v2"):  # both at once, in one line
        assert str(tmp_path / "models" / name / "model.safetensors") in line
    assert "speechcwcl fetch whisper-tiny.en all-MiniLM-L6-v2" in line and "\n" not in line


def test_a_projection_cut_to_a_rank_hears_much_the_same(
    tmp_path, tiny_speech, tiny_text, monkeypatch
):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    box = importlib.import_module("box_model").box
    torch.manual_seed(0)
    model = Aligner.build(tiny_speech, tiny_text, projection={"hidden": [16], "outputs": 2}).eval()
    model.save_pretrained(tmp_path / "model")
    rows = []
    for word in range(30):
        write_spoken(tmp_path / f"{word}.wav", f"word {word}", seconds=0.5)
        rows.append(Utterance(str(word), str(tmp_path / f"{word}.wav"), f"word {word}", "speaker"))
    write_datadir(tmp_path / "data", rows, corpus={"name": "words"})
    compile_manifest(tmp_path / "data", tmp_path / "manifest.jsonl", progress=False)
    (tmp_path / "card.md").write_text("# card")
    cosines, wav = [], [tmp_path / "3.wav"]
    for rank in (16, 4, 1):
        thin = (rank, tmp_path / "manifest.jsonl")
        box(tmp_path / "model", tmp_path / "card.md", tmp_path / str(rank), [], 5.0, thin)
        thinner = Aligner.from_pretrained(tmp_path / str(rank))
        assert thinner.projection.steps[1][0].out_features == rank
        cosines.append(float((thinner.encode_speech(wav) @ model.encode_speech(wav).T).item()))
    assert cosines[0] > 0.999 and cosines[0] >= cosines[1] > 0.8
