"""`convert` and the own options of `prepare huggingface`, through the command line."""

import csv
import gzip
import json

import pytest
import soundfile

from speechcwcl.cli.main import main
from speechcwcl.corpora import get_corpus
from speechcwcl.corpora.base import write_spoken
from speechcwcl.data import remote
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import read_datadir
from speechcwcl.data.manifest import Manifest
from speechcwcl.files import read_json

OUT = {
    "csv": "m.csv", "jsonl": "m.jsonl", "speechbrain_csv": "m.csv", "speechbrain_json": "m.json",
    "lhotse": "m.jsonl.gz",
}  # fmt: skip


@pytest.fixture
def table(tmp_path):
    """A csv with unusual column names, audio below another root."""
    rows = [["clip", "said", "who", "room", "act"]]
    for number, word in enumerate(("on", "off", "up")):
        write_spoken(tmp_path / "root" / f"{word}.wav", word, seconds=1)
        rows.append([f"{word}.wav", f"turn it {word}", f"s{number}", "hall", word])
    path = tmp_path / "lists" / "corpus.csv"
    path.parent.mkdir()
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


COLUMNS = ["--audio", "clip", "--text", "said", "--speaker", "who"]
LABELS = ["--labels", "label=act", "room=room"]


def imported(table, out):
    root = ["--root", str(table.parents[1] / "root")]
    return main(["convert", str(table), str(out), *COLUMNS, *LABELS, *root])


def facts(utterances):
    return [(u.text, u.speaker, u.audio, u.labels) for u in sorted(utterances, key=lambda u: u.id)]


def test_a_csv_becomes_a_data_folder(table, tmp_path, capsys):
    assert imported(table, tmp_path / "data") == 0
    assert "3 utterances" in capsys.readouterr().out
    found = read_datadir(tmp_path / "data")
    assert found[0].text == "turn it on" and found[0].labels == {"label": "on", "room": "hall"}
    assert read_json(tmp_path / "data/corpus.json")["imported_from"] == "corpus.csv"


@pytest.mark.parametrize("format", OUT)
def test_out_and_back_through_every_format(table, tmp_path, format):
    imported(table, tmp_path / "data")
    before = facts(read_datadir(tmp_path / "data"))
    compile_manifest(tmp_path / "data", tmp_path / "manifest.jsonl", progress=False)
    for source in ("data", "manifest.jsonl"):
        out = tmp_path / f"out-{source}" / OUT[format]
        assert main(["convert", str(tmp_path / source), str(out), "--to", format]) == 0
        assert main(["convert", str(out), str(tmp_path / "back")]) == 0
        assert facts(read_datadir(tmp_path / "back")) == before


