"""mteb's harness around our models: on local data, offline, with audio in any of its forms."""

import json
import re
import shutil
import socket
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("mteb", reason="the extra [mteb] is not installed")

import datasets  # noqa: E402
import mteb  # noqa: E402

from speechcwcl.cli.main import main  # noqa: E402
from speechcwcl.corpora.base import chord  # noqa: E402
from speechcwcl.data.audio import encode_audio  # noqa: E402
from speechcwcl.data.utterance import Utterance  # noqa: E402
from speechcwcl.errors import UserError  # noqa: E402
from speechcwcl.evaluation.scores import score_zeroshot  # noqa: E402
from speechcwcl.integrations import mteb as ours  # noqa: E402
from speechcwcl.models.aligner import Aligner  # noqa: E402
from speechcwcl.report.markdown import results_table  # noqa: E402
from speechcwcl.report.page import build_report  # noqa: E402
from speechcwcl.zeroshot.classifier import unit_rows  # noqa: E402
from speechcwcl.zeroshot.protocol import load_protocol  # noqa: E402

COMMANDS = "SpeechCommandsZeroshotv0.01"
WORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any way out is a fault; nor is there a decoder but our own."""

    def refused(*_):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def model(tiny_speech, tiny_text, tmp_path_factory):
    """A folder of an aligner with tiny towers."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    torch.manual_seed(0)
    Aligner.build(tiny_speech, tiny_text).save_pretrained(folder)
    return folder


def clip(word, seed=0, rate=16000):
    """A sound that its word determines, as mteb hands one over."""
    wav = chord(word, 0.3 * rate / 16000, np.random.default_rng(seed)).astype(np.float32)
    return {"array": wav, "sampling_rate": rate}


