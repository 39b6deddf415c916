"""YAML that constructs nothing: text stays text, tags and odd files are refused with their line."""

from typing import Literal

import pydantic
import pytest

from speechcwcl.errors import UserError
from speechcwcl.yamls import MAX_DEPTH, parse_value, parse_yaml, read_yaml, validate


def test_scalars_are_text_unless_types_are_asked_for():
    text = "a: yes\nb: 0\nc: 1e-3\nd: null\ne: 'true'\nf: [on, no, 7, -2.5, .inf]\ntrue: x\n"
    plain = parse_yaml(text, "x.yaml").values
    assert plain["f"] == ["on", "no", "7", "-2.5", ".inf"]
    assert list(plain) == ["a", "b", "c", "d", "e", "f", "true"]
    assert (plain["a"], plain["b"], plain["c"], plain["d"]) == ("yes", "0", "1e-3", "null")
    typed = parse_yaml(text, "x.yaml", typed=True).values
    assert typed["f"] == ["on", "no", 7, -2.5, float("inf")] and isinstance(typed["f"][2], int)
    assert (typed["b"], typed["c"], typed["d"], typed["e"]) == (0, 0.001, None, "true")


def test_anchors_and_merged_mappings():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\nd: {<<: [{x: 5}, *a]}\n"
    values = parse_yaml(text, "x.yaml", typed=True).values
    assert values["b"] == {"x": 1, "y": 3} and values["c"] == [{"x": 1, "y": 2}] * 2
    assert values["d"] == {"x": 5, "y": 2}


def laughs():
    """Nine levels of ten aliases each: a thousand million values in a few lines."""
    lines = ["a0: &a0 [x]"]
    for level in range(1, 10):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines)


def chain():
    """Aliases that nest ever deeper."""
    return "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: !apply:os.system ['touch pwned']\n", r"x\.yaml:2: the tag '!apply:os\.system'"),
        ("a: !!python/object/apply:os.system [ls]\n", r"x\.yaml:1: the tag .*os\.system'"),
        ("!new:a.B {}\n", r"x\.yaml:1: the tag"),
        ("? !!str a\n: 1\n", r"x\.yaml:1: the tag"),
        ("a: 1\nb: 2\na: 3\n", r"x\.yaml:3: 'a' stands twice \(first in line 1\)"),
        ("a:\n  b: 1\n  b: 2\n", r"x\.yaml:3: 'b' stands twice \(first in line 2\)"),
        ("? [a]\n: 1\n", r"x\.yaml:1: a key must be a word"),
        ("a: [1\n", r"x\.yaml:\d: not valid YAML"),
        ("a: *b\n", r"x\.yaml:1: no anchor &b above"),
        ("a: &a [*a]\n", r"x\.yaml:1: no anchor &a above"),
        ("a: 1\n---\nb: 2\n", r"x\.yaml:2: a second document"),
        ("a: {<<: 3}\n", r"x\.yaml:1: <<: takes mappings only"),
        ("", r"x\.yaml: the file is empty"),
        ("# nothing\n", r"x\.yaml: the file is empty"),
        ("- 1\n", r"x\.yaml: expected `key: value` lines"),
        ("a\x00: 1\n", r"x\.yaml: not valid YAML"),
        ("a: " + "[" * 100_000, rf"x\.yaml:1: nested more than {MAX_DEPTH} deep"),
        ("a: " + "{b: " * 100_000, rf"x\.yaml:1: nested more than {MAX_DEPTH} deep"),
        ("\n".join(" " * n + "a:" for n in range(1000)), r"x\.yaml:\d+: nested more than"),
        (laughs(), r"x\.yaml:\d+: more than \d+ values"),
        (chain(), r"x\.yaml:\d+: nested more than"),
        ("a: " + "x" * (5 << 20), r"x\.yaml: larger than 4 MiB"),
    ],
)
def test_odd_files_are_one_line(text, message):
    with pytest.raises(UserError, match="^" + message) as error:
        parse_yaml(text, "x.yaml")
    assert "\n" not in str(error.value)


def test_a_number_of_five_thousand_digits_is_a_value_like_others():
    assert parse_value("9" * 5000, "x") == float("inf")


def test_a_file_builds_on_others(tmp_path):
    (tmp_path / "low.yaml").write_text("a: 1\nb: {x: 1}\nc: 3\n")
    (tmp_path / "mid.yaml").write_text("base: low.yaml\nb: {y: 2}\n")
    (tmp_path / "top.yaml").write_text("# mine\nc: 4\nbase: mid.yaml\n")
    document = read_yaml(tmp_path / "top.yaml", typed=True, base="base")
    assert document.values == {"a": 1, "b": {"y": 2}, "c": 4}
    places = [document.where(key) for key in "abc"]
    assert places == [f"{tmp_path / n}" for n in ("low.yaml:1", "mid.yaml:2", "top.yaml:2")]
    assert [p.name for p in document.files] == ["low.yaml", "mid.yaml", "top.yaml"]
    (tmp_path / "low.yaml").write_text("base: top.yaml\n")
    with pytest.raises(UserError, match="form a circle"):
        read_yaml(tmp_path / "top.yaml", base="base")
    with pytest.raises(UserError, match=r"low\.yaml:1: base: \['x'\] is not the name of a file"):
        (tmp_path / "low.yaml").write_text("base: [x]\n")
        read_yaml(tmp_path / "low.yaml", base="base")


class Small(pydantic.BaseModel, extra="forbid"):
    """What the messages are tried on."""

    name: str
    kind: Literal["red", "green"] = "red"
    size: int = pydantic.Field(1, ge=1)
    rate: float = pydantic.Field(0.1, gt=0, allow_inf_nan=False)
    more: dict[str, float] = {}
    rows: list[int] = []
    either: int | dict[str, int] = 0


def test_good_values_become_the_model():
    text = "name: a\nsize: 2\nrate: 1e-3\nmore: {x: 1}\nrows: [1, 2]\n"
    found = validate(Small, parse_yaml(text, "x.yaml", typed=True))
    assert found == Small(name="a", size=2, rate=1e-3, more={"x": 1.0}, rows=[1, 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nsizes: 2\n", "x.yaml:2: no such key 'sizes' (closest: 'size')"),
        ("size: 2\n", "x.yaml:1: the key 'name' is missing"),
        ("name: a\nkind: gren\n",
         "x.yaml:2: kind: 'gren' is none of red, green (closest: 'green')"),
        ("name: a\nsize: 0\n", "x.yaml:2: size: 0 is not greater than or equal to 1"),
        ("name: a\nsize: many\n", "x.yaml:2: size: 'many' is no whole number"),
        ("name: a\nsize: 1.5\n", "x.yaml:2: size: 1.5 is no whole number"),
        ("name: a\nrate: .nan\n", "x.yaml:2: rate: nan is not a finite number"),
        ("name: a\nmore:\n  x: 1\n  y: z\n", "x.yaml:4: more.y: 'z' is no number"),
        ("name: a\nrows:\n- 1\n- x\n", "x.yaml:4: rows.1: 'x' is no whole number"),
        ("name: [a]\n", "x.yaml:1: name: ['a'] is no text"),
        ("name: a\neither: x\n", "x.yaml:2: either: 'x' is no whole number and is no mapping"),
        ("name: a\nsize: -1\nrate: 0\n", "x.yaml:2: size: -1 is not greater than or equal to 1\n"
         "x.yaml:3: rate: 0 is not greater than 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(text, message):
    with pytest.raises(UserError) as error:
        validate(Small, parse_yaml(text, "x.yaml", typed=True))
    assert str(error.value) == message
