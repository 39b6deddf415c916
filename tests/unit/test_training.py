"""Training: it learns, it goes on where it was killed, and nothing half-written counts."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from speechcwcl.cli.main import main
from speechcwcl.errors import UserError
from speechcwcl.files import lock
from speechcwcl.models.aligner import Aligner
from speechcwcl.training import dataset
from speechcwcl.training.run import train
from speechcwcl.training.state import WholeCheckpointer

VALID = ["valid_words:mini_words_valid", "valid_sentences:retrieval"]


@pytest.fixture(scope="module")
def dump(mini, tmp_path_factory):
    return mini(tmp_path_factory.mktemp("mini") / "dump")


@pytest.fixture
def config(tmp_path, tiny_speech, tiny_text):
    """A YAML for the tiny towers; returns a function that writes it with some keys changed."""

    def write(**changes):
        values = {
            "speech_encoder": str(tiny_speech), "text_encoder": str(tiny_text), "freeze": "all",
            "frame_stride": 2, "batch_size": 4, "epochs": 3, "threads": 1,
            "projection": {"hidden": [16], "dropout": 0.2}, "feature_mask": {"time": {"count": 2}},
        }  # fmt: skip
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(values | changes), encoding="utf-8")
        return tmp_path / "train.yaml"

    return write


def words(config, dump, expdir):
    return [
        "train", str(config), "--train", str(dump / "train/manifest.jsonl"), "--valid", *VALID,
        "--dumpdir", str(dump), "--expdir", str(expdir), "--device", "cpu",
    ]  # fmt: skip


def averaged(expdir):
    assert main(["average", str(expdir), "--best", "1"]) == 0
    return Aligner.from_pretrained(expdir / "model")


def copied(dump, tmp_path):
    """Manifests that a test may change."""
    return shutil.copytree(dump, tmp_path / "dump", ignore=shutil.ignore_patterns("feats"))


def change_training(dump, change):
    """Write the training manifest anew, after `change(its utterances)`; return how many."""
    path = dump / "train/manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return len(lines)


def latest(expdir):
    """Weights of the last epoch's checkpoint."""
    found = WholeCheckpointer(expdir / "checkpoints").find_checkpoint()
    return torch.load(found.paramfiles["speech"], weights_only=True), found.meta["epoch"]


def metrics(expdir):
    return [json.loads(line) for line in (expdir / "metrics.jsonl").read_text().splitlines()]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("changes", [{}, {"freeze": 1}, {"freeze": "none", "feature_mask": None}])
def test_the_loss_falls_whatever_is_frozen(config, dump, tmp_path, changes):
    expdir = tmp_path / "exp"
    settings = {"epochs": 10, "lr": 1e-2, "batch_size": 16, "projection": {"hidden": [32]}}
    assert main(words(config(**settings | changes), dump, expdir)) == 0
    lines = metrics(expdir)
    assert [line["epoch"] for line in lines] == list(range(1, 11))
    assert lines[-1]["train"]["loss"] < 0.95 * lines[0]["train"]["loss"]
    assert {"cwcl", "cl"} <= set(lines[0]["train"])
    assert lines[0]["valid"].keys() == {"score", *VALID}


def test_a_batch_passes_through_few_files(config, dump, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    walk = importlib.import_module("walk").walk
    found = walk(words(config(epochs=1), dump, tmp_path / "exp"), batch=True)
    assert "losses/kernel.py" in found.calls and "cache/features.py" in found.calls
    assert len(found.calls) <= 12, list(found.calls)


def test_a_fully_trained_encoder_moves_and_a_frozen_one_does_not(config, dump, tmp_path):
    before = Aligner.build(
        yaml.safe_load(config().read_text())["speech_encoder"],
        yaml.safe_load(config().read_text())["text_encoder"],
    ).state_dict()
    for freeze, moves in (("all", False), ("none", True)):
        changes = {"freeze": freeze, "feature_mask": None, "epochs": 1}
        assert main(words(config(**changes), dump, tmp_path / freeze)) == 0
        after, _ = latest(tmp_path / freeze)
        name = "speech_encoder.model.layers.1.fc1.weight"
        moved = not torch.equal(before[name], after[f"aligner.{name}"])
        assert moved == moves


def test_other_settings_do_not_go_on_with_an_old_run(config, dump, tmp_path, capsys):
    expdir = tmp_path / "exp"
    assert main(words(config(epochs=1), dump, expdir)) == 0
    before, _ = latest(expdir)
    assert main(words(config(epochs=1, lr=5e-4, loss="clip"), dump, expdir)) == 2
    message = capsys.readouterr().err
    assert "loss: 'cwcl_matched', now 'clip'" in message and "--tag" in message
    assert same(latest(expdir)[0], before)
    assert main(words(config(epochs=2), dump, expdir)) == 0  # longer is the same run
    assert latest(expdir)[1] == 2


def change_manifest(dump, name):
    path = dump / name / "manifest.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")


