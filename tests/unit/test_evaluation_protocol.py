"""Protocol files: read strictly, hashed by meaning, labels assigned or refused by name."""

import pytest

from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.zeroshot.protocol import (
    list_protocols,
    list_templates,
    load_protocol,
    load_templates,
)

GOOD = """\
name: rooms
corpus: home
description: In which room?
labels:
  kitchen: the kitchen
  bath: [the bathroom, the bath]
templates: ["{}", "in {}"]
map: {cellar: kitchen}
ignore: [garden]
"""


@pytest.fixture
def load(tmp_path):
    def write_and_load(text: str):
        path = tmp_path / "p.yaml"
        path.write_text(text, encoding="utf-8")
        return load_protocol(path)

    return write_and_load


def test_reads_all_keys(load):
    protocol = load(GOOD)
    assert protocol.name == "rooms"
    assert protocol.corpus == "home"
    assert protocol.label_field == "label"
    assert protocol.ids == ["kitchen", "bath"]
    assert protocol.labels["bath"] == ("the bathroom", "the bath")
    assert protocol.texts["bath"] == "the bathroom"
    assert protocol.templates == ("{}", "in {}")
    said = ["in the kitchen", "in the bathroom", "in the bath"]
    assert protocol.every_prompt()[3:] == said


def test_words_that_yaml_takes_for_other_things_stay_words(load):
    protocol = load("name: w\nlabels: {yes: yes, no: no, on: on, off: off, 0: zero, null: 1.0}\n")
    assert protocol.ids == ["yes", "no", "on", "off", "0", "null"]
    assert protocol.texts["no"] == "no"
    assert protocol.texts["null"] == "1.0"


def test_hash_is_of_the_meaning(load):
    same = load(
        "# a comment\nname: other\ndescription: else\nignore: [garden]\nmap: {cellar: kitchen}\n"
        "templates: ['in {}', '{}']\nlabels: {bath: [the bath, the bathroom], kitchen: the kitchen}"
    )
    assert same.hash == load(GOOD).hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("the kitchen", "a kitchen"),
        ("bath:", "bathing:"),
        ('"in {}"', '"at {}"'),
        ("cellar: kitchen", "cellar: bath"),
        ("[garden]", "[gardens]"),
        ("corpus: home", "label_field: room"),
    ],
)
def test_hash_changes_with_the_meaning(load, old, new):
    assert old in GOOD
    assert load(GOOD.replace(old, new)).hash != load(GOOD).hash


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (GOOD.replace("corpus:", "corpsu:"), 2, r"no such key 'corpsu' \(closest: 'corpus'\)"),
        (GOOD + "labels: {a: b, c: d}\n", 10, "'labels' stands twice"),
        (GOOD.replace("  bath:", "  kitchen:"), 6, "'kitchen' stands twice .*first in line 5"),
        (GOOD.replace("the bath]", "The Kitchen]"), 6, "'kitchen' and 'bath' have the same text"),
        (GOOD.replace("the kitchen", "''"), 5, "labels.kitchen: is empty"),
        (GOOD.replace("the kitchen", "{a: b}"), 5, "must be text or a list"),
        (GOOD.replace("[the bathroom, the bath]", "[]"), 6, "is empty"),
        (GOOD.replace('"in {}"', '"in there"'), 7, "must hold {} once"),
        (GOOD.replace('"in {}"', '"{} in {}"'), 7, "must hold {} once"),
        (GOOD.replace('["{}", "in {}"]', "plian"), 7, r"'plian' \(closest: 'plain'\)"),
        (GOOD.replace("cellar: kitchen", "cellar: kitchn"), 8, r"closest: 'kitchen'"),
        (GOOD.replace("cellar: kitchen", "bath: kitchen"), 8, "'bath' is itself a label"),
        (GOOD.replace("[garden]", "[bath]"), 9, "'bath' is also in labels"),
        (GOOD.replace("[garden]", "[cellar]"), 9, "'cellar' is also in map"),
        (GOOD.replace("name: rooms", "name: ../rooms"), 1, "letters, digits"),
        ("name: x\nlabels: {a: b}\n", 2, "at least two"),
        ("name: x\nlabels: [a, b]\n", 2, "must be a mapping"),
        ("name: x\nlabels: {'*': any, b: c}\n", 2, "'any other'"),
        ("name: x\nlabels:\n  a: [b\n", 4, "not valid YAML"),
        ("name: x\nlabels: {a: b, c: d}\nmap: [a]\n", 3, "must be a mapping"),
    ],
)
def test_faults_are_named_with_their_line(load, text, line, says):
    with pytest.raises(UserError, match=says) as caught:
        load(text)
    assert f"p.yaml:{line}: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("- a\n", "expected `key: value` lines"),
        ("labels: {a: b, c: d}\n", "the key 'name' is missing"),
        ("name: x\n", "the key 'labels' is missing"),
    ],
)
def test_faults_without_a_line(load, text, says):
    with pytest.raises(UserError, match=says):
        load(text)