def test_from_one_toolkit_to_another_and_a_manifest_back_to_a_folder(table, tmp_path):
    imported(table, tmp_path / "data")
    nemo, cuts = tmp_path / "nemo.jsonl", tmp_path / "cuts.jsonl.gz"
    assert main(["convert", str(tmp_path / "data"), str(nemo)]) == 0
    assert "audio_filepath" in json.loads(nemo.read_text().splitlines()[0])
    assert main(["convert", str(nemo), str(cuts), "--to", "lhotse"]) == 0
    assert json.loads(gzip.decompress(cuts.read_bytes()).splitlines()[0])["type"] == "MonoCut"
    compile_manifest(tmp_path / "data", tmp_path / "manifest.jsonl", progress=False)
    assert main(["convert", str(tmp_path / "manifest.jsonl"), str(tmp_path / "again")]) == 0
    again = read_datadir(tmp_path / "again")
    assert facts(again) == facts(read_datadir(tmp_path / "data")) and again[0].duration == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no.csv", "data"], "no.csv: cannot read"),
        (["corpus.csv", "x.xml"], "x.xml: which format? say --to"),
        (["corpus.csv", "data", "--labels", "act"], "expected FIELD=COLUMN"),
        (["corpus.csv", "data"], "corpus.csv: no format known here"),
        (["corpus.csv", "data", "--from", "csv"], "corpus.csv:2: no audio file is named"),
        (["corpus.csv", "data", *COLUMNS], "corpus.csv:2: "),
    ],
)
def test_what_cannot_be_converted(table, monkeypatch, capsys, words, message):
    monkeypatch.chdir(table.parent)
    assert main(["convert", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error, error
    assert sorted(p.name for p in table.parent.iterdir()) == ["corpus.csv"]


def test_what_is_wrong_is_counted_or_skipped_and_listed(table, tmp_path, capsys):
    (tmp_path / "root/off.wav").unlink()
    assert imported(table, tmp_path / "data") == 2
    assert "corpus.csv:3: " in capsys.readouterr().err and not (tmp_path / "data").exists()
    root = ["--root", str(tmp_path / "root"), "--skip_bad"]
    assert main(["convert", str(table), str(tmp_path / "data"), *COLUMNS, *LABELS, *root]) == 0
    assert len(read_datadir(tmp_path / "data")) == 2
    assert "off.wav is not there" in (tmp_path / "data/bad.tsv").read_text()
    out = tmp_path / "m.jsonl"
    assert main(["convert", str(table), str(out), *COLUMNS, *root]) == 0
    assert len(out.read_text().splitlines()) == 2
    assert "off.wav is not there" in (tmp_path / "m.jsonl.bad.tsv").read_text()


def test_clips_in_shards_are_not_exported(table, tmp_path, capsys):
    imported(table, tmp_path / "data")
    compile_manifest(tmp_path / "data", tmp_path / "files/manifest.jsonl", progress=False)
    source = str(tmp_path / "files/manifest.jsonl")
    assert main(["shards", source, "--out", str(tmp_path / "dump")]) == 0
    out = tmp_path / "m.csv"
    assert main(["convert", str(tmp_path / "dump/manifest.jsonl"), str(out)]) == 2
    assert "lies in a shard" in capsys.readouterr().err and not out.exists()


def prepare(tmp_path, *words):
    return main(["prepare", "huggingface", "--out", str(tmp_path / "data"), *words])


def test_prepare_takes_columns_and_splits_of_a_local_dataset(tmp_path, monkeypatch):
    source = get_corpus("huggingface").fake(tmp_path / "source")
    words = ["--data", str(source), "--sets", "dev", "test", "--split", "dev=validation"]
    words += ["--text", "text", "--labels", "wish=intent", "who=speaker_id", "--limit", "2"]
    assert prepare(tmp_path, *words) == 0
    dev, test = (read_datadir(tmp_path / "data" / name) for name in ("dev", "test"))
    assert len(dev) == len(test) == 2 and dev[0].audio != test[0].audio
    assert dev[0].labels == {"wish": "heating_on", "who": "validation0"}
    assert soundfile.info(dev[0].audio).samplerate == 16000


def test_prepare_takes_a_hub_id_with_configuration_and_revision(tmp_path, monkeypatch):
    asked = []

    def splits(*words):
        asked.append(words)
        return ["validation", "train.100"]

    def records(dataset, split, config, revision):
        asked.append((dataset, split, config, revision))
        clip = tmp_path / "one.flac"
        write_spoken(clip, split)
        row = {"audio": {"bytes": clip.read_bytes(), "path": "x.flac"}, "said": split}
        return remote.Records(["audio", "said"], ["audio"], {}, lambda skip: iter([row][skip:]))

    monkeypatch.setattr(remote, "hub_splits", splits)
    monkeypatch.setattr(remote, "hub_records", records)
    words = ["--downloads", str(tmp_path / "dl"), "--dataset", "org/name", "--config", "en"]
    words += ["--revision", "abc", "--text", "said", "--split", "train=train.100"]
    assert prepare(tmp_path, *words, "--sets", "train", "validation") == 0
    assert asked[0] == ("org/name", "en", "abc")
    assert asked[1:] == [("org/name", s, "en", "abc") for s in ("train.100", "validation")]
    assert [u.text for u in read_datadir(tmp_path / "data/train")] == ["train.100"]
    assert list((tmp_path / "dl/huggingface/org--name/en").iterdir())


def test_a_mapped_split_stands_beside_those_that_keep_their_names(tmp_path):
    source = get_corpus("huggingface").fake(tmp_path / "source")
    for out, sets in (("all", []), ("usual", ["--sets", "train", "validation", "test"])):
        words = ["--data", str(source), *sets, "--out", str(tmp_path / out)]
        assert prepare(tmp_path, *words, "--split", "test=validation") == 0
        assert {u.speaker for u in read_datadir(tmp_path / out / "test")} == {
            "validation0", "validation1",
        }  # fmt: skip
        assert sorted(p.name for p in (tmp_path / out).glob("*/wav.scp")) == ["wav.scp"] * 2
        assert (tmp_path / out / "train/wav.scp").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sets", "dev"], "no split 'dev'"),
        (["--sets", "test", "--text", "txet"], "text: no column 'txet' (closest: 'text')"),
        (["--sets", "dev", "--split", "validation"], "'validation': expected NAME=VALUE"),
    ],
)
def test_wrong_words_for_a_dataset(tmp_path, capsys, words, message):
    source = get_corpus("huggingface").fake(tmp_path / "source")
    assert prepare(tmp_path, "--data", str(source), *words) == 2
    assert message in capsys.readouterr().err


def test_a_corpus_without_options_of_its_own_refuses_them(tmp_path, capsys):
    assert main(["prepare", "mini", "--out", str(tmp_path / "d"), "--text", "said"]) == 2
    assert "mini has no option --text" in capsys.readouterr().err


def test_a_local_id_reads_the_same_from_arrow_and_audiofolder(tmp_path):
    import datasets

    clip = tmp_path / "folder/test/clips/a.wav"
    write_spoken(clip, "hello")
    (tmp_path / "folder/test/metadata.csv").write_text("file_name,said\nclips/a.wav,hello\n")
    row = {"audio": [{"bytes": clip.read_bytes(), "path": "a.wav"}], "said": ["hello"]}
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(row)}).save_to_disk(tmp_path / "arrow")
    for kind in ("folder", "arrow"):
        out = tmp_path / kind / "out"
        words = ["--data", str(tmp_path / kind), "--sets", "test", "--text", "said"]
        assert main(["prepare", "huggingface", "--out", str(out), *words]) == 0
        (found,) = read_datadir(out / "test")
        assert found.text == "hello" and len(found.load()) > 4000
        summary = compile_manifest(out / "test", out / "m.jsonl", progress=False)
        assert summary.utterances == 1 and Manifest(out / "m.jsonl")[0].text == "hello"
