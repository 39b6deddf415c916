"""What training keeps on the disk and carries from step to step."""

import json

import pytest
import torch

from speechcwcl.cli.main import main
from speechcwcl.errors import UserError
from speechcwcl.losses import build_loss
from speechcwcl.training.brain import OutputLosses, RunningMeans, append_metrics, lr_factor
from speechcwcl.training.state import WholeCheckpointer


def test_half_a_checkpoint_is_swept_away(tmp_path):
    broken = tmp_path / "CKPT+2026-01-01+00-00-00+00"
    broken.mkdir()
    (broken / "speech.ckpt").write_bytes(b"half")
    assert WholeCheckpointer(tmp_path).find_checkpoint() is None
    assert not broken.exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
        RuntimeError("basic_ios::clear: iostream error"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
    ids=["system", "torch, at the end", "torch, at the start", "torch"],
)
def test_a_full_disk_while_saving_is_one_clear_line(tmp_path, monkeypatch, error):
    model = torch.nn.Linear(2, 2)
    checkpointer = WholeCheckpointer(tmp_path, recoverables={"model": model})

    def full(*args, **options):
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="cannot write: .*; free some space") as found:
        checkpointer.save_checkpoint()
    assert str(tmp_path) in str(found.value) and "\n" not in str(found.value)
    assert WholeCheckpointer(tmp_path).find_checkpoint() is None


@pytest.mark.parametrize(
    ("schedule", "last"), [("constant", 1.0), ("linear", 0.0), ("cosine", 0.0)]
)
def test_the_learning_rate_warms_up_and_comes_down(schedule, last):
    factors = [lr_factor(step, 100, 0.1, schedule) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(last, abs=1e-6)


def test_metrics_of_a_repeated_epoch_are_replaced(tmp_path):
    for epoch in (1, 2, 3, 2):
        append_metrics(tmp_path / "m.jsonl", {"epoch": epoch, "x": epoch})
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_running_means_travel_within_an_epoch_only(tmp_path):
    means = RunningMeans()
    means.add({"loss": 1.0})
    means.add({"loss": 3.0})
    means.save(tmp_path / "m")
    other = RunningMeans()
    other.load(tmp_path / "m", end_of_epoch=True)
    assert other.counts == {}
    other.load(tmp_path / "m", end_of_epoch=False)
    assert other.take() == {"loss": 2.0} and other.counts == {}


def test_the_losses_of_two_outputs_are_added():
    parts = torch.nn.functional.normalize(torch.randn(6, 2, 8), dim=-1)
    text = torch.nn.functional.normalize(torch.randn(6, 8), dim=-1)
    both = OutputLosses([build_loss("clip"), build_loss({"cosine": 2})])(parts, text)
    one, other = build_loss("clip")(parts[:, 0], text), build_loss({"cosine": 2})(parts[:, 1], text)
    torch.testing.assert_close(both.total, one.total + other.total)
    assert both.terms.keys() == {"clip", "cosine_2"}


def test_average_without_a_training_says_so(tmp_path, capsys):
    assert main(["average", str(tmp_path)]) == 2
    assert "no checkpoint of a finished epoch" in capsys.readouterr().err