def test_not_utf8_and_missing_file(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_bytes(b"name: x\nlabels: {a: \xff}\n")
    with pytest.raises(UserError, match=r"p\.yaml:2: not UTF-8"):
        load_protocol(path)
    with pytest.raises(UserError, match=r"absent\.yaml: cannot read"):
        load_protocol(tmp_path / "absent.yaml")


def test_yaml_tags_run_no_code(load, tmp_path):
    mark = tmp_path / "ran"
    text = f"name: x\nlabels: !!python/object/apply:os.system ['touch {mark}']\n"
    with pytest.raises(UserError, match=r"p\.yaml:2: the tag .* nothing in this file is run"):
        load(text)
    assert not mark.exists()


def test_unknown_name_tells_the_closest():
    with pytest.raises(UserError, match=r"closest: 'mini_words'"):
        load_protocol("mini_word")
    with pytest.raises(UserError, match=r"closest: 'plain'"):
        load_templates("plane")


@pytest.mark.parametrize("name", list_protocols())
def test_every_protocol_of_the_package_loads_under_its_own_name(name):
    protocol = load_protocol(name)
    assert protocol.name == name
    assert protocol.corpus
    assert protocol.description
    assert all(texts == tuple(t.strip() for t in texts) for texts in protocol.labels.values())


@pytest.mark.parametrize("name", list_templates())
def test_every_template_file_loads(name):
    assert load_templates(name)[0] == "{}"


def test_assign_maps_ignores_and_keeps_order(load):
    said = [
        Utterance("u1", "", labels={"label": "bath"}),
        Utterance("u2", "", labels={"label": "garden"}),
        Utterance("u3", "", labels={"label": "cellar"}),
    ]
    kept, targets = load(GOOD).assign(said)
    assert kept.tolist() == [0, 2]
    assert targets.tolist() == [1, 0]


def test_map_of_any_other(load):
    protocol = load(GOOD.replace("{cellar: kitchen}", "{'*': bath}"))
    kept, targets = protocol.assign(
        [
            Utterance("u1", "", labels={"label": "moon"}),
            Utterance("u2", "", labels={"label": "garden"}),
        ]
    )
    assert (kept.tolist(), targets.tolist()) == ([0], [1])


def test_unknown_labels_are_gathered(load):
    said = [Utterance(f"u{i}", "", labels={"label": "kitchn"}) for i in range(14)]
    with pytest.raises(UserError) as caught:
        load(GOOD).assign(said)
    lines = str(caught.value).splitlines()
    assert "utterance 'u0' has the label 'kitchn'" in lines[0]
    assert "(closest: 'kitchen')" in lines[0]
    assert "ignore" in lines[0]
    assert len(lines) == 11
    assert lines[-1] == "... and 4 more (14 in all)"


def test_missing_field_and_nothing_left(load):
    with pytest.raises(UserError, match=r"no label field 'label' \(it has: labl\).*'labl'"):
        load(GOOD).assign([Utterance("u", "", labels={"labl": "bath"})])
    with pytest.raises(UserError, match="no utterance to score"):
        load(GOOD).assign([Utterance("u", "", labels={"label": "garden"})])
