"""`speechcwcl search` as a user types it."""

import io
import json

import numpy as np
import pytest
import torch

from speechcwcl.cli.main import main
from speechcwcl.data.audio import write_audio
from speechcwcl.models.aligner import Aligner


@pytest.fixture(scope="module")
def aligner(tiny_speech, tiny_text):
    torch.manual_seed(0)
    return Aligner.build(tiny_speech, tiny_text, projection={"hidden": [16]}).eval()


@pytest.fixture(scope="module")
def model(aligner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    aligner.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def recordings(tmp_path):
    for number in range(4):
        wave = 0.1 * np.random.default_rng(number).standard_normal(8000)
        write_audio(tmp_path / "rec" / f"{number}.wav", wave.astype(np.float32))
    return tmp_path / "rec"


def typed(*words):
    return main(["search", *(str(word) for word in words)])


@pytest.fixture
def built(recordings, model, tmp_path, capsys):
    assert typed("build", recordings, "--index", tmp_path / "ix", "--model", model) == 0
    line = capsys.readouterr().out
    assert "4 clips of 4 recordings: 4 new, 0 changed, 0 removed, 0 unreadable" in line
    return tmp_path / "ix"


def test_speech_by_text_and_by_speech(built, recordings, aligner, capsys):
    assert typed("query", built, "--text", "yes", "--text", "no", "--format", "json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["query"] for line in lines] == ["yes", "no"]
    speech = aligner.encode_speech(sorted(recordings.glob("*.wav")))
    cosines = speech @ aligner.encode_text(["yes"])[0]
    assert [h["path"][-5] for h in lines[0]["hits"]] == [str(i) for i in np.argsort(-cosines)]
    assert lines[0]["hits"][0]["score"] == pytest.approx(cosines.max(), abs=1e-5)
    assert typed("query", built, "--audio", recordings / "2.wav", "--top_k", 1,
                 "--format", "tsv") == 0  # fmt: skip
    head, row = capsys.readouterr().out.splitlines()
    assert head == "query\trank\tscore\tstart\tend\tpath"
    cells = row.split("\t")
    assert cells[1] == "1" and float(cells[2]) > 0.99 and cells[3:5] == ["0.0", "0.5"]
    assert cells[5].endswith("2.wav")
    assert typed("query", built, "--text", "yes") == 0
    assert "rank  score" in capsys.readouterr().out


def test_text_by_speech(built, recordings, aligner, tmp_path, capsys):
    texts = ["yes", "turn left", "stop"]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n\nyes\n")
    speech = aligner.encode_speech(sorted(recordings.glob("*.wav")))
    best = [texts[i] for i in (speech @ aligner.encode_text(texts).T).argmax(axis=1)]
    assert typed("query", built, "--texts", tmp_path / "texts.txt", "--format", "json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [item["texts"][0]["text"] for item in found] == best
    assert typed("query", built, "--texts", tmp_path / "texts.txt", "--audio",
                 recordings / "1.wav", "--top_k", 2, "--format", "tsv") == 0  # fmt: skip
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0][0] == "path" and len(rows) == 3 and rows[1][5] == best[1]


def test_questions_on_the_standard_input(built, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n\nstop\n"))
    assert typed("query", built, "--text", "-", "--format", "json") == 0
    lines = [json.loads(line)["query"] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["yes", "stop"]


def test_update_and_info(built, recordings, capsys):
    (recordings / "0.wav").unlink()
    (recordings / "bad.wav").write_text("no audio")
    assert typed("update", built) == 0
    out = capsys.readouterr()
    assert "3 clips of 4 recordings: 1 new, 0 changed, 1 removed, 1 unreadable" in out.out
    assert "left out" in out.err and "bad.wav: not audio" in out.err
    assert typed("info", built) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["recordings"], info["clips"]) == (3, 3)


def test_another_model_is_refused(built, recordings, tiny_speech, tiny_text, tmp_path, capsys):
    torch.manual_seed(1)
    Aligner.build(tiny_speech, tiny_text, projection={"hidden": [16]}).save_pretrained(
        tmp_path / "other"
    )
    for words in (
        ("query", built, "--text", "yes", "--model", tmp_path / "other"),
        ("update", built, "--model", tmp_path / "other"),
        ("build", recordings, "--index", built, "--model", tmp_path / "other"),
    ):
        assert typed(*words) == 2
        error = capsys.readouterr().err
        assert "was built with another model" in error and error.count("\n") == 1


def test_identity_is_of_the_model_not_of_its_folder(aligner, model, tmp_path):
    aligner.save_pretrained(tmp_path / "towers", with_towers=True)
    twin = Aligner.from_pretrained(tmp_path / "towers")
    assert twin.identity == aligner.identity
    assert Aligner.from_pretrained(model).identity == aligner.identity
    twin.set_logit_scale(3.0)
    assert twin.identity == aligner.identity
    twin.set_text_mean(torch.ones(twin.dim))
    assert twin.identity != aligner.identity


def test_what_the_user_can_put_right(built, recordings, model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.wav").write_text("no audio")
    (tmp_path / "none.txt").write_text("\n")
    for words, message in (
        (("query", tmp_path / "no", "--text", "yes"), "no index there; make one with"),
        (("query", built), "nothing asked"),
        (("query", built, "--text", " "), "--text: empty"),
        (("query", built, "--text", "a", "--texts", "b"), "leave --text out"),
        (("query", built, "--text", "a", "--top_k", "0"), "--top_k: 0"),
        (("query", built, "--texts", tmp_path / "none.txt"), "no texts in it"),
        (("query", built, "--audio", tmp_path / "no.wav"), "no such audio file"),
        (("build", tmp_path / "no", "--index", tmp_path / "x", "--model", model), "no such folder"),
        (("build", tmp_path / "empty", "--index", tmp_path / "x", "--model", model),
         "no audio in this folder"),
        (("build", tmp_path / "broken", "--index", tmp_path / "y", "--model", model),
         "none of its recordings can be read"),
        (("build", recordings, "--index", tmp_path / "z", "--model", model, "--hop", "99"), "hop"),
        (("update", built, "--model", tmp_path / "no-model"), "no-model"),
    ):  # fmt: skip
        assert typed(*words) == 2, words
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error, error
