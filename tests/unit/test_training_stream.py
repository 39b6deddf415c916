"""Training from a stream: end to end, resumed, shared out; nothing of the audio on the disk."""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from stream_sets import KINDS, WORDS, make_set, web_server
from test_training import kill_after_a_new_checkpoint, latest, same

from speechcwcl.cli.main import main
from speechcwcl.data.stream_spec import StreamSpec, write_stream
from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner
from speechcwcl.training import stream
from speechcwcl.training.config import TrainConfig
from speechcwcl.training.dataset import Batch
from speechcwcl.training.run import check_workers
from speechcwcl.training.stream import StreamLoader, StreamSet, TextMemory, text_number


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    files = make_set(root)
    for kind in KINDS:
        place = {"shards": [str(root / kind)]} if kind == "shards" else {"folder": str(root / kind)}
        write_stream(root / f"{kind}.json", StreamSpec(**place, shuffle=8))
    return root, files


@pytest.fixture
def run(tmp_path, tiny_speech, tiny_text, made):
    """Train from a stream; returns the exit code."""

    def words(stream_json, expdir, **changes):
        values = {
            "speech_encoder": str(tiny_speech), "text_encoder": str(tiny_text), "freeze": "all",
            "frame_stride": 2, "batch_size": 4, "epochs": 2, "steps_per_epoch": 5, "threads": 1,
            "projection": {"hidden": [16], "dropout": 0.2},
        }  # fmt: skip
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
        return [
            "train", str(path), "--train", str(stream_json), "--valid", "train:retrieval",
            "--dumpdir", str(made[0] / "dump"), "--expdir", str(expdir), "--device", "cpu",
        ]  # fmt: skip

    def train(stream_json, expdir, **changes):
        return main(words(stream_json, expdir, **changes))

    train.words = words
    return train


def lines(expdir):
    return [json.loads(line) for line in (expdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("parquet", {"freeze": "all", "feature_mask": {"time": {"count": 2}}}),
        ("folder", {"freeze": 1, "grad_accumulation": 2, "num_buckets": 2}),
        ("shards", {"freeze": "none", "grad_cache_chunk": 2, "max_batch_length": 2.0}),
        ("web", {"augment": {"noise": {"prob": 1.0}}, "num_workers": 2, "center_text": True}),
    ],
)
def test_the_loss_falls_from_every_kind_of_stream(made, run, tmp_path, kind, changes, capsys):
    expdir = tmp_path / "exp"
    settings = {"lr": 1e-2, "epochs": 6, "batch_size": 8, "projection": {"hidden": [32]}}
    with web_server(made[0] / "shards") as address:
        url = address + "/shard-00000{0..4}.tar"
        write_stream(tmp_path / "web.json", StreamSpec(shards=[url], shuffle=16))
        where = (tmp_path if kind == "web" else made[0]) / f"{kind}.json"
        assert run(where, expdir, **settings | changes) == 0
    epochs = lines(expdir)
    assert [line["step"] for line in epochs] == [5, 10, 15, 20, 25, 30]
    assert epochs[-1]["train"]["loss"] < 0.95 * epochs[0]["train"]["loss"]
    frozen = changes.get("freeze", "all") != "none"
    assert ("the frozen part runs in the loop" in capsys.readouterr().out) == frozen
    assert main(["average", str(expdir), "--best", "1"]) == 0
    assert Aligner.from_pretrained(expdir / "model").dim == 24


@pytest.mark.parametrize("kind", ["parquet", "shards"])
def test_nothing_of_the_audio_is_written(made, run, tmp_path, kind, monkeypatch, request):
    """Looks through every new file, of temporary folders and caches too, for a piece of a clip."""
    run(made[0] / f"{kind}.json", tmp_path / "first", epochs=1)  # the validation set's cache
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    # short: the workers' sockets lie in it, and the name of a socket has at most 107 characters
    temporary = Path(tempfile.mkdtemp(prefix="cw-"))
    request.addfinalizer(functools.partial(shutil.rmtree, temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.chdir(tmp_path)
    roots = (tmp_path, made[0], temporary)
    before = {path for root in roots for path in root.rglob("*")}
    command = [sys.executable, "-m", "speechcwcl.cli.main"]
    words = run.words(made[0] / f"{kind}.json", tmp_path / "exp", epochs=1, num_workers=1)
    subprocess.run([*command, *words], check=True, capture_output=True)
    new = [p for root in roots for p in root.rglob("*") if p not in before]
    new = [path for path in new if path.is_file()]
    assert any(path.suffix == ".ckpt" for path in new)
    pieces = [path.read_bytes()[500:600] for path in made[1]]
    for path in new:
        data = path.read_bytes()
        assert not any(piece in data for piece in pieces), path
        assert path.suffix not in (".wav", ".flac", ".npy", ".arrow", ".parquet", ".tar"), path


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("parquet", {"ckpt_interval_steps": 1, "num_workers": 1}),
        ("shards", {"ckpt_interval_steps": 3, "num_workers": 2}),
    ],
)
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    made, run, tmp_path, kind, changes
):
    changes = {"augment": {"noise": {"prob": 1.0}}, "epochs": 3, "center_text": True, **changes}
    path = made[0] / f"{kind}.json"
    assert run(path, tmp_path / "whole", **changes) == 0
    expected, _ = latest(tmp_path / "whole")
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "speechcwcl.cli.main", *run.words(path, killed, **changes)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert kill_after_a_new_checkpoint(process, killed / "checkpoints") == 1
    assert run(path, killed, **changes) == 0
    found, epoch = latest(killed)
    assert epoch == 3 and same(found, expected)
    losses = [[line["train"]["loss"] for line in lines(tmp_path / n)] for n in ("whole", "killed")]
    assert losses[0] == losses[1]


