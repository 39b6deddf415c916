"""Score folders and experiment folders: written whole, read back, faults named."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.evaluation import results
from speechcwcl.evaluation.results import (
    ScoreFolder,
    read_embeddings,
    read_table,
    write_embeddings,
    write_table,
)
from speechcwcl.evaluation.scores import evaluate_zeroshot, score_zeroshot
from speechcwcl.report.runs import RunDir, gather_tests, open_runs
from speechcwcl.zeroshot.protocol import Protocol

LABELS = {"IN:GET": ("get it",), "IN:SET": ("set it", "put it"), "IN:END": ("end it",)}
PROTOCOL = Protocol("acts", LABELS)
TABLE = {text: row for row, text in enumerate(["get it", "set it", "put it", "end it", "go\tto"])}


def encode(texts):
    return np.eye(6, dtype=np.float32)[[TABLE[text] for text in texts]]


def said_of(marks: str):
    labels = list(LABELS)
    said = [
        Utterance(
            f"u{i}", "clips/a b.flac", "go\tto", "", 0.0, 1.25, None, {"label": labels[int(m)]}
        )
        for i, m in enumerate(marks)
    ]
    return said, np.eye(6)[[0, 1, 3]]


def make(folder, heard="012", true="012"):
    said, rows = said_of(true)
    speech = rows[[int(h) for h in heard]] + 0.05
    return evaluate_zeroshot(speech, said, PROTOCOL, encode, folder)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "exp" / "run" / "eval" / "test" / "acts"


def test_round_trip(folder):
    scores = make(folder, heard="0112", true="0122")
    found = ScoreFolder.open(folder)
    assert (found.set_name, found.protocol) == ("test", "acts")
    assert found.scores == scores
    assert not found.is_retrieval
    assert found.label_texts == {"IN:GET": "get it", "IN:SET": "set it", "IN:END": "end it"}
    assert found.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert np.load(folder / "label_embeddings.npy").shape == (3, 6)
    row = found.predictions[2]
    assert (row["id"], row["label"], row["prediction"]) == ("u2", "IN:END", "IN:SET")
    assert (row["correct"], row["text"], row["audio"]) == ("0", "go\tto", "clips/a b.flac")
    assert (row["start"], row["end"]) == ("0.0", "1.25")
    assert float(row["score"]) >= float(row["score2"]) >= float(row["score3"])
    assert float(row["label_score"]) <= float(row["score"])
    per_class = {row["label"]: row for row in found.per_class}
    assert float(per_class["IN:END"]["recall"]) == 0.5
    assert per_class["IN:SET"]["text"] == "set it"
    matrix, ids, labels = found.similarity
    assert matrix.shape == (4, 4)
    assert ids == ["u0", "u1", "u2", "u3"]
    assert labels == ["IN:GET", "IN:SET", "IN:END", "IN:END"]


def test_speakers_stand_in_a_table_the_hardest_first(folder):
    said, rows = said_of("01200")
    for utterance, name in zip(said, ["ann", "ann", "bob", "bob", None], strict=True):
        utterance.speaker = name
    evaluate_zeroshot(rows[[0, 1, 1, 0, 1]] + 0.05, said, PROTOCOL, encode, folder)
    found = [tuple(row.values()) for row in ScoreFolder.open(folder).per_speaker]
    assert found == [("bob", "2", "0.500000"), ("ann", "2", "1.000000")]
    (folder / "per_speaker.tsv").unlink()
    assert ScoreFolder.open(folder).per_speaker == []


def test_counts_in_the_files_agree_with_the_score(folder):
    scores = make(folder, heard="011220", true="012210")
    found = ScoreFolder.open(folder)
    right = sum(row["correct"] == "1" for row in found.predictions)
    assert right / len(found.predictions) == pytest.approx(scores["top1"], abs=1e-6)
    assert np.trace(found.confusion) == right
    assert sum(int(row["support"]) for row in found.per_class) == scores["n"] == 6


def test_a_folder_that_was_not_finished_has_no_scores(folder, monkeypatch):
    make(folder)

    def full(*_):
        raise UserError("the disk is full")

    monkeypatch.setattr(results, "_save_array", full)
    with pytest.raises(UserError, match="full"):
        make(folder)
    assert not (folder / "scores.json").exists()
    with pytest.raises(UserError, match=r"scores\.json: cannot read"):
        ScoreFolder.open(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(folder):
    folder.parent.mkdir(parents=True)
    folder.parent.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"):
        make(folder)


def test_a_file_in_the_way(folder):
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        make(folder)


def test_table_keeps_any_text(tmp_path):
    rows = [["a\tb", "line\nbreak"], ["\\t", "\\"], ['quote"', "é\r"], ["", " "]]
    write_table(tmp_path / "t.tsv", ["x", "y"], rows)
    assert [list(row.values()) for row in read_table(tmp_path / "t.tsv")] == rows


def test_table_with_a_broken_line(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\n1\t2\n3\n")
    with pytest.raises(UserError, match=r"t\.tsv:3: 1 columns instead of 2"):
        read_table(tmp_path / "t.tsv")


def test_embeddings_round_trip_and_mismatch(tmp_path):
    speech = np.random.default_rng(0).standard_normal((3, 4))
    write_embeddings(tmp_path, ["a", "b", "c"], speech, {"name": "mini"})
    ids, found = read_embeddings(tmp_path)
    assert ids == ["a", "b", "c"]
    assert found.dtype == np.float32
    assert np.array_equal(found, speech.astype(np.float32))
    (tmp_path / "ids.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"2 lines.*\(3, 4\)"):
        read_embeddings(tmp_path)
    (tmp_path / "speech.npy").write_bytes(b"\x93NUMPY half")
    with pytest.raises(UserError, match="not a whole"):
        read_embeddings(tmp_path)
    with pytest.raises(UserError, match="2 ids for 3"):
        write_embeddings(tmp_path, ["a", "b"], speech)


def test_scores_of_another_version_are_refused(folder):
    scores = make(folder)
    (folder / "scores.json").write_text(json.dumps({**scores, "version": 2}))
    with pytest.raises(UserError, match="score again"):
        ScoreFolder.open(folder)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"top1": 1.0', '"top1": NaN', "NaN is no number"),
        ('"top1": 1.0', '"top1": 1e999', "1e999 is no number"),
        ('"n": 3', f'"n": {"9" * 5000}', "an integer of 5000 digits"),
        ('"n": 3', f'"n": {"[" * 3000}', "nested too deeply"),
        ('"top1": 1.0', '"top1": "high"', "top1: Input should be a valid number.*score again"),
        ('"macro_f1": 1.0,', "", "macro_f1: Field required"),
        ('"kind": "zeroshot"', '"kind": "guess"', "not a score file"),
    ],
)
def test_a_damaged_score_file_is_told_in_one_line(folder, old, new, says):
    make(folder)
    path = folder / "scores.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"scores\.json:? ?.*{says}") as caught:
        ScoreFolder.open(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "line", "cells", "says"),
    [
        ("predictions.tsv", 3, {4: "nan"}, "score: 'nan' is not a number"),
        ("predictions.tsv", 2, {-1: "soon"}, "end: 'soon' is not a number"),
        ("predictions.tsv", 1, {0: "key"}, "no column 'id'"),
        ("per_class.tsv", 2, {5: ""}, "recall: '' is not a number"),
        ("confusion.tsv", 4, {1: "9" * 5000}, "is not a number"),
    ],
)
def test_a_damaged_table_is_told_with_its_line(folder, name, line, cells, says):
    make(folder)
    rows = [row.split("\t") for row in (folder / name).read_text().splitlines()]
    for column, value in cells.items():
        rows[line - 1][column] = value
    (folder / name).write_text("".join("\t".join(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=rf"{name}:{line}: .*{says}"):
        getattr(ScoreFolder.open(folder), name.removesuffix(".tsv"))


def test_an_array_file_cannot_ask_for_more_memory_than_it_has_bytes(folder):
    make(folder)
    path = folder / "similarity.npy"
    header = path.read_bytes()[:10] + path.read_bytes()[10:128].replace(b"(3, 3)", b"(9999999999,)")
    path.write_bytes(header[:128] + path.read_bytes()[128:])
    with pytest.raises(UserError, match=r"similarity\.npy: not a whole"):
        _ = ScoreFolder.open(folder).similarity


def test_run_without_training_files(folder):
    make(folder)
    run = RunDir.open(folder.parents[2])
    assert (run.name, run.epochs, run.hparams, run.command) == ("run", [], {}, "")
    assert list(run.scores) == [("test", "acts")]


def test_metrics_of_a_killed_and_resumed_run(folder):
    make(folder)
    lines = [{"epoch": 1, "train": {"loss": 3}}, {"epoch": 2, "train": {"loss": 2}}]
    lines.append({"epoch": 2, "train": {"loss": 1}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path = folder.parents[2] / "metrics.jsonl"
    path.write_text(text + '{"epoch": 3, "tra')
    epochs = RunDir.open(folder.parents[2]).epochs
    assert [(e["epoch"], e["train"]["loss"]) for e in epochs] == [(1, 3), (2, 1)]
    path.write_text('{"epoch": 1}\nnonsense\n{"epoch": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2"):
        RunDir.open(folder.parents[2])


def test_missing_and_unscored_runs(folder):
    make(folder)
    exp = folder.parents[3]
    with pytest.raises(UserError, match=r"rum: no such experiment folder \(closest: 'run'\)"):
        RunDir.open(exp / "rum")
    (exp / "empty").mkdir()
    with pytest.raises(UserError, match="nothing is scored here"):
        RunDir.open(exp / "empty")
    with pytest.raises(UserError, match="at least one"):
        open_runs([])


def test_equal_names_are_told_apart(tmp_path):
    paths = [tmp_path / part / "cwcl" for part in ("one", "two")]
    for path in paths:
        make(path / "eval" / "test" / "acts")
    assert [run.name for run in open_runs(paths)] == ["one/cwcl", "two/cwcl"]


def test_difference_and_what_cannot_be_compared(tmp_path):
    def run(name, **options):
        make(tmp_path / name / "eval" / "test" / "acts", **options)
        return RunDir.open(tmp_path / name)

    bad, good = run("bad", heard="000", true="012"), run("good", heard="012", true="012")
    (test,) = gather_tests([bad, good])
    assert test.mismatch == ""
    assert test.difference(0, 1)[0] == pytest.approx(2 / 3)
    assert test.difference(1, 0)[0] == pytest.approx(-2 / 3)
    assert test.difference(0, 2) is None
    (test,) = gather_tests([bad, run("other", heard="0122", true="0122")])
    assert "different utterances" in test.mismatch
    assert test.difference(0, 1) is None
    said, rows = said_of("012")
    renamed = Protocol("acts", {**LABELS, "IN:GET": ("put it",), "IN:SET": ("set it",)})
    folder = tmp_path / "reworded" / "eval" / "test" / "acts"
    evaluate_zeroshot(rows, said, renamed, encode, folder)
    (test,) = gather_tests([bad, RunDir.open(tmp_path / "reworded")])
    assert "different versions of this protocol" in test.mismatch


def test_scoring_alone_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said, rows = said_of("012")
    score_zeroshot(rows, said, PROTOCOL, encode)
    assert list(tmp_path.iterdir()) == []
