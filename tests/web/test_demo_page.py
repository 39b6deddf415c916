"""The function behind the page of `speechcwcl demo`, with no browser: answers and every error."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import soundfile
import torch

from speechcwcl.apps.demo.answer import Judge, classify, decide_all, open_judges, read_upload
from speechcwcl.apps.demo.ask import (
    EXAMPLES,
    Limits,
    check_size,
    fill_in,
    label_sets,
    parse_labels,
    parse_templates,
)
from speechcwcl.data.audio import load_audio
from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner

pytestmark = pytest.mark.usefixtures("little_background")

LIMITS = Limits(seconds=2, megabytes=0.5, labels=4)
TYPED = "lights on = turn on the light | lamp on; music\nstop"


@pytest.fixture(scope="module")
def judges(tiny_speech, tiny_text):
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(Aligner.build(tiny_speech, tiny_text, projection={"hidden": [16]}).eval())
    return [
        Judge(model, name) for model, name in zip(models, ("exp/cwcl", "exp/clip"), strict=True)
    ]


@pytest.fixture
def clip(tmp_path):
    time_axis = np.arange(12000) / 16000
    path = tmp_path / "four.wav"
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * time_axis), 16000)
    return path


# -- what is typed --------------------------------------------------------------------------------


def test_labels_are_read_by_line_and_semicolon():
    assert parse_labels(" yes ;no\n\n b = one | two |one;", LIMITS) == {
        "yes": ("yes",),
        "no": ("no",),
        "b": ("one", "two"),
    }
    assert parse_labels("on | lamp on\noff", LIMITS) == {"on": ("on", "lamp on"), "off": ("off",)}
    assert list(parse_labels("only", LIMITS, far=0.2)) == ["only"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "There are no labels"),
        (" ;\n; ", "There are no labels"),
        ("one", "One label leaves nothing to choose from"),
        ("yes\nno\nYES", "'YES' is given twice"),
        ("on = lamp\nlight = Lamp", "'on' and 'light' have the same text"),
        ("a\nb\nc\nd\ne", "5 labels are too many; at most 4"),
        ("a\n= b", "one side is empty"),
        ("a\nb = ", "one side is empty"),
        ("a\n" + "b " * 200, "399 characters long"),
    ],
)
def test_labels_that_cannot_be_used(typed, message):
    with pytest.raises(UserError, match=message):
        parse_labels(typed, LIMITS)


def test_templates():
    assert parse_templates("") == ("{}",)
    assert parse_templates("{}\n\nthe word {}\n{}") == ("{}", "the word {}")
    for typed, message in (
        ("say", "must hold {} once"),
        ("{} {}", "must hold {} once"),
        ("{}" + "x" * 400, "at most 300"),
        ("\n".join(f"{n} {{}}" for n in range(21)), "21 templates are too many"),
    ):
        with pytest.raises(UserError, match=message):
            parse_templates(typed)
    many = {str(n): tuple(f"{n} {k}" for k in range(50)) for n in range(100)}
    with pytest.raises(UserError, match="5000 sentences"):
        check_size(many, ("{}",))


def test_every_set_to_pick_from_reads_back_as_it_is():
    names = label_sets(Limits())
    assert set(EXAMPLES) < set(names) and "slurp_intent" in names and "digits_10" in names
    for name in names:
        labels, templates = fill_in(name)
        assert len(parse_labels(labels, Limits())) >= 2
        check_size(parse_labels(labels, Limits()), parse_templates(templates))
    assert fill_in("gsc_v2_35")[1].splitlines()[2] == "the word {}"
    assert label_sets(Limits(labels=10)) == [*EXAMPLES, "digits_10", "gsc_10", "stop_domain"]


def test_limits_are_above_0():
    for wrong in ({"seconds": 0}, {"megabytes": -1}, {"labels": 0}):
        with pytest.raises(UserError, match="is not above 0"):
            Limits(**wrong)


# -- what is answered -----------------------------------------------------------------------------


def test_the_answer_is_the_aligners(judges, clip):
    templates = ["{}", "please {}"]
    found = classify(judges, clip, TYPED, "\n".join(templates), limits=LIMITS)
    assert (found["name"], found["seconds"], found["templates"]) == ("four.wav", 0.75, templates)
    labels = {"lights on": ["turn on the light", "lamp on"], "music": "music", "stop": "stop"}
    for judge, said in zip(judges, found["models"], strict=True):
        wanted = judge.aligner.classify([clip], labels, templates)[0]
        assert said["answer"] == wanted[0]["label"] == said["labels"][0]["label"]
        for row, true in zip(said["labels"], wanted, strict=True):
            assert row["label"] == true["label"]
            assert row["score"] == pytest.approx(true["score"], abs=1e-5)
            assert row["cosine"] == pytest.approx(true["cosine"], abs=1e-5)
        for column, template in enumerate(templates):
            alone = judge.aligner.classify([clip], labels, [template])[0]
            cosine = {row["label"]: row["cosine"] for row in alone}
            for row in said["labels"]:
                assert row["by_template"][column] == pytest.approx(cosine[row["label"]], abs=1e-5)
    assert [said["model"] for said in found["models"]] == ["exp/cwcl", "exp/clip"]
    assert found["models"][0]["labels"] != found["models"][1]["labels"]


def test_unknown_and_examples_as_everywhere_else(judges, clip):
    """As `enrol` and `classify` have labels, thresholds and examples."""
    labels, answers = parse_labels(TYPED, LIMITS), set()
    wave, model = load_audio(clip), judges[0].aligner
    heard = [judges[0].embed(wave)]
    for examples in ({}, {"stop": [wave]}):
        for far in (1e-200, 0.05, 0.5, 0.999):
            wanted = model.classify([wave], model.enrol(labels, examples, far=far))[0]
            kept = {label: [heard] for label in examples}
            [said] = decide_all(judges[:1], heard, TYPED, "", far, LIMITS, kept)
            answers.add(said["answer"])
            assert (said["answer"] or "unknown") == wanted[0]["label"]
            known = [row for row in wanted if row["label"] != "unknown"]
            assert sum(row["score"] for row in said["labels"]) + said["unknown"] == pytest.approx(1)
            for row, true in zip(said["labels"], known, strict=True):
                assert (row["label"], row["score"]) == (true["label"], pytest.approx(true["score"]))
    assert None in answers and len(answers) > 1
    assert classify(judges[:1], clip, TYPED, far=1e-200)["models"][0]["answer"] is None


def test_long_recordings_in_parts_as_everywhere_else(judges):
    judge = Judge(copy.copy(judges[0].aligner), "parts")
    judge.aligner.windows = {"longer_than": 1.0, "seconds": [0.8]}
    wave = np.sin(np.cumsum(np.linspace(0.05, 1, 40000))).astype(np.float32)
    heard = judge.embed(wave)
    assert len(heard.parts) > 1
    [said] = decide_all([judge], [heard], TYPED, "", 0.0, LIMITS)
    wanted = judge.aligner.classify([wave], parse_labels(TYPED, LIMITS))[0]
    for row, true in zip(said["labels"], wanted, strict=True):
        assert row["label"] == true["label"] and row["cosine"] == pytest.approx(true["cosine"])
        assert row["by_template"] == pytest.approx([true["cosine"]], abs=1e-5)


def test_folders_are_not_told_to_strangers(judges, tiny_speech):
    about = judges[0].about
    assert about["speech_encoder"] == tiny_speech.name
    assert "/" not in about["text_encoder"]


def test_models_get_names_that_tell_them_apart(judges, tmp_path):
    folders = [tmp_path / name / "exp" / "model" for name in ("a", "b")]
    for folder, judge in zip(folders, judges, strict=True):
        judge.aligner.save_pretrained(folder)
    assert [judge.name for judge in open_judges(folders)] == ["a/exp/model", "b/exp/model"]
    assert open_judges(folders[:1])[0].name == "exp/model"
    with pytest.raises(UserError, match="given twice"):
        open_judges([folders[0], folders[0]])
    with pytest.raises(UserError, match="--device gpu: .+; use --device cpu"):
        open_judges(folders, "gpu")


def broken(folder, kind):
    """A file of the given fault."""
    path = folder / "clip.wav"
    if kind == "text":
        path.write_text("not audio at all")
    elif kind == "header":
        path.write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt " + b"x" * 300)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "nan":
        soundfile.write(path, np.full(9000, np.nan, "f4"), 16000, subtype="FLOAT")
    elif kind != "gone":
        samples = {"long": 40000, "large": 300000, "click": 100, "cut": 16000}[kind]
        soundfile.write(path, np.full(samples, 0.1), 16000)
        if kind == "cut":
            path.write_bytes(path.read_bytes()[:9000])
    return path


FAULTS = {
    "text": "clip.wav: not audio that can be read: .+; use wav, flac, ogg, opus or mp3",
    "header": "clip.wav: not audio that can be read",
    "empty": "clip.wav: empty file",
    "cut": "clip.wav: truncated",
    "nan": "clip.wav: 9000 samples are NaN",
    "long": "clip.wav lasts 2.5 s; at most 2 s are allowed",
    "large": "clip.wav has 0.6 MB; at most 0.5 MB are allowed",
    "click": "clip.wav lasts 0.006 s; that is too short",
    "gone": "gone from the server",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_recordings_that_cannot_be_used(tmp_path, kind):
    with pytest.raises(UserError, match=FAULTS[kind]) as caught:
        read_upload(broken(tmp_path, kind), LIMITS)
    assert str(tmp_path) not in str(caught.value)


def test_no_recording(judges):
    with pytest.raises(UserError, match="There is no recording"):
        classify(judges, None, TYPED, limits=LIMITS)


def test_a_silent_recording_is_told(tmp_path, clip):
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(16000), 16000)
    assert read_upload(silent, LIMITS).silent and not read_upload(clip, LIMITS).silent


# -- what the page calls --------------------------------------------------------------------------


@pytest.fixture
def desk(judges):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install speechcwcl[web]")
    from speechcwcl.apps.demo.page import Desk

    return Desk(judges, LIMITS)


def shown(parts):
    """The message, the scores of each model and the tables."""
    message, *rest = parts
    return message, [part["value"] for part in rest[::2]], [part["value"] for part in rest[1::2]]


def test_a_recording_can_be_asked_about_again(desk, clip):
    heard, *answer = desk.receive(str(clip), TYPED, "{}\nsay {}", 0.0)
    message, scores, tables = shown(answer)
    assert message.startswith("four\\.wav, 0.8 s.") and "The models" in message
    assert all(set(each) == {"lights on", "music", "stop"} for each in scores)
    assert all(sum(each.values()) == pytest.approx(1) for each in scores)
    assert tables[0]["headers"] == ["label", "all", "…", "say …"] and len(tables[0]["data"]) == 3
    clip.unlink()
    assert shown(desk.answer(heard, TYPED, "{}\nsay {}", 0.0))[1:] == (scores, tables)
    message, scores, _ = shown(desk.answer(heard, TYPED, "{}", 1e-200))
    assert scores == ["unknown", "unknown"] and "does not reach its threshold" in message
    for typed, templates, expected in (
        ("a;a", "{}", "given twice"),
        (TYPED, "x", r"must hold \{\} once"),
    ):
        message, scores, _ = shown(desk.answer(heard, typed, templates, 0.0))
        assert expected in message and scores == [None, None]
    assert "There is no recording" in desk.answer(None, TYPED, "{}", 0.0)[0]
    assert "did not work" not in desk.refresh(None, TYPED, "{}", 0.0)[0]


def test_what_visitors_type_is_shown_as_it_is(desk, clip):
    evil = clip.with_name("<b>x_y_.wav")
    clip.rename(evil)
    message = desk.receive(str(evil), "<script>;b", "{}", 1e-200)[1]
    assert r"\<b\>x\_y\_\.wav" in message and "<script>" not in message
    assert "nearest label" in message


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_recording_is_named(desk, tmp_path, kind):
    heard, message, *rest = desk.receive(str(broken(tmp_path, kind)), TYPED, "{}", 0.0)
    assert message.startswith("**That did not work.**") and heard is None
    assert all(part["visible"] is False for part in rest)


def test_a_recording_with_bad_labels_is_kept_in_mind(desk, clip):
    heard, message, *_ = desk.receive(str(clip), "", "{}", 0.0)
    assert "There are no labels" in message
    assert "four" not in desk.answer(heard, TYPED, "{}", 0.0)[0] and heard is not None


def test_a_request_leaves_the_upload_to_others_with_the_same_recording(desk, clip):
    # gradio names an upload by its content: two visitors with one recording share the file.
    for _ in range(2):
        assert desk.endpoint(str(clip), TYPED, "{}", 0.0)["name"] == "four.wav"
        assert desk.receive(str(clip), TYPED, "{}", 0.0)[0] is not None


def test_a_recording_is_kept_as_an_example_of_a_label(judges, clip):
    from speechcwcl.apps.demo.page import MOST_EXAMPLES, Desk

    desk = Desk(judges, LIMITS)
    heard, *_ = desk.receive(str(clip), TYPED, "", 0.0)
    kept, said = desk.keep(heard, " stop ", TYPED, {})
    assert list(kept) == ["stop"] and said == "Examples: stop 1"
    same, said = desk.keep(heard, "stopp", TYPED, kept)
    assert same is kept and "no label 'stopp'" in said.replace("\\", "") and "closest" in said
    assert "no recording" in desk.keep(None, "stop", TYPED, kept)[1]
    full = {"stop": [heard] * MOST_EXAMPLES}
    assert desk.keep(heard, "stop", TYPED, full)[0] is full
    both = {"stop": [heard], "music": [heard]}
    shown = desk.answer(heard, TYPED, "", 0.0, both)
    assert "cannot be told apart" in shown[0]
