"""Linear probe and few shots: right numbers on made vectors, files that the report reads."""

import json

import numpy as np
import pytest
import torch

from speechcwcl.errors import UserError
from speechcwcl.evaluation.probe import (
    ProbeSet,
    evaluate_probe,
    few_shot,
    fit_logistic,
    held_out,
    linear_probe,
    probe_rows,
)
from speechcwcl.evaluation.results import ScoreFolder, read_table

CLASSES, DIM = 4, 12
CENTRES = np.random.default_rng(5).standard_normal((CLASSES, DIM))
TEXT = CENTRES / np.linalg.norm(CENTRES, axis=1, keepdims=True)


def clouds(each, noise, seed, shift=0.0):
    """(n, DIM) around the class centres, (n,) classes."""
    draw = np.random.default_rng(seed)
    y = np.repeat(np.arange(CLASSES), each)
    return CENTRES[y] + noise * draw.standard_normal((len(y), DIM)) + shift, y


def made(name, each, seed, **options):
    x, y = clouds(each, 1.0, seed, **options)
    ids = [f"{name}{i}" for i in range(len(y))]
    speakers = [f"{name}-s{i % 6}" for i in range(len(y))]
    return ProbeSet(name, ids, speakers, y, {"embedding": x, "encoder": 10 * x[:, :8] + 3})


