"""The training YAML: strict keys, bases, overrides."""

import pytest

from speechcwcl.errors import UserError
from speechcwcl.training.config import TrainConfig, load_config, parse_overrides


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_base_is_read_first_and_numbers_are_numbers(tmp_path):
    write(tmp_path / "base.yaml", "loss: cwcl\nlr: 1e-3\nepochs: 7\nmax_batch_length: 40\n")
    config = load_config(write(tmp_path / "clip.yaml", "base: base.yaml\nloss: clip\n"))
    assert (config.loss, config.lr, config.epochs) == ("clip", 1e-3, 7)
    assert config.max_batch_length == 40.0
    assert config.batch_size == TrainConfig().batch_size


def test_hyperpyyaml_references_and_overrides_work(tmp_path):
    path = write(tmp_path / "a.yaml", "lr: 0.002\nencoder_lr: !ref <lr>\nfreeze: 2\n")
    config = load_config(path, parse_overrides(["--lr", "5e-4", "--loss={cwcl: 1, cosine: 10}"]))
    assert (config.lr, config.encoder_lr, config.freeze) == (5e-4, 0.002, 2)
    assert config.loss == {"cwcl": 1, "cosine": 10}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "loss: cwcl\nbatchsize: 4\n",
            r"a\.yaml:2: no such key 'batchsize' \(closest: 'batch_size'\)",
        ),
        ("epochs: many\n", r"a\.yaml: epochs: 'many' is not of the kind int"),
        ("epochs: 0\n", r"a\.yaml: epochs: 0 is not a positive whole number"),
        ("schedule: cosin\n", r"a\.yaml: schedule: 'cosin' is none of .*closest: 'cosine'"),
        ("freeze: some\n", r"a\.yaml: freeze: 'some' is none of all, none, or a number"),
        ("lr: [1\n", r"a\.yaml:\d+: not valid YAML"),
        ("- 1\n- 2\n", r"a\.yaml: expected `key: value` lines"),
        ("base: a.yaml\n", r"a\.yaml: the bases of this file go round in a circle"),
        ("base: gone.yaml\n", r"gone\.yaml: cannot read"),
    ],
)
def test_bad_yaml_is_named_by_file_and_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load_config(write(tmp_path / "a.yaml", text))


@pytest.mark.parametrize("words", [["lr", "1"], ["--lr"], ["--lr", "[1"]])
def test_bad_overrides_are_refused(words):
    with pytest.raises(UserError):
        parse_overrides(words)


def test_an_override_of_no_key_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"--epoch: no such key.*closest: 'epochs'"):
        load_config(write(tmp_path / "a.yaml", "loss: clip\n"), {"epoch": 3})