def spoken(words, repeats=1):
    """Clips of words and their places, as columns."""
    rows = [(n, word, seed) for n, word in enumerate(words) for seed in range(repeats)]
    return {"audio": [clip(w, seed) for _, w, seed in rows], "label": [n for n, _, _ in rows]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two tasks: a DatasetDict of arrays, and parquet of files in bytes."""
    root = tmp_path_factory.mktemp("data")
    commands = datasets.Dataset.from_dict(spoken(WORDS, 3))
    datasets.DatasetDict(test=commands).save_to_disk(root / COMMANDS)
    digits = {"train": spoken(WORDS, 9), "test": spoken(WORDS, 2)}
    for split, table in digits.items():
        table["audio"] = [
            {"bytes": encode_audio(c["array"], ".flac"), "path": "x.flac"} for c in table["audio"]
        ]
        (root / "FSDD").mkdir(exist_ok=True)
        table = datasets.Dataset.from_dict(table)
        table.to_parquet(root / "FSDD" / f"{split}.parquet")
    return root


def test_two_tasks_offline_by_the_verb_and_in_the_report(model, data, tmp_path, capsys):
    exp = tmp_path / "exp"
    words = ["evaluate", str(exp), "--model", str(model), "--mteb", COMMANDS, "FSDD"]
    assert main([*words, "--data", str(data)]) == 0
    said = capsys.readouterr().out
    assert f"{COMMANDS}: accuracy " in said and "(local, 30 rows)" in said
    for task, revision in ((COMMANDS, "local, 30 rows"), ("FSDD", "local, 20 rows")):
        result = mteb.TaskResult.from_disk(exp / "mteb" / f"{task}.json")
        assert result.task_name == task and result.dataset_revision == revision
        assert 0 < result.get_score() <= 1 and result.mteb_version == mteb.__version__
    # A tone tells its digit even to an untrained head: the probe hears what the encoder heard.
    assert mteb.TaskResult.from_disk(exp / "mteb/FSDD.json").get_score() > 0.5
    assert "mteb: FSDD" in results_table([exp])
    markdown, page = build_report([exp], tmp_path / "report")
    assert "| FSDD | local, 20 rows |" in markdown.read_text()
    assert "Scored by mteb" in page.read_text()


def test_our_figure_and_mteb_s_agree_to_the_clip(model, data, tmp_path, monkeypatch):
    task = ours.load_task(mteb.get_task(COMMANDS), data / COMMANDS)
    aligner = Aligner.from_pretrained(model)
    read = aligner.encode_text  # the tiny tower knows small letters only
    monkeypatch.setattr(aligner, "encode_text", lambda texts: read([t.lower() for t in texts]))
    hear = aligner.encode_speech  # an untrained head answers alike to all; without its mean, not
    centre = hear([clip(word)["array"] for word in WORDS]).mean(axis=0)
    monkeypatch.setattr(aligner, "encode_speech", lambda *a, **k: unit_rows(hear(*a, **k) - centre))
    agree(aligner, task, tmp_path)


def test_they_agree_on_real_words_with_the_boxed_model(real_data, tmp_path):
    folder = real_data / "gsc_v1_mini"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    try:
        aligner = Aligner.from_pretrained("en-tiny")
        aligner.encode_text(["yes"])
    except UserError as error:
        pytest.skip(f"no boxed model here: {error}")
    clips = [(str(p), n) for n, w in enumerate(WORDS) for p in sorted(folder.glob(f"{w}/*.wav"))]
    table = {"audio": [path for path, _ in clips], "label": [n for _, n in clips]}
    task = mteb.get_task(COMMANDS)
    task.dataset = datasets.DatasetDict(test=datasets.Dataset.from_dict(table))
    task.data_loaded = True
    assert agree(aligner, task, tmp_path) > 0.8


def agree(aligner, task, folder):
    """Score under `gsc_10` and by mteb; every answer must be the same. Gives the accuracy."""
    test = task.dataset["test"]
    result = mteb.evaluate(ours.MtebEncoder(aligner), task, cache=None, prediction_folder=folder)
    told = json.loads((folder / f"{COMMANDS}_predictions.json").read_text())
    theirs = np.asarray(told["default"]["test"]).argmax(axis=1)
    audio = [c if isinstance(c, str) else np.float32(c["array"]) for c in test["audio"]]
    utterances = [
        Utterance(str(n), "", None, labels={"label": WORDS[n_label]})
        for n, n_label in enumerate(test["label"])
    ]
    protocol = load_protocol("gsc_10")
    speech = aligner.encode_speech(audio)
    found = score_zeroshot(speech, utterances, protocol, aligner.encode_text)
    assert [texts[0] for texts in protocol.labels.values()] == task.get_candidate_labels()
    assert protocol.ids == WORDS and len(set(theirs)) > 1
    assert found.ranking[:, 0].tolist() == theirs.tolist()
    (scores,) = result.task_results[0].scores["test"]
    assert scores["accuracy"] == pytest.approx(found.scores["top1"], abs=1e-6)
    return scores["accuracy"]


def test_audio_in_any_form_is_the_same_clip(model, tmp_path):
    encoder, one = ours.MtebEncoder(model), clip("stop")
    wav = one["array"]
    path = tmp_path / "stop.wav"
    path.write_bytes(encode_audio(wav, ".wav"))
    forms = [
        one,
        {"array": wav.tolist(), "sampling_rate": 16000},
        {"array": np.stack([wav, wav]), "sampling_rate": 16000},
        {"bytes": path.read_bytes(), "path": "stop.wav"},
        {"bytes": None, "path": str(path)},
        str(path),
    ]
    want = encoder.model.encode_speech([wav])
    for form in forms:
        np.testing.assert_allclose(encoder._encode_audio([form]), want, atol=2e-3)
    mixed = encoder._encode_audio([one, clip("stop", rate=8000)])
    assert mixed.shape == (2, 24)
    np.testing.assert_allclose(mixed[:1], want, atol=1e-5)


def test_an_audio_column_of_datasets_needs_no_torchcodec(model, tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(encode_audio(clip("yes")["array"], ".flac"))
    table = datasets.Dataset.from_dict({"audio": [str(path)] * 10, "label": list(range(10))})
    task = mteb.get_task(COMMANDS)
    with_feature = table.cast_column("audio", datasets.Audio())
    task.dataset = datasets.DatasetDict(test=with_feature)
    task.data_loaded = True
    (result,) = mteb.evaluate(ours.MtebEncoder(model), task, cache=None).task_results
    assert result.get_score() == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["JLCorpusA2TRetrieval", "JLCorpusT2ARetrieval"])
def test_retrieval_between_speech_and_text(model, tmp_path, name):
    texts = ["carl leaps into a jeep", "dad then put back the cards", "it is finger licking good"]
    heard = datasets.Dataset.from_dict(
        {"id": ["a0", "a1", "a2"], "audio": [clip(text) for text in texts]}
    )
    written = datasets.Dataset.from_dict({"id": ["t0", "t1", "t2"], "text": texts})
    a2t = "A2T" in name
    corpus, queries = (written, heard) if a2t else (heard, written)
    corpus.to_parquet(tmp_path / "corpus.parquet")
    queries.to_parquet(tmp_path / "queries.parquet")
    pairs = zip(queries["id"], corpus["id"], strict=True)
    rows = [{"query-id": q, "corpus-id": c, "score": 1} for q, c in pairs]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "qrels.parquet")
    task = ours.load_task(mteb.get_task(name), tmp_path)
    (result,) = mteb.evaluate(ours.MtebEncoder(model), task, cache=None).task_results
    assert result.get_score() == 1  # hit rate at 5, of three
    assert result.dataset_revision == "local, 6 rows"


def test_audio_and_text_in_one_row_are_their_mean(model):
    encoder = ours.MtebEncoder(model)
    batch = {"audio": [clip("yes")], "text": ["yes"]}
    meta = mteb.get_task("FSDD").metadata
    both = encoder.encode([batch], task_metadata=meta, hf_split="test", hf_subset="default")
    parts = [
        encoder.model.encode_speech([clip("yes")["array"]]),
        encoder.model.encode_text(["yes"]),
    ]
    want = np.mean(parts, axis=0)
    np.testing.assert_allclose(both, want / np.linalg.norm(want), atol=1e-5)


def test_prompts_go_before_the_text_or_around_it(model):
    encoder = ours.MtebEncoder(model, prompts={"FSDD": "the digit {}", "query": "query: "})
    fsdd, other = mteb.get_task("FSDD").metadata, mteb.get_task("JLCorpusT2ARetrieval").metadata
    where = {"hf_split": "test", "hf_subset": "default"}
    found = encoder.encode([{"text": ["one"]}], task_metadata=fsdd, **where)
    np.testing.assert_allclose(found, encoder.model.encode_text(["the digit one"]), atol=1e-6)
    query = mteb.types.PromptType.query
    found = encoder.encode([{"text": ["one"]}], task_metadata=other, prompt_type=query, **where)
    np.testing.assert_allclose(found, encoder.model.encode_text(["query: one"]), atol=1e-6)


def test_folders_named_by_words_are_numbered_as_the_candidates(model, tmp_path):
    for word in WORDS:
        path = tmp_path / "test" / word / f"{word}.wav"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_audio(clip(word)["array"], ".wav"))
    task = ours.load_task(mteb.get_task(COMMANDS), tmp_path)
    test = task.dataset["test"].cast_column("audio", datasets.Audio(decode=False))
    assert len(test) == 10
    for row in test:
        assert WORDS[row["label"]] in row["audio"]["path"].rsplit("/", 1)[-1]
    (tmp_path / "test/go").rename(tmp_path / "test/bed")
    with pytest.raises(UserError, match="label 'bed'.* none of its 10 candidates"):
        ours.load_task(mteb.get_task(COMMANDS), tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mteb", "FSDDD"], r"no task 'FSDDD' \(closest: 'FSDD'\)"),
        (["--mteb", "FSDD"], "mteb/free-spoken-digit-dataset.*cannot be fetched.*give --data DIR"),
        (["--mteb", "FSDD", "--data", "NOWHERE"], "--data .*NOWHERE: no such folder"),
        (["--mteb", "FSDD", "MInDS14", "--data", "DATA"], "no folder MInDS14"),
        (["--mteb", "FSDD", "--data", "EMPTY"], "EMPTY: no dataset"),
        (["--mteb", "SoundingEarthA2IRetrieval.v2", "--data", "DATA"], "image"),
        (["--data", "DATA"], "nothing to score"),
        (["--evals", "a:b", "--data", "DATA"], "--data: holds the tasks of --mteb"),
    ],
)
def test_bad_input_is_one_line(model, data, tmp_path, capsys, words, message):
    (tmp_path / "EMPTY").mkdir()
    places = {"DATA": data, "EMPTY": tmp_path / "EMPTY", "NOWHERE": tmp_path / "NOWHERE"}
    words = [str(places.get(word, word)) for word in words]
    assert main(["evaluate", str(tmp_path / "exp"), "--model", str(model), *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert re.search(message, line), line
    assert not (tmp_path / "exp" / "mteb").exists()


def test_a_split_that_the_folder_lacks_is_one_line(model, data, tmp_path, capsys):
    (tmp_path / "FSDD").mkdir()
    shutil.copy(data / "FSDD/test.parquet", tmp_path / "FSDD")
    words = ["--model", str(model), "--mteb", "FSDD", "--data", str(tmp_path)]
    assert main(["evaluate", str(tmp_path / "exp"), *words]) == 2
    assert "task FSDD: its data cannot be scored: there is no 'train'" in capsys.readouterr().err
    assert not (tmp_path / "exp/mteb").exists()


def in_bytes(words, repeats=1):
    """Clips of words as files in bytes, and their places: a row a clip."""
    table = spoken(words, repeats)
    files = [encode_audio(one["array"], ".flac") for one in table["audio"]]
    table["audio"] = [{"bytes": file, "path": "x.flac"} for file in files]
    return table


def test_a_column_that_the_folder_lacks_is_one_line(model, tmp_path, capsys):
    """A task that asks for columns of its own: the message names the one that is not there."""
    place = tmp_path / "VoxPopuliGenderID"
    place.mkdir()
    datasets.Dataset.from_dict(in_bytes(WORDS)).to_parquet(place / "train.parquet")
    words = ["--model", str(model), "--mteb", place.name, "--data", str(tmp_path)]
    assert main(["evaluate", str(tmp_path / "exp"), *words]) == 2
    assert "not the data of this task: there is no 'gender'" in capsys.readouterr().err


def clustering():
    return {"train": in_bytes(WORDS[:3], 6)}


def pairs():
    clips = in_bytes(WORDS[:3], 4)
    both = [(i, j) for i in range(12) for j in range(i)]
    sides = {f"audio{n + 1}": [clips["audio"][pair[n]] for pair in both] for n in (0, 1)}
    return {"test": {**sides, "label": [int(i // 4 == j // 4) for i, j in both]}}


def several_labels():
    table = in_bytes(WORDS[:3], 20)
    table["labels"] = [[WORDS[n]] for n in table.pop("label")]
    return {"train": table, "test": table}


def reranking():
    clips, ids = in_bytes(WORDS[:3], 4), [f"d{n}" for n in range(12)]
    asked = [0, 4, 8]
    good = [(n, m) for n in asked for m in range(12) if m != n and m // 4 == n // 4]
    others = [[one for one in ids if one != ids[n]] for n in asked]
    return {
        "corpus": {"id": ids, "audio": clips["audio"]},
        "queries": {"id": [f"q{n}" for n in asked], "audio": [clips["audio"][n] for n in asked]},
        "qrels": {"query-id": [f"q{n}" for n, _ in good], "corpus-id": [ids[m] for _, m in good],
                  "score": [1] * len(good)},
        "top_ranked": {"query-id": [f"q{n}" for n in asked], "corpus-ids": others},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "tables"),
    [
        ("VoiceGenderClustering", clustering),
        ("CREMADPairClassification", pairs),
        ("FSD50K", several_labels),
        ("VocalSoundAudioReranking", reranking),
    ],
)
def test_the_other_kinds_of_audio_task(model, tmp_path, task, tables, capsys):
    (tmp_path / task).mkdir()
    for name, table in tables().items():
        datasets.Dataset.from_dict(table).to_parquet(tmp_path / task / f"{name}.parquet")
    words = ["--model", str(model), "--mteb", task, "--data", str(tmp_path)]
    assert main(["evaluate", str(tmp_path / "exp"), *words]) == 0
    # The clips of a word are nearly the same sound, so that any encoder puts them together.
    assert mteb.TaskResult.from_disk(tmp_path / f"exp/mteb/{task}.json").get_score() > 0.8
    assert task in capsys.readouterr().out


def test_a_model_without_audio_is_refused(tiny_text, data, tmp_path, capsys):
    words = ["--model", f"hf:{tiny_text}", "--mteb", "FSDD", "--data", str(data)]
    assert main(["evaluate", str(tmp_path / "exp"), *words]) == 2
    assert "cannot take audio" in capsys.readouterr().err.splitlines()[-1]
