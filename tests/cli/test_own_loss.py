"""A loss of the user's own, as CONTRIBUTING.md says: the page is run literally."""

import json
import re
from pathlib import Path

import pytest

from speechcwcl.cli.main import main
from speechcwcl.errors import UserError
from speechcwcl.losses import TERMS, build_loss, load_losses

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def section():
    """The Python and the YAML of the section, by language."""
    text = PAGE.read_text(encoding="utf-8").split("## Add a loss")[1].split("\n## ")[0]
    return dict(re.findall(r"```(python|yaml)\n(.*?)```", text, re.DOTALL))


@pytest.fixture(autouse=True)
def registered():
    """What a test registers is gone after it."""
    before = dict(TERMS)
    yield
    TERMS.clear()
    TERMS.update(before)


@pytest.fixture
def written(tmp_path):
    folder = tmp_path / "conf"
    folder.mkdir()
    found = section()
    (folder / "my_loss.py").write_text(found["python"], encoding="utf-8")
    (folder / "my.yaml").write_text(found["yaml"], encoding="utf-8")
    return folder


def test_the_page_trains(written, mini, tmp_path, tiny_speech, tiny_text, monkeypatch, capsys):
    mini(tmp_path / "dump")
    monkeypatch.chdir(tmp_path)
    words = [
        "train", "conf/my.yaml", "--train", "dump/train/manifest.jsonl", "--valid",
        "valid_words:mini_words_valid", "--dumpdir", "dump", "--expdir", "exp", "--device", "cpu",
        "--speech_encoder", str(tiny_speech), "--text_encoder", str(tiny_text), "--epochs", "2",
        "--batch_size", "4", "--threads", "1",
    ]  # fmt: skip
    assert main(words) == 0
    lines = [json.loads(line) for line in Path("exp/metrics.jsonl").read_text().splitlines()]
    for line in lines:
        found = line["train"]
        assert found["loss"] == pytest.approx(found["cwcl"] + 10 * found["mine"], rel=1e-4)
        assert found["mine"] > 0
    assert main(["average", "exp", "--best", "1"]) == 0
    (written / "my_loss.py").write_text(section()["python"] + "\n# changed\n", encoding="utf-8")
    capsys.readouterr()
    assert main([*words, "--epochs", "3"]) == 2
    assert "loss file" in capsys.readouterr().err


def test_value_on_its_own(written):
    load_losses(written / "my_loss.py")
    import torch

    rows = torch.eye(4)
    loss = build_loss({"mine": {"margin": 0.5}}, loss_file=written / "my_loss.py")
    assert loss(rows, rows).total.item() == pytest.approx(0.5 / 4)  # the pairs themselves
    assert build_loss("mine")(rows, rows).total.item() == pytest.approx(0.2 / 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n", "registers no loss"),
        ("x = 1\nx = y\n", "bad.py:2: NameError: name 'y' is not defined"),
        ("x = 1\n\nx = = 2\n", "bad.py:3: SyntaxError"),
        (
            "from speechcwcl.losses import term\n@term('m')\ndef m(p, q): ...\n",
            "bad.py:2: the arguments of a loss begin with speech, text (and scale), got p, q",
        ),
        (
            "from speechcwcl.losses import term\n@term('cwcl')\ndef cwcl(speech, text): ...\n",
            "bad.py:2: there is a loss named 'cwcl' already",
        ),
        (
            "from speechcwcl.losses import term\n@term('m')\n"
            "def m(speech, text, scale, temperature=0.1): ...\n",
            "bad.py:2: every loss has an option temperature; rename this one",
        ),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, text, says):
    path = tmp_path / "bad.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_losses(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_names_and_options_are_checked(written, tmp_path, capsys):
    file = written / "my_loss.py"
    with pytest.raises(UserError, match="no term 'mien' .closest: 'mine'"):
        build_loss({"mien": 1}, loss_file=file)
    with pytest.raises(UserError, match="no option 'margn' .closest: 'margin'"):
        build_loss({"mine": {"margn": 1}}, loss_file=file)
    file.write_text("from speechcwcl.losses import term\n@term('m')\ndef m(speech, text, k): ...\n")
    with pytest.raises(UserError, match="term 'm': needs a value for k"):
        build_loss("m", loss_file=file)
    (written / "my.yaml").write_text("epochs: 2\nloss_file: none.py\n", encoding="utf-8")
    assert (
        main(
            [
                "train",
                str(written / "my.yaml"),
                "--train",
                "t",
                "--valid",
                "v:retrieval",
                "--expdir",
                "e",
            ]
        )
        == 2
    )
    assert "my.yaml:2: loss_file: there is no file" in capsys.readouterr().err