def change_protocol(own):
    own.write_text(own.read_text().replace('jump: "jump"', 'jump: "leap"'))


# what changes between two runs in one folder -> what the refusal must name
INPUTS = {
    "another training set": r"training set: .*dump/train/manifest\.jsonl, now .*other/train/man",
    "the training set edited": r"training set: .*train/manifest\.jsonl, whose content is another",
    "a validation set edited": r"validation set valid_words: .*whose content is another one now",
    "another protocol": r"protocol of valid_words: .*own\.yaml, whose content is another one now",
    "another validation": r"validation set valid_sentences: .*, now none",
    "the encoder's weights": r"speech encoder: .*, whose content is another one now",
}


@pytest.mark.parametrize("changed", INPUTS)
def test_a_run_goes_on_with_its_own_data_only(
    changed, config, dump, tmp_path, tiny_speech, capsys, repository
):
    ours = copied(dump, tmp_path)
    speech = shutil.copytree(tiny_speech, tmp_path / "speech")
    own = tmp_path / "own.yaml"
    own.write_text((repository / "speechcwcl/zeroshot/protocols/mini_words_valid.yaml").read_text())
    asked = words(config(epochs=1, speech_encoder=str(speech)), ours, tmp_path / "exp")
    asked[asked.index(VALID[0])] = f"valid_words:{own}"
    assert main(asked) == 0
    before, _ = latest(tmp_path / "exp")
    capsys.readouterr()

    assert main(asked) == 0
    assert "1 epochs are done and 1 are asked for; nothing left to train" in capsys.readouterr().out
    if changed == "another training set":
        shutil.copytree(dump / "train", tmp_path / "other/train")
        change_manifest(tmp_path / "other", "train")
        asked[asked.index("--train") + 1] = str(tmp_path / "other/train/manifest.jsonl")
    elif changed.endswith("set edited"):
        change_manifest(ours, "train" if "training" in changed else "valid_words")
    elif changed == "another protocol":
        change_protocol(own)
    elif changed == "another validation":
        asked.remove(VALID[1])
    else:
        weights = safetensors.torch.load_file(speech / "model.safetensors")
        name = next(name for name in weights if "encoder.layers.0.fc1.weight" in name)
        weights[name] += 1
        safetensors.torch.save_file(weights, speech / "model.safetensors", {"format": "pt"})
    for epochs in ("1", "2"):
        assert main([*asked, "--epochs", epochs]) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert re.search(INPUTS[changed], message) and "--tag NAME" in message, message
    assert same(latest(tmp_path / "exp")[0], before)


def test_training_from_python(config, dump, tmp_path):
    keys = yaml.safe_load(config(epochs=1).read_text())
    manifest = dump / "train/manifest.jsonl"
    run = train(keys, train=manifest, valid=VALID, expdir=tmp_path / "exp", device="cpu", epochs=2)
    assert [line["epoch"] for line in run.metrics] == [1, 2] and run.folder == tmp_path / "exp"
    assert set(run.metrics[0]["valid"]) == {"score", *VALID}
    model = run.model()
    assert model.embed_speech(torch.randn(1, 16000), torch.tensor([16000])).shape == (1, 24)
    with pytest.raises(UserError, match=r"no such key.* \(closest: 'epochs'\)"):
        train(keys | {"epoch": 1}, train=manifest, expdir=tmp_path / "other")


def test_embeddings_of_another_model_or_manifest_are_not_scored(config, dump, tmp_path, capsys):
    ours = copied(dump, tmp_path)
    exp = tmp_path / "exp"
    embed = ["embed-speech", str(exp), "--sets", "valid_words", "--dumpdir", str(ours)]
    score = ["evaluate", str(exp), "--evals", "valid_words:retrieval", "--dumpdir", str(ours)]
    for epochs in (1, 2):  # the second time the model is another one
        assert main(words(config(epochs=epochs), ours, exp)) == 0
        averaged(exp)
        if epochs == 2:
            assert main(score) == 2
            assert "embeddings are of another model; run `speechcwcl" in capsys.readouterr().err
        assert main(embed) == 0 and main(score) == 0
    change_manifest(ours, "valid_words")
    assert main(score) == 2
    assert "embeddings are of another manifest; run `speechcwcl" in capsys.readouterr().err
    (exp / "eval/valid_words/inputs.json").unlink()  # as in a folder of an older version
    assert main(score) == 2
    assert "embeddings are of another manifest; run `speechcwcl" in capsys.readouterr().err