def config(**changes):
    return TrainConfig(**{"batch_size": 3, "steps_per_epoch": 1, "num_buckets": 2} | changes)


def stream_set(made, kind, steps=1, workers=0, **ranks):
    place = str(made[0] / kind)
    spec = StreamSpec(
        shards=[place] if kind == "shards" else [],
        folder="" if kind == "shards" else place,
        shuffle=6,
    )
    return StreamSet(spec, config(steps_per_epoch=steps, num_workers=workers), **ranks)


def batches_of(dataset):
    return list(StreamLoader(dataset, dataset.config))


def first_pass(dataset, worker):
    """Texts of a worker's first pass over its share."""
    texts = []
    for _, place, batch in dataset._batches(worker):
        texts += batch.texts
        if place[0] == 1:
            return texts
    raise AssertionError("a stream has no end")


@pytest.mark.parametrize(("kind", "workers"), [("parquet", 0), ("shards", 2), ("folder", 2)])
def test_workers_share_a_pass_out(made, kind, workers):
    """Every clip once, then all of them again; no batch of one."""
    batches = batches_of(stream_set(made, kind, 60, workers))
    assert len(batches) == 60 and min(len(batch.rows) for batch in batches) > 1
    seen, number = Counter(), max(1, workers)
    for worker in range(number):
        texts = [text for batch in batches[worker::number] for text in batch.texts]
        share = Counter(first_pass(stream_set(made, kind, 60, workers), worker))
        size = share.total()
        assert Counter(texts[:size]) == share and Counter(texts[size : 2 * size]) == share
        seen += share
    assert seen == Counter(WORDS)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_in_two_parts_is_the_same_epoch(made, workers):
    def same_batches(one, other):
        return all(
            torch.equal(a.inputs, b.inputs) and a.texts == b.texts
            for a, b in zip(one, other, strict=True)
        )

    dataset = stream_set(made, "shards", 20, workers)
    whole = batches_of(dataset)
    half = stream_set(made, "shards", 20, workers)
    start = [batch for _, batch in zip(range(7), StreamLoader(half, half.config), strict=False)]
    assert same_batches(start, whole[:7])
    rest = stream_set(made, "shards", 20, workers)
    rest.given, rest.places = half.given, half.places
    found = batches_of(rest)
    assert len(found) == 13 and same_batches(found, whole[7:])
    assert not same_batches(batches_of(dataset), whole), "the next epoch goes on"


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_a_pass_out(made, workers):
    texts = Counter()
    for rank in range(3):
        dataset = stream_set(made, "shards", workers=workers, rank=rank, ranks=3)
        for worker in range(dataset.workers):
            texts.update(first_pass(dataset, worker))
    assert texts == Counter(WORDS)  # five shards: for six readers, two of them share one


def test_what_turns_out_broken_when_decoded_is_passed_over(made, monkeypatch, capsys):
    """A fault in the middle of a file, which its header and end do not show."""
    dataset = stream_set(made, "shards")
    real = stream.StreamClip.load

    def load(clip):
        if clip.text == "six":
            raise UserError(f"{clip.name}: corrupt")
        return real(clip)

    monkeypatch.setattr(stream.StreamClip, "load", load)
    with pytest.raises(UserError, match="corrupt .*skips such"):
        first_pass(dataset, 0)
    dataset.spec.skip_bad = True
    # one that is left alone by it has nothing to be contrasted with, and goes too
    assert len(WORDS) - 2 <= len(first_pass(dataset, 0)) < len(WORDS)
    assert "corrupt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps_per_epoch": None}, "steps_per_epoch: the length of a stream is not known"),
        ({"steps_per_epoch": 0}, "steps_per_epoch: 0 is not greater than or equal to 1"),
        ({"text_bank": True}, "text_bank: holds every training text"),
        ({"augment_copies": 1, "augment": {"gain": True}}, "augment_copies and augment_share"),
        ({"freeze": "none", "feature_mask": {"time": {}}}, "feature_mask: masks frozen features"),
    ],
)
def test_what_a_stream_cannot_do_is_one_line(made, run, tmp_path, capsys, changes, message):
    assert run(made[0] / "parquet.json", tmp_path / "exp", **changes) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (tmp_path / "exp/metrics.jsonl").exists()


