"""The mini protocols say what the lists of the mini corpus say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from speechcwcl.zeroshot.protocol import load_protocol

LISTS = Path(__file__).parents[2] / "egs" / "mini" / "corpus" / "lists"


@pytest.mark.parametrize(
    ("protocol", "words"),
    [("mini_words", "commands.txt"), ("mini_words_valid", "words_valid.txt")],
)
def test_words(protocol, words):
    listed = (LISTS / words).read_text(encoding="utf-8").split()
    assert load_protocol(protocol).labels == {word: (word,) for word in listed}


@pytest.mark.parametrize("part", ["test", "valid"])
def test_intents(part):
    text = (LISTS / f"intents_{part}.yaml").read_text(encoding="utf-8")
    listed = {label: (entry["text"],) for label, entry in yaml.safe_load(text).items()}
    name = "mini_intents" if part == "test" else "mini_intents_valid"
    assert load_protocol(name).labels == listed


def test_the_test_words_are_the_35_of_speech_commands():
    words = load_protocol("mini_words").ids
    assert len(words) == 35
    assert {"yes", "no", "on", "off", "zero", "marvin", "sheila", "visual", "wow"} <= set(words)


@pytest.mark.parametrize("kind", ["words", "intents"])
def test_validation_and_test_share_no_label(kind):
    test, valid = load_protocol(f"mini_{kind}"), load_protocol(f"mini_{kind}_valid")
    assert not set(test.ids) & set(valid.ids)
    assert not set(test.texts.values()) & set(valid.texts.values())
