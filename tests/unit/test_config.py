"""The training YAML: strict keys, bases, overrides."""

import re

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


def test_anchors_and_overrides_work(tmp_path):
    path = write(tmp_path / "a.yaml", "lr: &lr 0.002\nencoder_lr: *lr\nfreeze: 2\n")
    config = load_config(path, parse_overrides(["--lr", "5e-4", "--loss={cwcl: 1, cosine: 10}"]))
    assert (config.lr, config.encoder_lr, config.freeze) == (5e-4, 0.002, 2)
    assert config.loss == {"cwcl": 1, "cosine": 10}


def test_nothing_in_a_training_yaml_runs(tmp_path):
    path = write(tmp_path / "a.yaml", f"epochs: 1\nlr: !apply:os.system [touch {tmp_path}/pwned]\n")
    with pytest.raises(UserError, match=r"a\.yaml:2: the tag '!apply:os\.system'"):
        load_config(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss: cwcl\nbatchsize: 4\n", "a.yaml:2: no such key 'batchsize' (closest: 'batch_size')"),
        ("epochs: many\n", "a.yaml:1: epochs: 'many' is no whole number"),
        ("epochs: 0\n", "a.yaml:1: epochs: 0 is not greater than or equal to 1"),
        ("epochs: 1.5\n", "a.yaml:1: epochs: 1.5 is no whole number"),
        ("epochs: true\n", "a.yaml:1: epochs: True is no whole number"),
        ("schedule: cosin\n", "a.yaml:1: schedule: 'cosin' is none of cosine, linear, constant "
         "(closest: 'cosine')"),
        ("freeze: some\n", "a.yaml:1: freeze: 'some' is none of all, none, or a number of layers"),
        ("freeze: true\n", "a.yaml:1: freeze: True is none of all, none, or a number of layers"),
        ("lr: -1\n", "a.yaml:1: lr: -1 is not greater than 0"),
        ("num_workers: 100000\n", "a.yaml:1: num_workers: 100000 is not"),
        ("threads: 10000000\n", "a.yaml:1: threads: 10000000 is not"),
        ("lr: 0\n", "a.yaml:1: lr: 0 is not greater than 0"),
        ("lr: .nan\n", "a.yaml:1: lr: nan is not a finite number"),
        ("lr: .inf\n", "a.yaml:1: lr: inf is not a finite number"),
        ("lr: 1e999\n", "a.yaml:1: lr: inf is not a finite number"),
        ("encoder_lr: -1e-5\n", "a.yaml:1: encoder_lr: -1e-05 is not greater than 0"),
        ("weight_decay: -1\n", "a.yaml:1: weight_decay: -1 is not greater than or equal to 0"),
        ("betas: [0.9, 1.0]\n", "a.yaml:1: betas.1: 1.0 is not less than 1"),
        ("betas: [0.9]\n", "a.yaml:1: betas: [0.9] (List should have at least 2 items"),
        ("betas: 0.9\n", "a.yaml:1: betas: 0.9 is no list"),
        ("seed: 1e30\n", "a.yaml:1: seed: 1e+30 is no whole number"),
        ("seed: -1\n", "a.yaml:1: seed: -1 is not greater than or equal to 0"),
        ("seed: 100000000000000000000\n", "a.yaml:1: seed: 100000000000000000000 is not less than"),
        ("augment_copies: -1\n", "a.yaml:1: augment_copies: -1 is not greater than or equal to 0"),
        ("augment_share: 1.5\n", "a.yaml:1: augment_share: 1.5 is not less than or equal to 1"),
        ("warmup: -0.1\n", "a.yaml:1: warmup: -0.1 is not greater than or equal to 0"),
        ("num_workers: -2\n", "a.yaml:1: num_workers: -2 is not greater than or equal to 0"),
        ("threads: 0\n", "a.yaml:1: threads: 0 is not greater than or equal to 1"),
        ("max_grad_norm: -1\n", "a.yaml:1: max_grad_norm: -1 is not greater than 0"),
        ("max_grad_norm: 0\n", "a.yaml:1: max_grad_norm: 0 is not greater than 0"),
        ("projection: {dropout: 1}\n", "a.yaml:1: projection: dropout: 1 is not a share from 0"),
        ("pooling_options:\n  context: {dropout: -1}\n", "pooling_options: dropout: -1 is not a"),
        ("lora: {r: 2, lora_dropout: .nan}\n", "a.yaml:1: lora: lora_dropout: nan is not a share"),
        ("feature_mask: {tme: {count: 1}}\n", "feature_mask.tme: 'tme' is none of time, dim (cl"),
        ("feature_mask: {time: {wide: 1}}\n", "a.yaml:1: no such key 'feature_mask.time.wide'"),
        ("center_text: yes\n", "a.yaml:1: center_text: 'yes' is no boolean"),
        ("lr: -1\nepochs: 0\n", "a.yaml:2: epochs: 0 is not greater than or equal to 1\n"),
        ("lr: [1\n", "not valid YAML"),
        ("- 1\n- 2\n", "a.yaml: expected `key: value` lines"),
        ("base: a.yaml\n", "a.yaml: the bases of this file form a circle"),
        ("base: gone.yaml\n", "gone.yaml: cannot read"),
    ],
)  # fmt: skip
def test_bad_yaml_is_named_by_file_and_line(tmp_path, text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load_config(write(tmp_path / "a.yaml", text))


def test_no_clipping_and_a_mask_are_settings():
    config = load_config({"max_grad_norm": None, "feature_mask": {"time": {"count": 2}}})
    assert config.max_grad_norm is None
    assert config.as_dict()["feature_mask"] == {"time": {"count": 2}}
    assert load_config(config.as_dict()) == config


@pytest.mark.parametrize("words", [["lr", "1"], ["--lr"], ["--lr", "[1"]])
def test_bad_overrides_are_refused(words):
    with pytest.raises(UserError):
        parse_overrides(words)


def test_an_override_of_no_key_names_the_nearest(tmp_path):
    path = write(tmp_path / "a.yaml", "loss: clip\n")
    with pytest.raises(UserError, match=r"--epoch: no such key 'epoch' \(closest: 'epochs'\)"):
        load_config(path, {"epoch": 3})
    with pytest.raises(UserError, match="--lr: lr: -1 is not greater than 0"):
        load_config(path, parse_overrides(["--lr", "-1"]))