def test_a_broken_clip_is_one_line_also_from_a_worker(made, run, tmp_path, capsys):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x.flac").write_bytes(made[1][0].read_bytes()[:4000])
    (tmp_path / "d/metadata.csv").write_text("file_name,text\nx.flac,hello\n")
    write_stream(tmp_path / "stream.json", StreamSpec(folder=str(tmp_path / "d")))
    assert run(tmp_path / "stream.json", tmp_path / "exp", num_workers=1) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "x.flac: " in error and "skips such" in error and "Traceback" not in error


def test_a_manifest_takes_no_steps_per_epoch(made, run, tmp_path, capsys):
    manifest = made[0] / "dump/train/manifest.jsonl"
    assert run(manifest, tmp_path / "exp") == 2
    assert "steps_per_epoch: for a stream only" in capsys.readouterr().err


def test_another_stream_or_number_of_workers_does_not_go_on(made, run, tmp_path, capsys):
    path, expdir = tmp_path / "stream.json", tmp_path / "exp"
    spec = StreamSpec(folder=str(made[0] / "folder"), shuffle=8)
    write_stream(path, spec)
    assert run(path, expdir, epochs=1) == 0
    assert run(path, expdir, epochs=2, num_workers=2) == 2
    assert "began with 1 on each of 1 process(es)" in capsys.readouterr().err
    spec.shuffle = 9
    write_stream(path, spec)
    assert run(path, expdir, epochs=2) == 2
    assert "stream.json, whose content is another one now" in capsys.readouterr().err


def test_centring_takes_the_first_texts(made, run, tmp_path, tiny_text, capsys, monkeypatch):
    monkeypatch.setattr(stream, "CENTER_TEXTS", 9)
    assert run(made[0] / "shards.json", tmp_path / "exp", epochs=1, center_text=True) == 0
    assert "the mean of the first 9 unique texts" in capsys.readouterr().out
    assert main(["average", str(tmp_path / "exp"), "--best", "1"]) == 0
    model = Aligner.from_pretrained(tmp_path / "exp/model")
    centre = model.text_mean.clone()
    dataset = StreamSet(StreamSpec(shards=[str(made[0] / "shards")]), config())
    reader = stream.StreamReader(dataset.spec, 0, 1, block=2, ahead=0, seed=1)
    texts = list(dict.fromkeys(clip.text for _, clip in reader.rows()))[:9]
    expected = model.text_encoder.encode(texts).mean(axis=0)
    assert float(centre.norm()) > 0.1 and np.allclose(centre, expected, atol=1e-6)


def test_texts_are_remembered_within_bounds(tiny_speech, tiny_text, monkeypatch):
    model = Aligner.build(tiny_speech, tiny_text)
    memory = TextMemory(model, limit=3 * 4 * model.dim)
    asked = []
    encoder = model.text_encoder
    real = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda t, **o: asked.append(t) or real(t, **o))

    def embed(*texts):
        rows = torch.tensor([text_number(text) for text in texts])
        return memory(Batch(torch.zeros(len(texts), 1), rows, rows, False, list(texts)), "cpu")

    found = embed("on", "off", "on", "up", "down")
    assert torch.equal(found[0], found[2]) and len(memory.known) == 3
    assert np.allclose(found, model.encode_text(["on", "off", "on", "up", "down"]), atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        memory.clear()
        assert torch.equal(embed("on", "off", "on", "up", "down"), found), "in full precision"
    asked.clear()
    embed("down", "up", "on")
    assert asked == [], "the latest are known"
    embed("off")
    embed("down")
    assert asked == [["off"], ["down"]], "what was not asked for longest made room"
    assert text_number("on") == text_number("on") != text_number("off") >= 0


@pytest.mark.slow
def test_two_processes_train_one_model_from_a_stream(made, run, tmp_path):
    """And go on after an end of an epoch, each at its own place."""

    def torchrun(expdir, epochs):
        plain = {
            "projection": {"hidden": [16], "dropout": 0.2},  # each rank draws its own
            "schedule": "constant",
            "warmup": 0.0,
        }
        words = run.words(made[0] / "shards.json", expdir, epochs=epochs, num_workers=1, **plain)
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
             "2", "-m", "speechcwcl.cli.main", *words[:-2]],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]

    torchrun(tmp_path / "whole", 2)
    assert [line["step"] for line in lines(tmp_path / "whole")] == [5, 10]
    torchrun(tmp_path / "parts", 1)
    torchrun(tmp_path / "parts", 2)
    (state,) = [json.loads(p.read_text()) for p in (tmp_path / "parts").rglob("stream.ckpt")][-1:]
    assert state["readers"] == [2, 1] and state["places"][0] != state["places"][1]
    first, second = (lines(tmp_path / name)[1]["train"]["loss"] for name in ("whole", "parts"))
    assert first == second
    assert same(latest(tmp_path / "whole")[0], latest(tmp_path / "parts")[0])


def test_workers_that_could_not_hand_over_a_batch_are_refused(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "x" * 71)
    check_workers(TrainConfig(num_workers=0))
    with pytest.raises(UserError, match="set TMPDIR to a folder whose name has at most 75"):
        check_workers(TrainConfig(num_workers=1))
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "x" * 70)
    check_workers(TrainConfig(num_workers=1))
