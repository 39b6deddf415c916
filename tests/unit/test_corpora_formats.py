"""Manifests of other toolkits: read as those write them, written so that they read the same."""

from __future__ import annotations

import csv
import gzip
import json

import pytest

from speechcwcl.corpora._convert import export_manifest, import_datadir, write_manifest
from speechcwcl.corpora._formats import FORMATS, Options, detect, read_manifest
from speechcwcl.corpora.base import write_spoken
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import read_datadir, write_datadir
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError

SUFFIX = {
    "csv": "m.csv",
    "jsonl": "m.jsonl",
    "speechbrain_csv": "m.csv",
    "speechbrain_json": "m.json",
    "lhotse": "m.jsonl.gz",
}


@pytest.fixture
def clips(tmp_path):
    """Two clips of a second and one of three, in `wavs/` beside the manifests."""
    for name, seconds in (("a", 1.0), ("b", 1.0), ("long", 3.0)):
        write_spoken(tmp_path / "wavs" / f"{name}.wav", name, seconds=seconds)
    return tmp_path


def read(path, format="", **options) -> list[Utterance]:
    problems = Problems()
    found = list(read_manifest(path, format, problems=problems, options=Options(**options)))
    assert not problems, problems.text()
    return found


def wav(clips, name: str) -> str:
    return str((clips / "wavs" / f"{name}.wav").resolve())


def examples(clips) -> list[Utterance]:
    return [
        Utterance("u1", wav(clips, "a"), "turn it on, please", "s1", labels={"label": "on"}),
        Utterance("u2", wav(clips, "b"), 'he said "no"', "s2", labels={"label": "off"}),
        Utterance(
            "u3", wav(clips, "long"), "größer", "s1", 0.5, 2.25,
            labels={"label": "on", "domain": "heating"},
        ),
    ]  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_reads_the_same(clips, format):
    before = examples(clips)
    path = write_manifest(clips / SUFFIX[format], before, format)
    assert detect(path) == format
    after = read(path)
    for one, other in zip(before, after, strict=True):
        assert (one.id, one.audio, one.text, one.speaker) == (
            other.id, other.audio, other.text, other.speaker,
        )  # fmt: skip
        assert {k: v for k, v in other.labels.items() if v} == one.labels
    assert (after[2].start, after[2].end) == (pytest.approx(0.5), pytest.approx(2.25))
    whole = after[0]
    assert (whole.start or 0.0, whole.end or 1.0) == (0.0, 1.0)


@pytest.mark.parametrize("format", FORMATS)
def test_data_folder_out_and_in(clips, tmp_path, format):
    folder = write_datadir(tmp_path / "data", examples(clips), corpus={"name": "x"})
    path = export_manifest(folder, tmp_path / "out" / SUFFIX[format], format)
    again = import_datadir(path, tmp_path / "again")
    assert [(u.id, u.text, u.labels) for u in read_datadir(again)] == [
        (u.id, u.text, u.labels) for u in read_datadir(folder)
    ]
    compile_manifest(folder, tmp_path / "manifest.jsonl", progress=False)
    path = export_manifest(tmp_path / "manifest.jsonl", tmp_path / "two" / SUFFIX[format], format)
    assert [u.id for u in read(path)] == ["u1", "u2", "u3"]


def test_our_own_manifest_is_read(clips, tmp_path):
    folder = write_datadir(tmp_path / "data", examples(clips), corpus={"name": "x"})
    path = tmp_path / "manifest.jsonl"
    compile_manifest(folder, path, progress=False)
    assert detect(path) == "jsonl"
    got = read(path)
    assert [u.labels for u in got] == [u.labels for u in examples(clips)]
    assert (got[2].start, got[2].end) == (0.5, 2.25)


