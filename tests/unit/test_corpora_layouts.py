"""Each corpus: the real preparation, run on a small fake in the corpus' true layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from speechcwcl.corpora import get_corpus
from speechcwcl.corpora.slurp import Slurp
from speechcwcl.corpora.stop import COLUMNS, first_intent
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import check_datadir, read_corpus, read_datadir
from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import UserError

NAMES = (
    "librispeech", "common_voice", "slurp", "stop", "speech_commands", "fluent_speech_commands",
)  # fmt: skip


@pytest.fixture
def copy(fakes, tmp_path):
    """A copy of a fake, to be damaged."""
    return lambda name: Path(shutil.copytree(fakes(name), tmp_path / name))


def prepared(name: str, source: Path, out: Path, split: str, **options) -> list:
    (folder,) = get_corpus(name).prepare(source, out, [split], **options)
    return read_datadir(folder)


@pytest.mark.parametrize("name", NAMES)
def test_every_split_of_the_fake_prepares_and_compiles(fakes, tmp_path, name):
    corpus = get_corpus(name)
    folders = corpus.prepare(fakes(name), tmp_path / "data")
    assert [folder.name for folder in folders] == list(corpus.splits)
    for folder in folders:
        report = check_datadir(folder)
        assert not report.problems, str(report)
        facts = read_corpus(folder)
        assert facts["name"] == name and facts["licence"] and facts["split"] == folder.name
        assert set(report.fields) <= set(corpus.label_fields)
        summary = compile_manifest(folder, tmp_path / f"{folder.name}.jsonl", progress=False)
        assert summary.utterances == report.utterances and summary.bad == 0
        first = Manifest(summary.manifest)[0]
        assert len(first.load()) == pytest.approx(16000 * first.duration, abs=16000 * 0.06)


@pytest.mark.parametrize("name", NAMES)
def test_the_fake_is_the_same_again(tmp_path, fakes, name):
    again = get_corpus(name).fake(tmp_path / "again")
    names = {p.relative_to(again) for p in again.rglob("*")}
    assert names == {p.relative_to(fakes(name)) for p in fakes(name).rglob("*")}


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_folder_is_named(tmp_path, name):
    (tmp_path / "holiday.jpg").touch()
    corpus = get_corpus(name)
    with pytest.raises(UserError, match="holiday.jpg"):
        corpus.prepare(tmp_path, tmp_path / "data", [corpus.splits[0]])
    assert not (tmp_path / "data" / corpus.splits[0]).exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_half_extracted_archive_is_named(copy, tmp_path, name):
    source = copy(name)
    (source / ".extracting-some.tar.gz").touch()
    corpus = get_corpus(name)
    with pytest.raises(UserError, match="some.tar.gz is only half extracted"):
        corpus.prepare(source, tmp_path / "data", [corpus.splits[0]])


def test_librispeech_chapters(fakes, tmp_path):
    got = prepared("librispeech", fakes("librispeech"), tmp_path, "test-other")
    assert len(got) == 6 and {u.speaker for u in got} == {"160", "161"}
    first = got[0]
    assert first.id == "160-7006-0000" and first.audio.endswith("160/7006/160-7006-0000.flac")
    assert first.text == "the old clock in the hall had stopped at noon", "lower case"
    again = prepared("librispeech", fakes("librispeech") / "LibriSpeech", tmp_path, "test-other")
    assert again == got, "the folder itself and the one above it are taken"


def test_librispeech_bad_input(copy, tmp_path):
    source = copy("librispeech")
    folder = source / "LibriSpeech" / "dev-clean" / "130" / "7003"
    (folder / "130-7003-0001.flac").unlink()
    with (folder / "130-7003.trans.txt").open("a") as stream:
        stream.write("130-7003-0009\n")
    (folder / "130-7003-0007.flac").write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        prepared("librispeech", source, tmp_path / "data", "dev-clean")
    text = str(caught.value)
    assert "130-7003.trans.txt:2: " in text and "130-7003-0001.flac is not there" in text
    assert ":4: 130-7003-0009 has no transcript" in text
    assert "no transcript of 130-7003-0007.flac" in text
    got = prepared("librispeech", source, tmp_path / "data", "dev-clean", skip_bad=True)
    assert len(got) == 5
    listed = (tmp_path / "data" / "dev-clean" / "bad.tsv").read_text().splitlines()
    assert len(listed) == 3


def test_librispeech_missing_split(copy, tmp_path):
    source = copy("librispeech")
    shutil.rmtree(source / "LibriSpeech" / "train-clean-5")
    with pytest.raises(UserError, match=r"train-clean-5: not there.*extracted completely"):
        prepared("librispeech", source, tmp_path / "data", "train-clean-5")


def test_common_voice_clips(fakes, tmp_path):
    source = fakes("common_voice")
    got = prepared("common_voice", source, tmp_path, "dev")
    assert len(got) == 5 and len({u.speaker for u in got}) == 2
    assert got[0].text == "The bakery opens before sunrise."
    assert {len(u.speaker) for u in got} == {16}
    assert prepared("common_voice", source / "cv-corpus-0.0-fake" / "en", tmp_path, "dev") == got
    assert len(prepared("common_voice", source, tmp_path, "validated")) == 15


def test_common_voice_several_languages_must_be_chosen_from(copy, tmp_path):
    source = copy("common_voice")
    (source / "cv-corpus-0.0-fake" / "de" / "clips").mkdir(parents=True)
    with pytest.raises(UserError, match="several languages .*de.*en"):
        prepared("common_voice", source, tmp_path / "data", "dev")


def test_common_voice_old_releases_have_fewer_columns_and_bare_names(copy, tmp_path):
    source = copy("common_voice")
    table = source / "cv-corpus-0.0-fake" / "en" / "test.tsv"
    lines = [line.split("\t") for line in table.read_text().splitlines()]
    rows = [[r[0], r[1].removesuffix(".mp3"), r[3], "2", "0"] for r in lines[1:]]
    rows.insert(0, ["client_id", "path", "sentence", "up_votes", "down_votes"])
    table.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    assert len(prepared("common_voice", source, tmp_path / "data", "test")) == 5


def test_common_voice_bad_input(copy, tmp_path):
    source = copy("common_voice")
    folder = source / "cv-corpus-0.0-fake" / "en"
    clips = sorted((folder / "clips").iterdir())
    clips[10].unlink()  # the first clip of test
    table = folder / "test.tsv"
    lines = table.read_text().splitlines()
    cells = lines[2].split("\t")
    cells[3] = " "
    lines[2] = "\t".join(cells)
    lines[3] = "\t".join(lines[3].split("\t")[:4])
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError) as caught:
        prepared("common_voice", source, tmp_path / "data", "test")
    text = str(caught.value)
    assert f"test.tsv:2: {clips[10]} is not there" in text
    assert ":3: common_voice_en_10000012.mp3 has no sentence" in text
    assert ":4: 4 columns instead of 13" in text
    assert len(prepared("common_voice", source, tmp_path / "data", "test", skip_bad=True)) == 2
    table.write_text("client_id\tpath\ttext\n")
    with pytest.raises(UserError, match=r"test.tsv:1: no column 'sentence'"):
        prepared("common_voice", source, tmp_path / "data", "test")


def test_a_truncated_mp3_is_named_when_it_is_measured(copy, tmp_path):
    source = copy("common_voice")
    clip = sorted((source / "cv-corpus-0.0-fake" / "en" / "clips").iterdir())[10]
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 4])
    (folder,) = get_corpus("common_voice").prepare(source, tmp_path / "data", ["test"])
    out = tmp_path / "manifest.jsonl"
    with pytest.raises(UserError, match=clip.name):
        compile_manifest(folder, out, progress=False)
    assert not out.exists()
    summary = compile_manifest(folder, out, skip_bad=True, progress=False)
    assert summary.utterances == 4 and summary.bad == 1
    assert clip.stem in Path(summary.bad_list).read_text()


def test_slurp_is_one_utterance_a_recording(fakes, tmp_path):
    got = prepared("slurp", fakes("slurp"), tmp_path, "devel")
    assert len(got) == 12
    one = next(u for u in got if u.id == "2004-audio-1490002004-headset")
    assert one.labels == {
        "label": "iot_hue_lightoff", "scenario": "iot", "action": "hue_lightoff",
    }  # fmt: skip
    assert one.speaker == "FE-110" and one.text == "no more light in the attic please"
    near = prepared("slurp", fakes("slurp"), tmp_path, "devel_headset")
    assert [u.id for u in near] == [u.id for u in got if u.id.endswith("-headset")]
    synthetic = prepared("slurp", fakes("slurp"), tmp_path, "train_synthetic")
    assert len(synthetic) == 6 and "/slurp_synth/audio-synth-" in synthetic[0].audio


def test_slurp_uses_scenario_and_action_not_the_raw_intent(copy, tmp_path):
    source = copy("slurp")
    table = source / "dataset" / "slurp" / "test.jsonl"
    entries = [json.loads(line) for line in table.read_text().splitlines()]
    entries[0]["intent"] = "something_else"
    table.write_text("".join(json.dumps(e) + "\n" for e in entries))
    assert {u.labels["label"] for u in prepared("slurp", source, tmp_path / "d", "test")} == {
        f"{e['scenario']}_{e['action']}" for e in entries
    }


def test_slurp_flat_folder_as_other_toolkits_keep_it(copy, tmp_path):
    source = copy("slurp")
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (source / "dataset" / "slurp").iterdir():
        path.rename(flat / path.name)
    (source / "audio" / "slurp_real").rename(flat / "slurp_real")
    assert len(prepared("slurp", flat, tmp_path / "data", "train")) == 12


def test_slurp_without_metadata_has_an_utterance_a_speaker(copy, tmp_path):
    source = copy("slurp")
    (source / "dataset" / "slurp" / "metadata.json").unlink()
    got = prepared("slurp", source, tmp_path / "data", "devel")
    assert all(u.speaker == u.id for u in got)


def test_slurp_bad_input(copy, tmp_path):
    source = copy("slurp")
    gone = source / "audio" / "slurp_real" / "audio-1490003001-headset.flac"
    gone.unlink()
    table = source / "dataset" / "slurp" / "test.jsonl"
    lines = table.read_text().splitlines()
    entry = json.loads(lines[2])
    entry["sentence"] = ""
    lines[2] = json.dumps(entry)
    entry = json.loads(lines[3])
    entry["recordings"][0]["file"] = "../../secret.flac"
    lines[3] = json.dumps(entry)
    lines[5] = lines[5][:50]
    table.write_text("\n".join(lines))
    with pytest.raises(UserError) as caught:
        prepared("slurp", source, tmp_path / "data", "test")
    text = str(caught.value)
    assert f"test.jsonl:2: {gone} is not there" in text
    assert ":3: no sentence in this entry" in text
    assert ":4: a recording's name must not hold a folder" in text
    assert ":6: not an entry of SLURP's annotations (cut off?)" in text
    assert len(prepared("slurp", source, tmp_path / "data", "test", skip_bad=True)) == 5


def test_slurp_missing_parts_are_named(copy, tmp_path):
    source = copy("slurp")
    (source / "dataset" / "slurp" / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"train.jsonl: not there"):
        prepared("slurp", source, tmp_path / "data", "train")
    shutil.rmtree(source / "audio" / "slurp_real")
    with pytest.raises(UserError, match=r"no folder audio/slurp_real"):
        prepared("slurp", source, tmp_path / "data", "test")
    with pytest.raises(UserError, match="no split 'tset' .*closest: 'test'"):
        Slurp().prepare(source, tmp_path / "data", ["tset"])


def test_slurp_not_utf8_is_one_line(copy, tmp_path):
    source = copy("slurp")
    table = source / "dataset" / "slurp" / "devel.jsonl"
    table.write_bytes(table.read_bytes() + b"\xff\xfe{}\n")
    with pytest.raises(UserError, match=r"devel.jsonl:7: not UTF-8"):
        prepared("slurp", source, tmp_path / "data", "devel")


def test_stop_rows(fakes, tmp_path):
    got = prepared("stop", fakes("stop"), tmp_path, "test")
    assert len(got) == 8
    first = got[0]
    assert first.labels == {
        "label": "CREATE_ALARM", "domain": "alarm", "gender": "female", "native": "no",
    }  # fmt: skip
    assert first.id == "test_0-alarm_test_0-00000000"
    assert first.audio.endswith("stop/test_0/alarm_test/00000000.wav"), "not the listed folder"
    assert first.text == "an alarm at a quarter to seven", "the normalised utterance"
    train = prepared("stop", fakes("stop") / "stop", tmp_path, "train")
    assert train[0].audio.endswith("stop/train_0/alarm_train_0/00000000.wav")


def test_stop_intent_is_the_first_of_the_parse():
    assert first_intent("[IN:GET_EVENT [SL:X [IN:GET_LOCATION there ] ] ]") == "GET_EVENT"
    assert first_intent("what [IN:UNSUPPORTED_MUSIC ]") == "UNSUPPORTED_MUSIC"
    assert first_intent("[SL:X there ]") is None


def test_stop_columns_in_another_order(copy, tmp_path):
    source = copy("stop")
    table = source / "stop" / "manifests" / "eval.tsv"
    before = prepared("stop", source, tmp_path / "data", "eval")
    rows = [dict(zip(COLUMNS, r.split("\t"), strict=True)) for r in table.read_text().splitlines()]
    order = sorted(COLUMNS)
    table.write_text("".join("\t".join(row[c] for c in order) + "\n" for row in rows))
    assert prepared("stop", source, tmp_path / "data", "eval") == before


def test_stop_bad_input(copy, tmp_path):
    source = copy("stop")
    (source / "stop" / "test_0" / "music_test" / "00000003.wav").unlink()
    table = source / "stop" / "manifests" / "test.tsv"
    lines = table.read_text().splitlines()
    cells = lines[1].split("\t")
    lines[1] = "\t".join([*cells[:-1], "no parse"])
    lines[2] += "\tmore"
    cells = lines[3].split("\t")
    lines[3] = "\t".join(["../../../secret.wav", *cells[1:]])
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError) as caught:
        prepared("stop", source, tmp_path / "data", "test")
    text = str(caught.value)
    assert "test.tsv:2: no [IN: in the parse 'no parse'" in text
    assert ":3: 10 columns instead of 9" in text
    assert "test.tsv:4: " in text and "test.tsv:5: " in text
    assert len(prepared("stop", source, tmp_path / "data", "test", skip_bad=True)) == 4
    table.write_text("file_id\tdomain\tutterance\tnormalized_seqlogical\n")
    with pytest.raises(UserError, match="no column 'decoupled_normalized_seqlogical'"):
        prepared("stop", source, tmp_path / "data", "test")


def test_archives_follow_the_splits():
    def names(corpus: str, *splits: str) -> list[str]:
        return [a.name for a in get_corpus(corpus).archives(splits)]

    assert names("speech_commands", "test") == ["speech_commands_v0.02.tar.gz"]
    assert names("speech_commands", "test12") == ["speech_commands_test_set_v0.02.tar.gz"]
    assert names("librispeech", "dev-clean-2") == ["dev-clean-2.tar.gz"]
    assert names("slurp", "test_headset") == ["test.jsonl", "metadata.json", "slurp_real.tar.gz"]
    assert names("slurp", "train_synthetic")[-1] == "slurp_synth.tar.gz"
    with pytest.raises(UserError, match="Common Voice cannot be downloaded.*--data"):
        get_corpus("common_voice").download(Path("nowhere"))