def test_logistic_regression_is_at_its_minimum():
    x, y = clouds(15, 1.5, 0)
    fitted = fit_logistic(x, y, 0.1)[-1]
    z = torch.from_numpy((x - x.mean(0)) / x.std(0))
    weight = torch.from_numpy(fitted.coef_.T.copy()).requires_grad_()
    bias = torch.from_numpy(fitted.intercept_).requires_grad_()
    loss = torch.nn.functional.cross_entropy(z @ weight + bias, torch.from_numpy(y))
    (loss + 0.05 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-3 and bias.grad.abs().max() < 1e-3


def test_a_class_without_examples_is_never_predicted():
    x, y = clouds(10, 0.1, 0)
    fitted = fit_logistic(x[y != 2], y[y != 2], 0.01)
    predicted = fitted.predict(x)
    assert not (predicted == 2).any() and (predicted == y)[y != 2].all()


def test_one_class_left_beside_the_held_out_part():
    x, y = clouds(6, 0.1, 0)
    found = linear_probe(x[y < 2], y[y < 2], y[y < 2] == 1, x, y)
    assert set(found["valid"].values()) == {0.0}  # nothing else was there to be learned
    assert found["top1"] == 0.5


def test_scale_and_shift_of_the_features_do_not_matter():
    x, y = clouds(20, 2.0, 0)
    z, w = clouds(50, 2.0, 1)
    valid = np.arange(len(y)) % 5 == 0
    one = linear_probe(x, y, valid, z, w)
    other = linear_probe(1000 * x + 7, y, valid, 1000 * z + 7, w)
    assert one["top1"] == pytest.approx(other["top1"], abs=0.01)
    assert one["penalty"] == other["penalty"] and one["interval"][0] < one["top1"]


def test_the_held_out_part_is_whole_speakers_and_knows_no_order():
    ids = [f"u{i}" for i in range(60)]
    speakers = [f"s{i % 6}" for i in range(60)]
    chosen = held_out(ids, speakers)
    assert chosen.sum() == 10 and len({speakers[i] for i in np.flatnonzero(chosen)}) == 1
    assert (held_out(ids[::-1], speakers[::-1])[::-1] == chosen).all()
    assert 0 < held_out(ids, ["one"] * 60).sum() < 20


def test_more_shots_are_better_and_text_helps_most_with_one():
    train, y = clouds(40, 1.2, 0)
    test, w = clouds(100, 1.2, 1)
    found = few_shot(train, y, test, w, CLASSES, TEXT, draws=30)
    assert list(found) == ["1", "4", "16"]
    means = {k: {m: s["mean"] for m, s in v.items()} for k, v in found.items()}
    for method in ("centroid", "logistic", "text+shots"):
        assert means["1"][method] < means["16"][method]
    gain = {k: v["text+shots"] - v["centroid"] for k, v in means.items()}
    assert gain["1"] > 0.1 and gain["1"] > gain["16"]
    one = found["1"]["centroid"]
    assert one["low"] < one["mean"] < one["high"]
    assert few_shot(train, y, test, w, CLASSES, TEXT, draws=30) == found


def test_files_and_table(tmp_path):
    found = evaluate_probe(made("tr", 30, 0), made("te", 20, 1), TEXT, tmp_path, draws=3)
    assert json.loads((tmp_path / "probe.json").read_text()) == found
    header, rows = probe_rows(found)
    assert [list(row.values()) for row in read_table(tmp_path / "probe.tsv")] == rows
    assert len(rows) == 1 + 3 * 3 + 3 * 2 + 2 and len(header) == 7
    assert rows[0][2] == "label texts" and rows[-1][1] == "all 120"
    assert found["speakers_shared"] == 0 and found["n_valid"] == 20
    assert found["zero_shot"]["top1"] > 0.5 and found["probe"]["encoder"]["top1"] > 0.5


def test_sets_that_cannot_be_probed(tmp_path):
    train, test = made("tr", 5, 0), made("te", 5, 1)
    with pytest.raises(UserError, match="share 20 utterances"):
        evaluate_probe(train, train, TEXT, tmp_path)
    train.classes[:] = 1
    with pytest.raises(UserError, match="tr: fewer than two classes of te in it"):
        evaluate_probe(train, test, TEXT, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_verb_and_the_report(tmp_path, tiny_speech, tiny_text, capsys):
    from speechcwcl.cli.main import main
    from speechcwcl.corpora.base import write_spoken
    from speechcwcl.data.compiling import compile_manifest
    from speechcwcl.data.kaldi import Utterance, write_datadir
    from speechcwcl.models.aligner import Aligner

    words = ("zero", "one", "two")
    for name, speakers in (("tr", "abc"), ("te", "xy")):
        utterances = []
        for speaker in speakers:
            for number, word in enumerate(words * 2):
                key = f"{name}{speaker}{number}"
                write_spoken(tmp_path / f"{key}.wav", word, seed=ord(speaker) + number, seconds=0.4)
                clip = str(tmp_path / f"{key}.wav")
                utterances.append(Utterance(key, clip, word, speaker, labels={"label": word}))
        folder = write_datadir(tmp_path / "data" / name, utterances, corpus={"name": name})
        compile_manifest(folder, tmp_path / "dump" / name / "manifest.jsonl", progress=False)
    exp, dump = tmp_path / "exp", ["--dumpdir", str(tmp_path / "dump")]
    Aligner.build(tiny_speech, tiny_text, freeze=1).save_pretrained(exp / "model")
    assert main(["embed-speech", str(exp), "--sets", "te", *dump]) == 0
    score = ["evaluate", str(exp), "--evals", "te:digits_10", *dump]
    assert main([*score, "--probe", "tr"]) == 0
    assert "linear probe" in capsys.readouterr().out
    found = ScoreFolder.open(exp / "eval/te/digits_10")
    assert found.probe["n_train"] == 18 and found.probe["classes_trained"] == 3
    assert found.probe["zero_shot"]["top1"] == pytest.approx(found.scores["top1"])
    # chords differ by word, so even an untrained encoder's frames tell them apart
    assert found.probe["probe"]["encoder"]["top1"] > 0.9
    assert main(["report", str(exp), "--out", str(tmp_path / "out")]) == 0
    for name in ("RESULTS.md", "report.html"):
        page = (tmp_path / "out" / name).read_text()
        assert "Supervised reference" in page and "16 a class" in page
    assert main([*score, "--probe", "te"]) == 2
    assert "te and te share 12 utterances" in capsys.readouterr().err
    assert main(score) == 0
    assert ScoreFolder.open(exp / "eval/te/digits_10").probe is None, "stale figures stayed"