def test_nemo(clips):
    path = clips / "nemo.json"
    lines = [
        {"audio_filepath": "wavs/a.wav", "duration": 1.0, "text": "yes"},
        {"audio_filepath": wav(clips, "long"), "duration": 1.5, "offset": 0.0, "text": "part"},
        {"audio_filepath": "wavs/b.wav", "duration": 1.0, "command": "go"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
    assert detect(path) == "jsonl"
    first, second = read(path)
    assert first.audio == wav(clips, "a") and first.start is None, "relative to the manifest"
    assert (second.start, second.end) == (0.0, 1.5), "an offset of 0 still cuts"
    assert first.id == "00000001-a"
    path.write_text(json.dumps(lines[2]))
    assert read(path)[0].labels == {"label": "go"}


def test_whisper_fine_tuning(clips):
    path = clips / "whisper.jsonl"
    line = {
        "audio": {"path": "wavs/long.wav", "start_time": 1, "end_time": 2},
        "sentence": "And so.",
        "language": "English",
        "duration": 1,
    }
    path.write_text(json.dumps(line))
    (got,) = read(path)
    assert (got.audio, got.start, got.end, got.text) == (wav(clips, "long"), 1.0, 2.0, "And so.")


def test_speechbrain_csv_as_its_recipes_write_it(clips):
    path = clips / "train.csv"
    path.write_text(
        "ID, duration, wav, start, stop, spk_id, wrd\n"
        "x1, 1.0, {data_root}/a.wav, , , s1, THE CAT\n"
        "x2, 0.5, $data_root/long.wav, 8000, 16000, s2, A DOG\n"
    )
    assert detect(path) == "speechbrain_csv"
    one, two = read(path, root=str(clips / "wavs"))
    assert (one.id, one.text, one.speaker) == ("x1", "THE CAT", "s1")
    assert (two.start, two.end) == (0.5, 1.0), "samples become seconds"


def test_speechbrain_json_as_its_recipes_write_it(clips):
    path = clips / "train.json"
    entries = {
        "u-1": {"wav": "{data_root}/wavs/a.wav", "length": 1.0, "words": "A B", "spk_id": "s"},
        "u-2": {
            "wav": {"file": wav(clips, "long"), "start": 16000, "stop": 32000},
            "length": 1.0,
            "words": "C",
        },
    }
    path.write_text(json.dumps(entries, indent=2))
    assert detect(path) == "speechbrain_json"
    one, two = read(path)
    assert (one.id, one.text, one.audio) == ("u-1", "A B", wav(clips, "a"))
    assert (two.start, two.end) == (1.0, 2.0)


def cut(clips, **changes) -> dict:
    made = {
        "id": "c1", "start": 0.5, "duration": 1.0, "channel": 0,
        "supervisions": [
            {"id": "s2", "recording_id": "r", "start": 0.6, "duration": 0.4, "text": "there",
             "speaker": "p"},
            {"id": "s1", "recording_id": "r", "start": 0.0, "duration": 0.5, "text": "hello",
             "speaker": "p", "custom": {"intent": "greet"}},
        ],
        "recording": {
            "id": "r", "sources": [{"type": "file", "channels": [0], "source": "wavs/long.wav"}],
            "sampling_rate": 16000, "num_samples": 48000, "duration": 3.0,
        },
        "type": "MonoCut",
    }  # fmt: skip
    return made | changes


def test_lhotse_cuts(clips):
    path = clips / "cuts.jsonl.gz"
    with gzip.open(path, "wt") as stream:
        stream.write(json.dumps(cut(clips)) + "\n")
    assert detect(path) == "lhotse"
    (got,) = read(path)
    assert (got.text, got.speaker, got.start, got.end) == ("hello there", "p", 0.5, 1.5)
    assert got.labels == {"label": "greet"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"type": "MixedCut"}, "a MixedCut"),
        ({"recording": {"sources": [{"type": "command", "source": "cat"}], "duration": 1}}, "file"),
        ({"recording": {"sources": [], "duration": 1, "transforms": [{"name": "Speed"}]}}, "trans"),
        ({"duration": "x"}, "could not convert"),
    ],
)
def test_cuts_that_no_single_file_can_give_are_problems(clips, change, why):
    path = clips / "cuts.jsonl"
    lines = [json.dumps(cut(clips)), json.dumps(cut(clips, **change))]
    path.write_text("\n".join(lines))
    problems = Problems()
    got = list(read_manifest(path, problems=problems))
    assert len(got) == 1 and len(problems) == 1
    assert f"{path}:2: " in problems.lines[0] and why in problems.lines[0]