def test_without_a_validation_the_latest_checkpoint_is_the_best(config, dump, tmp_path):
    run = train(config(), train=dump / "train/manifest.jsonl", expdir=tmp_path / "e", device="cpu")
    model, (last, _) = run.model().state_dict(), latest(tmp_path / "e")
    learned = [name for name in model if name.startswith(("pooling", "projection", "head"))]
    assert learned and all(torch.equal(model[n], last[f"aligner.{n}"]) for n in learned)


def test_one_training_at_a_time_in_a_folder(config, dump, tmp_path, capsys):
    expdir = tmp_path / "exp"
    assert main(words(config(epochs=1), dump, expdir)) == 0
    with lock(expdir / ".lock"):
        assert main(words(config(epochs=2), dump, expdir)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{expdir}: another training is running in this folder (process {os.getpid()}" in error
    assert main(words(config(epochs=2), dump, expdir)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "precision: fp16 needs a GPU; on a CPU use bf16 or fp32"),
        ({"device": "cuda:0"}, "--device cuda:0: "),
        ({"device": "tpu"}, "--device tpu: "),
    ],
)
def test_a_device_that_cannot_do_it_is_one_line(config, dump, tmp_path, changes, message, capsys):
    if changes.get("device") == "cuda:0" and torch.cuda.is_available():
        pytest.skip("there is one")
    device = changes.pop("device", "cpu")
    asked = words(config(**changes), dump, tmp_path / "exp")
    asked[asked.index("--device") + 1] = device
    assert main(asked) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1] and not (tmp_path / "exp/checkpoints").exists()


@pytest.mark.parametrize("has", [True, False])
def test_a_slow_precision_is_said(config, dump, tmp_path, has, capsys, monkeypatch):
    monkeypatch.setattr("speechcwcl.training.run.has_bf16", lambda: has)
    assert main(words(config(precision="bf16", epochs=1), dump, tmp_path / "exp")) == 0
    assert ("bf16 is many times slower" in capsys.readouterr().out) is not has


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_clip_is_one_line(config, dump, tmp_path, workers, capsys):
    ours = copied(dump, tmp_path)
    (tmp_path / "bad.wav").write_bytes(b"RIFF no such thing")
    change_training(ours, lambda lines: lines[5].update(audio=str(tmp_path / "bad.wav")))
    changes = {"freeze": "none", "feature_mask": None, "num_workers": workers}
    assert main(words(config(**changes), ours, tmp_path / "exp")) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("speechcwcl train: ") and "bad.wav" in error
    assert "Traceback" not in error and "DataLoader" not in error


@pytest.mark.parametrize(("same", "code"), [(1.0, 2), (0.7, 0), (0.3, 0)])
def test_one_and_the_same_text_is_said_before_training(config, dump, tmp_path, same, code, capsys):
    ours = copied(dump, tmp_path)

    def repeat(lines):
        for number, line in enumerate(lines):
            line["text"] = "_" if number < same * len(lines) else f"text {number}"

    count = change_training(ours, repeat)
    assert main(words(config(epochs=1), ours, tmp_path / "exp")) == code
    found = capsys.readouterr()
    if code:
        assert f"all {count} utterances have the text '_'" in found.err.splitlines()[-1]
        assert not list((tmp_path / "dump/train").glob("feats/*"))  # before anything heavy
    assert ("have the same text, '_'" in found.out) == (same == 0.7)


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(config, dump, tmp_path):
    noise = {"augment_copies": 1, "augment": {"noise": {"prob": 1.0}}}
    path = config(ckpt_interval_steps=1, **noise, loss_options={"diagnostics_every": 2})
    assert main(words(path, dump, tmp_path / "whole")) == 0
    expected, _ = latest(tmp_path / "whole")

    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "speechcwcl.cli.main", *words(path, dump, killed)]
    kills = 0
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        kills += kill_after_a_new_checkpoint(process, killed / "checkpoints")
    assert kills > 0
    assert main(words(path, dump, killed)) == 0
    found, epoch = latest(killed)
    assert epoch == 3
    assert same(found, expected)
    lines = [metrics(tmp_path / name) for name in ("whole", "killed")]
    assert len(lines[0]) == 3
    assert {"w_std", "cosine", "loss"} <= set(lines[0][0]["train"])
    # the loss and what is logged beside it, which is taken on some steps only; the scores
    assert [line | {"seconds": 0} for line in lines[0]] == [x | {"seconds": 0} for x in lines[1]]


