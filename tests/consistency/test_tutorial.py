"""docs/tutorial.md, literally: its lists, its YAMLs and its commands, with tiny towers."""

import csv
import re
import shlex
from pathlib import Path

import pytest

from speechcwcl.cli.main import main
from speechcwcl.corpora.base import write_spoken

PAGE = Path(__file__).resolve().parents[2] / "docs/tutorial.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def test_the_tutorial(tmp_path, monkeypatch, tiny_speech, tiny_text, capsys):
    monkeypatch.chdir(tmp_path)
    for name, table in zip(("train", "test"), blocks("csv"), strict=True):
        path = tmp_path / f"corpus/{name}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(table, encoding="utf-8")
        for row in csv.DictReader(table.splitlines()):
            write_spoken(path.parent / row["audio"], row["text"])
    train, protocol = blocks("yaml")
    for before, after in (("whisper-tiny.en", tiny_speech), ("all-MiniLM-L6-v2", tiny_text)):
        assert before in train
        train = train.replace(before, str(after))
    small = train.replace("batch_size: 256", "batch_size: 4").replace("epochs: 8", "epochs: 2")
    Path("my.yaml").write_text(small + "threads: 1\nprojection: {hidden: [8]}\n", "utf-8")
    Path("rooms.yaml").write_text(protocol, encoding="utf-8")
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) == 11
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "speechcwcl"
        assert main(words) == 0, (command, capsys.readouterr().err)
    results = Path("exp/RESULTS.md").read_text(encoding="utf-8")
    assert "rooms" in results and "text bound" in results.lower()
    assert Path("exp/report.html").exists() and Path("exp/mine/model/config.json").exists()
    assert "turn on the light" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["my.yaml", "rooms.yaml", "corpus/train.csv", "corpus/test.csv"])
def test_the_tutorial_names_its_files(name):
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")