def test_plain_csv_and_tsv_with_columns_by_name(clips):
    path = clips / "mine.csv"
    path.write_text('file,said,who,what\nwavs/a.wav,"one, two",anna b,x\nwavs/b.wav,three,bob,y\n')
    assert detect(path) == "csv"
    got = read(path, text="said", speaker="who", labels={"label": "what"})
    assert [(u.text, u.speaker, u.labels["label"]) for u in got] == [
        ("one, two", "anna_b", "x"), ("three", "bob", "y"),
    ]  # fmt: skip
    table = clips / "mine.tsv"
    table.write_text("audio\tlabel\tlabel_room\nwavs/a.wav\ton\tkitchen\n")
    (one,) = read(table)
    assert one.labels == {"label": "on", "room": "kitchen"} and one.text is None


def test_bad_lines_are_gathered_with_their_numbers(clips, tmp_path):
    path = clips / "bad.csv"
    path.write_text(
        "audio,text,start,end\nwavs/a.wav,fine,,\nwavs/c.wav,gone,,\n,no audio,,\n"
        "wavs/b.wav,,,\nwavs/b.wav,x,later,\nwavs/b.wav,x,,,too many\n"
    )
    with pytest.raises(UserError) as caught:
        import_datadir(path, tmp_path / "data")
    text = str(caught.value)
    assert "bad.csv:3: " in text and "wavs/c.wav is not there" in text
    assert "bad.csv:4: no audio file is named" in text
    assert "bad.csv:5: neither text nor label" in text
    assert "bad.csv:6: start 'later' is not a time" in text
    assert "bad.csv:7: 5 columns instead of 4" in text
    assert not (tmp_path / "data").exists()
    folder = import_datadir(path, tmp_path / "data", skip_bad=True)
    assert [u.text for u in read_datadir(folder)] == ["fine"]
    assert len((folder / "bad.tsv").read_text().splitlines()) == 5


def test_bad_json_lines(clips):
    path = clips / "m.jsonl"
    path.write_text('{"audio_filepath": "wavs/a.wav", "text": "x"}\n{"audio_fi\n[1]\n')
    problems = Problems()
    assert len(list(read_manifest(path, problems=problems))) == 1
    assert [p.split(": ")[0] for p in problems.lines] == [f"{path}:2", f"{path}:3"]


def test_unknown_formats_are_refused(clips):
    path = clips / "x.txt"
    path.write_text("hello\n")
    with pytest.raises(UserError, match="no format known here.*'hello"):
        detect(path)
    with pytest.raises(UserError, match="no format 'lhotze'.*closest: 'lhotse'"):
        write_manifest(clips / "o", [], "lhotze")
    with pytest.raises(UserError, match="cannot read"):
        detect(clips / "absent.csv")


def test_commands_are_never_exported(clips):
    with pytest.raises(UserError, match="a command"):
        write_manifest(clips / "m.jsonl", [Utterance("u", "cat x |", "t", duration=1.0)], "jsonl")
    assert not (clips / "m.jsonl").exists()


def test_a_written_csv_is_plain(clips):
    path = write_manifest(clips / "m.csv", examples(clips), "csv")
    rows = list(csv.DictReader(path.open()))
    assert rows[2]["label_domain"] == "heating" and rows[2]["start"] == "0.5"
    assert rows[0]["label_domain"] == "" and rows[0]["text"] == "turn it on, please"


@pytest.mark.parametrize("format", ["csv", "speechbrain_csv"])
def test_a_label_that_comes_late_is_a_column_of_all(clips, format):
    audio = wav(clips, "a")

    def many(count):
        for number in range(count):
            labels = {"label": "x", **({"late": "y"} if number == count - 1 else {})}
            yield Utterance(f"u{number}", audio, f"word {number}", "s", None, None, 1.0, labels)

    write_manifest(clips / "many.csv", many(500), format)
    with (clips / "many.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 500 and rows[-1]["label_late"] == "y" and rows[0]["label_late"] == ""
