"""No verb deletes what it did not write: every place where a folder is replaced or emptied."""

import argparse
import os
import shutil
from pathlib import Path

import pytest
import torch

from speechcwcl import files
from speechcwcl.cli.main import main
from speechcwcl.corpora.base import write_spoken
from speechcwcl.corpora.huggingface import HuggingFace
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import write_datadir
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.export import onnx as onnx_export
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.weights import sources
from speechcwcl.models.weights.catalogue import Member, Source

FOREIGN = {"thesis.txt": "x", "config.json": "{}", ".git/HEAD": "ref", "shard-000000.tar": "mine"}


@pytest.fixture(scope="module")
def made(tiny_speech, tiny_text, tmp_path_factory):
    """A trained run, a data folder and its manifest."""
    top = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    Aligner.build(tiny_speech, tiny_text).save_pretrained(top / "exp" / "model")
    clips = []
    for number in range(3):
        write_spoken(top / "audio" / f"{number}.wav", "yes", seed=number)
        clips.append(Utterance(f"u{number}", str(top / "audio" / f"{number}.wav"), "yes"))
    write_datadir(top / "data", clips, corpus={"name": "three"})
    compile_manifest(top / "data", top / "manifest.jsonl", progress=False)
    HuggingFace().fake(top / "hub")
    return top


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """An ONNX graph takes a minute to make; where it goes is what matters here."""
    monkeypatch.setattr(onnx_export, "needs", lambda *_: [])
    monkeypatch.setattr(
        onnx_export, "_write_graph", lambda _, __, target: target.write_bytes(b"graph") and False
    )


def _fetch(made, place, monkeypatch):
    members = (Member(f"p=={next(LIMITS)}", "a", "0", "a"),)  # as if the table had changed
    source = Source("tiny", "speech", "t", "MIT", "a/tiny", members, build=_build)
    monkeypatch.setitem(sources.SOURCES, "tiny", source)
    monkeypatch.setattr(sources, "collect", lambda *_: {})
    monkeypatch.setenv("SPEECHCWCL_CACHE", str(place.parents[1]))
    sources.fetch("tiny", offline=False)


def _build(found, folder):
    (folder / "config.json").write_text("{}")


def _verb(*words):
    def run(made, place, _):
        known = {"OUT": str(place), "MADE": str(made)}
        code = main([known.get(w, w.replace("MADE", str(made))) for w in words])
        if code:
            raise SystemExit(code)

    return run


VERBS = {
    "pack": _verb("pack", "MADE/exp", "--out", "OUT"),
    "export": _verb("export", "--model", "MADE/exp/model", "--out", "OUT"),
    "save_pretrained": lambda made, place, _: Aligner.from_pretrained(
        made / "exp/model"
    ).save_pretrained(str(place)),
    "shards": lambda made, place, _: _verb(
        "shards", "MADE/manifest.jsonl", "--out", str(place.parent)
    )(made, place, _),
    "convert": _verb("convert", "MADE/manifest.jsonl", "OUT"),
    "prepare": lambda made, place, _: _verb(
        "prepare",
        "huggingface",
        "--data",
        "MADE/hub",
        "--out",
        str(place.parent),
        "--sets",
        "train",
    )(made, place, _),
    "the audio of prepare": lambda made, place, _: HuggingFace(shard=2, limit=next(LIMITS)).prepare(
        made / "hub", place.parents[1], [place.name]
    ),
    "fetch": _fetch,
}
PLACES = {"shards": "S/shards", "prepare": "P/train", "fetch": "C/models/tiny"}
PLACES["the audio of prepare"] = "Q/audio/train"
LIMITS = iter(range(2, 100))  # another limit is another source: all is written anew


def snapshot(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
        if not p.name.endswith(".lock")
    }


def fill(folder, content):
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def refused(run, place, capsys):
    """One line that names the folder, and everything around it as it was."""
    top = place.parent
    before = snapshot(top)
    capsys.readouterr()
    with pytest.raises((UserError, SystemExit)) as caught:
        run()
    said = capsys.readouterr().err if caught.type is SystemExit else str(caught.value)
    lines = [line for line in said.splitlines() if "is in the way" in line]
    assert len(lines) == 1 and str(place) in lines[0], said
    assert "Traceback" not in said
    after = snapshot(top)
    assert {name: after.get(name) for name in before} == before
    return lines[0]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_of_the_users_own_is_refused(verb, name, made, tmp_path, capsys, monkeypatch):
    place = tmp_path / PLACES.get(verb, "D")
    fill(place, {name: FOREIGN[name]})
    refused(lambda: VERBS[verb](made, place, monkeypatch), place, capsys)
    assert [p for p in place.rglob("*") if p.is_file()] == [place / name]


