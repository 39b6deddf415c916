"""speechcwcl classify: every way to name recordings and labels, unknown, and bad input."""

import io
import json
import sys

import numpy as np
import pytest
import soundfile
import torch

from speechcwcl.cli.main import main
from speechcwcl.data.audio.recordings import Reader, find_recordings
from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner
from speechcwcl.zeroshot.enrolment import clip_vector
from speechcwcl.zeroshot.keywords import Keywords, level_of_share

pytestmark = pytest.mark.usefixtures("little_background")

LABELS = "turn on the light;play music;none of these"


@pytest.fixture(scope="module")
def model(tiny_speech, tiny_text, tmp_path_factory):
    torch.manual_seed(0)
    aligner = Aligner.build(tiny_speech, tiny_text).eval()
    with torch.no_grad():
        for parameter in aligner.projection.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("classify") / "model"
    aligner.save_pretrained(folder)
    return str(folder)


def tone(hertz, seconds=0.3):
    time = np.arange(int(seconds * 16000)) / 16000
    return (0.3 * np.sin(2 * np.pi * hertz * time) * np.hanning(len(time))).astype(np.float32)


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """Two files and a folder of four, one of them hidden and one of them no audio."""
    monkeypatch.chdir(tmp_path)
    for n, name in enumerate(["a.wav", "b.flac", "d/x.wav", "d/deep/y.OGG", "d/.hidden.wav"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(200 + 150 * n), 16000)
    (tmp_path / "d" / "notes.txt").write_text("no audio")
    return tmp_path


def run(model, *words, labels=LABELS):
    given = ["--labels", labels] if labels is not None else []
    return main(["classify", "--model", model, *given, *map(str, words)])


def answers(capsys):
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


def test_files_folders_and_standard_input(model, clips, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a.wav\n\nd/x.wav\n"))
    assert run(model, "b.flac", "d", "-", "--format", "json") == 0
    rows, _ = answers(capsys)
    paths = [row["audio"] for row in rows]
    assert paths == ["b.flac", "d/x.wav", "d/deep/y.OGG", "a.wav", "d/x.wav"]
    expected = Aligner.from_pretrained(model).classify(paths, LABELS.split(";"))
    for row, wanted in zip(rows, expected, strict=True):
        assert [e["label"] for e in row["labels"]] == [e["label"] for e in wanted]
        for key in ("score", "cosine"):
            found = [e[key] for e in row["labels"]]
            assert found == pytest.approx([e[key] for e in wanted], abs=1e-5)


def test_table_and_tsv(model, clips, capsys):
    assert run(model, "a.wav", "d", "--top_k", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("a.wav ") and lines[0].count("%") == 2
    assert len({line.index("%") for line in lines}) == 1  # in columns
    soundfile.write("tab\there.wav", tone(300), 16000)
    assert run(model, "tab\there.wav", "--top_k", 2, "--format", "tsv") == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "audio\trank\tlabel\tscore\tcosine"
    assert [row.split("\t")[:2] for row in rows] == [
        ["tab\\there.wav", "1"],
        ["tab\\there.wav", "2"],
    ]


def test_bad_recordings_are_named_and_the_others_answered(model, clips, capsys):
    (clips / "d/broken.wav").write_bytes(b"RIFF....not audio")
    (clips / "d/empty.wav").write_bytes(b"")
    soundfile.write(clips / "long.wav", tone(100, 3.0), 16000)
    words = ["d", "no.wav", "long.wav", "a.wav", "--longest", 2, "--format", "json"]
    assert run(model, *words) == 2
    rows, err = answers(capsys)
    assert [row["audio"] for row in rows] == ["d/x.wav", "d/deep/y.OGG", "a.wav"]
    for words_ in ("d/broken.wav: not audio", "d/empty.wav: empty", "no.wav: no such audio file",
                   "long.wav: 3 s long, the limit is 2 s", "4 of 7 recordings"):  # fmt: skip
        assert words_ in err
    assert "d: 1 file(s) left out, by their endings no audio: .txt 1" in err
    assert err.count("\n") == 6 and "Traceback" not in err
    assert run(model, *words, "--skip_bad") == 0
    assert run(model, "no.wav", "--skip_bad") == 2  # nothing was answered at all


def test_one_chunk_at_a_time(clips):
    for n in range(70):
        soundfile.write(clips / f"many{n:02}.wav", tone(300, 0.02), 16000)
    paths = [str(path) for path in sorted(clips.glob("many*"))]
    reader = Reader(10, print)
    taken = []

    def lazily():
        for path in paths:
            taken.append(path)
            yield path

    chunks = reader.chunks(lazily())
    assert next(chunks)[0] == paths[:1] and len(taken) == 1  # the first answer comes at once
    sizes = [1] + [len(names) for names, _ in chunks]
    assert sizes == [1, 2, 4, 8, 16, 32, 7] and reader.read == 70 and reader.bad == 0


def test_recordings_of_a_folder_come_by_name(clips):
    found = list(find_recordings([clips / "d", "-"], ["z.wav\r\n"]))
    assert found == [str(clips / "d/x.wav"), str(clips / "d/deep/y.OGG"), "z.wav"]


# -- labels ---------------------------------------------------------------------------------------


def first(capsys):
    return {e["label"] for e in answers(capsys)[0][0]["labels"]}


def test_labels_from_files_and_protocols(model, clips, capsys):
    (clips / "l.txt").write_text("\ufeffyes\n\nno thanks\r\n", encoding="utf-8")
    (clips / "l.yaml").write_text("on: [switch on, turn on]\noff: switch off\n")
    (clips / "p.yaml").write_text("name: p\nlabels: {u: up, d: down}\ntemplates: ['go {}']\n")
    words = ["a.wav", "--format", "json", "--top_k", 99]
    for given, expected in (
        (["--labels_file", "l.txt"], {"yes", "no thanks"}),
        (["--labels_file", "l.yaml"], {"on", "off"}),
        (["--labels_file", "p.yaml"], {"u", "d"}),
        (["--protocol", "p.yaml"], {"u", "d"}),
    ):
        assert run(model, *given, *words, labels=None) == 0
        assert first(capsys) == expected
    assert run(model, "--protocol", "digits_10", *words, labels=None) == 0
    assert len(first(capsys)) == 10


def test_templates_change_the_wording(model, clips, capsys):
    aligner = Aligner.from_pretrained(model)
    for given, templates in (
        (["--template", "words"], ["{}", "{}.", "the word {}", "someone says {}"]),
        (["--template", "say {}", "--template", "plain"], ["say {}", "{}"]),
    ):
        assert run(model, *given, "a.wav", "--format", "json", labels="yes;no") == 0
        found = {e["label"]: e["cosine"] for e in answers(capsys)[0][0]["labels"]}
        (expected,) = aligner.classify(["a.wav"], ["yes", "no"], templates)
        assert found == pytest.approx({e["label"]: e["cosine"] for e in expected}, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "words", "message"),
    [
        (None, [], "no labels given"),
        (" ; ", [], "--labels: no labels in it"),
        ("yes;no;YES", [], "'YES' is given twice"),
        ("yes,no", [], "one label only ('yes,no')"),
        (None, ["--labels_file", "gone.txt"], "gone.txt: cannot read"),
        (None, ["--labels_file", "latin.txt"], "latin.txt:2: not UTF-8"),
        (None, ["--labels_file", "twice.txt"], "twice.txt: label 'on' is given twice"),
        (None, ["--labels_file", "same.yaml"], "same.yaml:2: labels 'a' and 'b' have the same"),
        (None, ["--labels_file", "empty.txt"], "empty.txt: no labels in it"),
        (None, ["--protocol", "mini_wrods"], "closest: 'mini_words'"),
        (LABELS, ["--template", "wrods"], "closest: 'words'"),
        (LABELS, ["--template", "{} and {}"], "must be in it exactly once"),
        (LABELS, ["--template", "no/such.yaml"], "no/such.yaml"),
        (LABELS, ["--model", "no-such-model"], "no such folder"),
        (LABELS, ["--device", "cuda:77"], "--device cuda:77"),
        (LABELS, ["--onnx"], "pip install speechcwcl[onnx]"),
        (LABELS, ["--onnx", "--device", "cuda"], "runs on the CPU"),
        (LABELS, ["--top_k", "0"], "--top_k 0"),
        (LABELS, ["--threshold", "3"], "a cosine lies between"),
        (LABELS + ";unknown", ["--threshold", "0.1"], "cannot be a label too"),
        (None, ["--keywords", "gone.json"], "gone.json: cannot read"),
        (None, ["--keywords", "other.json"], "not a file of keywords"),
        (None, ["--keywords", "other.json", "--negatives", "a.wav"], "enrol again"),
        (None, ["--keywords", "other.json", "--examples", "d"], "brings its vectors along"),
        (LABELS, ["--far", "2"], "not between 0 and 1"),
        (LABELS, ["--far", "0.1", "--false_alarms_per_hour", "1"], "give one"),
        (LABELS, ["--false_alarms_per_hour", "0"], "is not above 0"),
        (LABELS, ["--negatives", "b.flac"], "say what to aim at"),
        (LABELS, ["--far", "0.05", "--negatives", "a.wav"], "needs at least 19"),
        (LABELS, ["--far", "0.1", "--negatives", "bare"], "no audio in this folder"),
        (LABELS, ["--examples", "none"], "none: no such folder of examples"),
        (LABELS, ["--examples", "bare"], "bare: no folder in it"),
        (LABELS, ["--examples", "ex"], "examples of 'play musik': no such label (closest: 'play"),
        (None, ["--examples", "empty"], "empty/yes: no audio in this folder"),
        (None, ["--examples", "broken"], "broken/yes/x.wav: not audio"),
        (None, ["--examples", "many"], "many/yes: 17 clips; at most 16"),
        (None, ["--examples", "alike"], "'no' and 'yes' cannot be told apart: their cosine is 1.0"),
        (LABELS, ["bare"], "bare: no audio in this folder"),
        (LABELS, ["-"], "a file on standard input: no such audio file"),
    ],
)  # fmt: skip
def test_bad_words_in_one_line(model, clips, capsys, monkeypatch, labels, words, message):
    (clips / "latin.txt").write_bytes(b"on\n\xe9teint\n")
    (clips / "twice.txt").write_text("on\noff\non\n")
    (clips / "empty.txt").write_text("\n \n")
    (clips / "same.yaml").write_text("a: on\nb: on\n")
    (clips / "other.json").write_text("{}")
    (clips / "bare").mkdir()
    for name in ("ex/play_musik/x", "broken/yes/x", "alike/yes/x", "alike/no/x", "empty/yes/"):
        (clips / name).parent.mkdir(parents=True, exist_ok=True)
    (clips / "empty/yes").mkdir(parents=True, exist_ok=True)
    for name in ("ex/play_musik", "alike/yes", "alike/no"):
        soundfile.write(clips / name / "x.wav", tone(300), 16000)
    (clips / "broken/yes/x.wav").write_bytes(b"RIFF....not audio")
    for number in range(17):
        (clips / "many/yes").mkdir(parents=True, exist_ok=True)
        soundfile.write(clips / f"many/yes/{number}.wav", tone(300, 0.02), 16000)
    monkeypatch.setattr(sys, "stdin", io.StringIO("a file on standard input\n"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run(model, *(words if "-" in words else ["a.wav", *words]), labels=labels) == 2
    out, err = capsys.readouterr()
    assert message in err and "Traceback" not in err
    err = err.replace("embedding ordinary speech for this model, once\n", "")
    assert err.count("\n") == (2 if "-" in words else 1), err


def test_no_recordings_at_all(model, clips, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run(model) == 2 and "no recordings given" in capsys.readouterr().err
    assert run(model, "-") == 2 and "standard input was empty" in capsys.readouterr().err


def test_a_damaged_model(model, clips, capsys, tmp_path):
    import shutil

    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m/model.safetensors").write_bytes(b"short")
    assert run(str(tmp_path / "m"), "a.wav") == 2
    err = capsys.readouterr().err
    assert "truncated or changed" in err and err.count("\n") == 1


def test_onnx_is_asked_for_by_its_own_class(model, clips, capsys, monkeypatch):
    from speechcwcl.export import onnx, onnx_model

    opened = []

    def open_instead(place, *_, **__):
        opened.append(place)
        return Aligner.from_pretrained(model)

    monkeypatch.setattr(onnx, "export_once", lambda folder, *_, **__: folder)
    monkeypatch.setattr(onnx_model.OnnxAligner, "from_pretrained", open_instead)
    assert run(model, "a.wav") == run(model, "a.wav", "--onnx") == 0
    first_line, second_line = capsys.readouterr().out.splitlines()
    assert first_line == second_line and len(opened) == 1


# -- unknown --------------------------------------------------------------------------------------


def test_unknown_competes_as_a_label(model, clips, capsys):
    for cosine, place in ((1.0, 0), (-1.0, -1)):
        assert run(model, "a.wav", "--threshold", cosine, "--top_k", 9, "--format", "json") == 0
        ranked = answers(capsys)[0][0]["labels"]
        assert ranked[place] | {"score": 0} == {"label": "unknown", "score": 0, "cosine": cosine}
        assert len(ranked) == 4 and sum(e["score"] for e in ranked) == pytest.approx(1)
    assert run(model, "a.wav", "--threshold", 1, "--unknown", "other", labels="yes") == 0
    assert "other" in capsys.readouterr().out


def negatives(folder, count=25):
    folder.mkdir()
    for n in range(count):
        soundfile.write(folder / f"{n}.wav", tone(150 + 90 * n, 0.1), 16000)
    return folder


def test_thresholds_from_negatives_are_saved_and_used_again(model, clips, capsys):
    away = negatives(clips / "away")
    assert run(model, "--save", "t.json", "--negatives", away, "--far", 0.2) == 0
    out, err = capsys.readouterr()
    assert out == "" and "t.json: 3 labels, 0 examples, thresholds" in err and "clips 25" in err
    words = ["--keywords", "t.json", "--format", "json", "--top_k", 1]
    assert run(model, away, *words, labels=None) == 0
    rows, _ = answers(capsys)
    accepted = sum(row["labels"][0]["label"] != "unknown" for row in rows)
    assert accepted == 5 - 1  # (25 + 1) * 0.8 = 20.8 -> 21st
    keywords = Keywords.load("t.json")
    assert keywords.labels == LABELS.split(";") and keywords.examples == [0, 0, 0]
    opened = Aligner.from_pretrained(model)
    keywords = opened.open_keywords("t.json")
    z = keywords.z(opened.encode_speech(sorted(away.iterdir())))
    assert ((z >= keywords.level).any(axis=1)).sum() == accepted


def test_keywords_serve_their_model_only(model, clips, capsys, tiny_speech, tiny_text):
    assert run(model, "--save", "t.json") == 0
    torch.manual_seed(5)
    Aligner.build(tiny_speech, tiny_text).save_pretrained(clips / "second")
    capsys.readouterr()
    assert run(str(clips / "second"), "a.wav", "--keywords", "t.json", labels=None) == 2
    err = capsys.readouterr().err
    assert "enrolled with another model" in err and err.count("\n") == 1


def test_examples_join_the_words_of_their_labels(model, clips, capsys, monkeypatch):
    monkeypatch.setattr("speechcwcl.zeroshot.keywords.TOO_NEAR", 1.1)  # random weights hear little
    for label, pitch in (("yes", 300), ("no_thanks", 900)):
        for number in range(3):
            path = clips / "mine" / label / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, tone(pitch + number, 0.5), 16000)
    words = ["--examples", "mine", "--save", "t.json", "--false_alarms_per_hour", 0.5]
    assert run(model, "a.wav", "--format", "json", *words, labels=None) == 0
    rows, _ = answers(capsys)
    assert {e["label"] for e in rows[0]["labels"]} == {"no thanks", "yes", "unknown"}
    found = Keywords.load("t.json")
    assert found.labels == ["no thanks", "yes"] and found.examples == [3, 3]
    opened = Aligner.from_pretrained(model)
    text = opened.encode_labels(["no thanks", "yes"])
    clip = clip_vector(opened, clips / "mine/yes/0.wav")
    assert found.rows[1] @ clip > text[1] @ clip + 0.01
    again = opened.enrol(examples=clips / "mine", false_alarms_per_hour=0.5)
    assert again.level == found.level and np.allclose(again.rows, found.rows, atol=1e-4)
    found = opened.open_keywords("t.json")
    waves = [tone(300, 0.5), tone(900, 0.5)]
    assert [r[0]["cosine"] for r in opened.classify(waves, again)] == pytest.approx(
        [r[0]["cosine"] for r in opened.classify(waves, found)], abs=1e-3
    )


def test_the_rate_holds_on_negatives_not_seen():
    """On average over many calibrations, as the rule says; and no lower than it must be."""
    rng = np.random.default_rng(0)
    passed = []
    for _ in range(400):
        seen, other = rng.normal(size=39), rng.normal(size=200)
        passed.append(np.mean(other >= level_of_share(0.1, 1, seen)))
    assert 0.08 < np.mean(passed) < 0.11


# -- from Python ----------------------------------------------------------------------------------


def test_the_words_of_transformers(model):
    aligner = Aligner.from_pretrained(model)
    waves = [tone(300), tone(700)]
    ours = aligner.classify(waves, ["yes", "no"], ["say {}"])
    theirs = aligner.classify(waves, candidate_labels=["yes", "no"], hypothesis_template="say {}")
    assert ours == theirs
    with pytest.raises(UserError, match="mean the same"):
        aligner.classify(waves, ["yes", "no"], candidate_labels=["yes"])
    with pytest.raises(UserError, match="no labels"):
        aligner.classify(waves)
    with pytest.raises(UserError, match="one text"):
        aligner.classify(waves, "yes;no")
    assert aligner.classify([], ["yes", "no"]) == []