def kill_after_a_new_checkpoint(process, folder):
    """kill -9 as soon as there is one checkpoint more than now; 0 if the run ended before."""
    before = set(folder.glob("*/CKPT.yaml")) if folder.exists() else set()
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        if folder.exists() and set(folder.glob("*/CKPT.yaml")) - before:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return 1
        time.sleep(0.002)
    process.wait()
    return 0


def test_cached_gradients_give_the_same_run(config, dump, tmp_path):
    plain = {"projection": {"hidden": [16], "dropout": 0.0}, "feature_mask": None, "batch_size": 8}
    assert main(words(config(**plain), dump, tmp_path / "a")) == 0
    assert main(words(config(**plain, grad_cache_chunk=3), dump, tmp_path / "b")) == 0
    wav, lengths = torch.randn(3, 16000), torch.tensor([16000, 9000, 5000])
    # Outputs, not weights: Adam blows the rounding of gradients that are zero (the bias of the
    # attention scores) up to whole steps.
    with torch.no_grad():
        first, second = (averaged(tmp_path / name).embed_speech(wav, lengths) for name in "ab")
    assert torch.allclose(first, second, atol=1e-4)


def test_a_text_bank_is_one_line(config, dump, tmp_path):
    assert main(words(config(text_bank=True, epochs=1), dump, tmp_path / "exp")) == 0
    assert averaged(tmp_path / "exp").state_dict()


def test_more_processes_than_batches_is_one_clear_line(config, dump, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dataset, "world_size", lambda: 2)
    assert main(words(config(batch_size=100), dump, tmp_path / "exp")) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "1 batch(es) an epoch are too few for 2 processes" in message
    assert "set batch_size (now 100) lower" in message


def test_a_run_starts_from_a_trained_model(config, dump, tmp_path, capsys):
    assert main(words(config(), dump, tmp_path / "first")) == 0
    first = averaged(tmp_path / "first")
    trained = str(tmp_path / "first/model")
    further = config(init_model=trained, freeze=1, lr=1e-9, epochs=1)
    assert main(words(further, dump, tmp_path / "further")) == 0
    second = averaged(tmp_path / "further")
    sound = [torch.sin(torch.arange(9000) / 20)]
    torch.testing.assert_close(
        second.encode_speech(sound), first.encode_speech(sound), rtol=0, atol=1e-4
    )
    inputs = json.loads((tmp_path / "further/inputs.json").read_text())
    assert inputs["initial model"] == {"path": trained, "hash": first.identity}
    capsys.readouterr()
    other = config(init_model=trained, projection={"hidden": [8]})
    assert main(words(other, dump, tmp_path / "other")) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(rf"speechcwcl train: init_model: {trained}: tensor .* expected .*\n", said)
    assert not (tmp_path / "other/checkpoints").exists()
    assert main(words(config(init_model=trained, text_pooling="max"), dump, tmp_path / "max")) == 2
    assert "trained against another text encoder" in capsys.readouterr().err


def test_each_output_of_a_head_learns_by_its_own_loss(config, dump, tmp_path, capsys):
    two = {"projection": {"hidden": [16], "outputs": 2}, "loss": ["clip", {"cosine": 2}]}
    for key in two:
        code = main(words(config(**{key: two[key]}), dump, tmp_path / key))
        assert code == 2 and "give a list with one loss" in capsys.readouterr().err
    assert main(words(config(**two), dump, tmp_path / "two")) == 0
    assert {"loss", "clip", "cosine_2"} <= set(metrics(tmp_path / "two")[0]["train"])
    embed, clip = averaged(tmp_path / "two").embed_speech, torch.randn(1, 16000)
    apart, mean = (embed(clip, torch.tensor([16000]), apart=a).detach() for a in (True, False))
    torch.testing.assert_close(mean, torch.nn.functional.normalize(apart[:, :2].sum(1), dim=1))