@pytest.mark.parametrize("verb", VERBS)
def test_ours_is_replaced_but_not_with_a_file_of_the_users(
    verb, made, tmp_path, capsys, monkeypatch
):
    place = tmp_path / PLACES.get(verb, "D")

    def run():
        VERBS[verb](made, place, monkeypatch)

    place.mkdir(parents=True)  # empty: taken
    run()
    files_of = {name for name, content in snapshot(place).items() if content is not None}
    assert files_of
    run()
    assert {name for name, content in snapshot(place).items() if content is not None} >= files_of
    for extra in ("notes.txt", "utt2mine", "shard-000099.tar", "shard-00000/mine.wav", "deep/er/x"):
        fill(place, {extra: "mine"})
        if verb == "shards":
            (place / "shards.json").unlink(missing_ok=True)  # else there is nothing to do
        line = refused(run, place, capsys)
        assert extra.split("/")[0] in line
        (place / extra).unlink()
        if extra.startswith("deep"):
            shutil.rmtree(place / "deep")
        elif not any((place / extra).parent.iterdir()):
            (place / extra).parent.rmdir()
    (place / "link").symlink_to(made / "data")
    if verb == "shards":
        (place / "shards.json").unlink(missing_ok=True)
    refused(run, place, capsys)
    assert (made / "data" / "text").exists()


def test_an_edited_model_card_is_not_lost(made, tmp_path, capsys):
    words = ["pack", str(made / "exp"), "--out", str(tmp_path / "D")]
    assert main(words) == 0 and main(words) == 0
    (tmp_path / "D/README.md").write_text("---\nlibrary_name: speechcwcl\n---\nmy own words")
    assert main(words) == 2
    assert "README.md" in capsys.readouterr().err
    assert "my own words" in (tmp_path / "D/README.md").read_text()


def test_one_kind_of_ours_does_not_replace_another(made, tmp_path, capsys):
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(made / "exp/model", model)
    shutil.copytree(made / "data", data)
    for words, place in (
        (["export", "--model", str(made / "exp/model"), "--out", str(model)], model),
        (["pack", str(made / "exp"), "--out", str(data)], data),
        (["convert", str(made / "manifest.jsonl"), str(model)], model),
    ):
        before = snapshot(place)
        assert main(words) == 2
        assert "is in the way" in capsys.readouterr().err
        assert snapshot(place) == before


def test_a_link_to_a_folder_stays_a_link(made, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk")
    for _ in range(2):
        Aligner.from_pretrained(made / "exp/model").save_pretrained(tmp_path / "model")
    assert (tmp_path / "model").is_symlink() and (tmp_path / "disk/config.json").exists()
    assert sorted(os.listdir(tmp_path)) == ["disk", "model"]


def test_what_comes_while_it_is_made_is_not_lost(tmp_path):
    with (
        pytest.raises(UserError, match="thesis"),
        files.replace_folder(tmp_path / "D", lambda _: ()) as new,
    ):
        (new / "a").write_text("a")
        fill(tmp_path / "D", {"thesis.txt": "x"})
    assert snapshot(tmp_path) == {"D": None, "D/thesis.txt": b"x"}


def test_a_run_of_another_grid_is_not_deleted(tmp_path, monkeypatch):
    path = Path(__file__).resolve().parents[2] / "recipes/cwcl/ablation/ablate.py"
    monkeypatch.syspath_prepend(path.parent)
    import ablate

    fill(tmp_path / "run", {"thesis.txt": "x"})
    grid = argparse.Namespace(
        train="t", defaults=path.parents[1] / "hparams/base.yaml", pairs=["a:b"]
    )
    with pytest.raises(UserError, match="is in the way"):
        ablate.run_one(tmp_path / "run", {}, 0, grid, argparse.Namespace())
    assert (tmp_path / "run/thesis.txt").exists()
