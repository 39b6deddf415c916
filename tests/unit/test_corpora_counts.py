"""What is known of the real annotations, counted where they are there."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from speechcwcl.corpora.slurp import Slurp, read_sentences
from speechcwcl.corpora.speech_commands import WORDS, SpeechCommands, which_set
from speechcwcl.corpora.stop import DOMAINS, read_topv2
from speechcwcl.data.kaldi import read_datadir
from speechcwcl.data.tables import Problems
from speechcwcl.errors import UserError
from speechcwcl.zeroshot.protocol import load_protocol


def annotations(real_data, split):
    path = real_data / "text" / "slurp" / f"{split}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    problems = Problems()
    found = [entry for _, entry in read_sentences(path, problems)]
    assert not problems
    return found


@pytest.mark.parametrize(
    ("split", "sentences", "recordings", "headset", "actions"),
    [("devel", 2033, 8690, 4173, 45), ("test", 2974, 13078, 6281, 46)],
)
def test_slurp(real_data, split, sentences, recordings, headset, actions):
    found = annotations(real_data, split)
    files = [recording["file"] for entry in found for recording in entry["recordings"]]
    assert (len(found), len(files)) == (sentences, recordings)
    assert len(set(files)) == len(files)
    assert sum("-headset" in name for name in files) == headset
    assert len({entry["scenario"] for entry in found}) == 18
    assert len({entry["action"] for entry in found}) == actions
    assert len({f"{entry['scenario']}_{entry['action']}" for entry in found}) == 59


def test_slurp_intent_field_is_noisy(real_data):
    found = annotations(real_data, "test")
    assert len({entry["intent"] for entry in found}) == 77
    raw = sum(entry["intent"] != f"{entry['scenario']}_{entry['action']}" for entry in found)
    assert raw == 37


def test_slurp_prepares_from_the_real_annotations(real_data, tmp_path):
    """The real code on the real lists; the audio files are empty, which preparing does not read."""
    source = tmp_path / "slurp"
    for split in ("devel", "test"):
        for entry in annotations(real_data, split):
            for recording in entry["recordings"]:
                path = source / "audio" / "slurp_real" / recording["file"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        text = (real_data / "text" / "slurp" / f"{split}.jsonl").read_bytes()
        (source / f"{split}.jsonl").write_bytes(text)
    folders = Slurp().prepare(source, tmp_path / "data", ["devel", "test", "test_headset"])
    got = [read_datadir(folder) for folder in folders]
    assert [len(utterances) for utterances in got] == [8690, 13078, 6281]
    protocol = load_protocol("slurp_intent")
    kept, targets = protocol.assign(got[1])
    assert len(kept) == 13078 and len(set(targets.tolist())) == 59


def test_published_hashes_are_those_of_the_files_here(real_data):
    from speechcwcl.corpora.slurp import _SHA256
    from speechcwcl.files import sha256_file

    annotations(real_data, "devel")
    for split, wanted in _SHA256.items():
        assert sha256_file(real_data / "text" / "slurp" / f"{split}.jsonl") == wanted


@pytest.mark.parametrize(
    ("split", "sentences", "intents"), [("eval", 17160, 63), ("test", 38785, 65)]
)
def test_topv2(real_data, split, sentences, intents):
    folder = real_data / "text" / "topv2"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    found = read_topv2(folder, split)
    assert len(found) == sentences
    assert {domain for domain, _, _ in found} == set(DOMAINS)
    counts = Counter(intent for _, _, intent in found)
    assert len(counts) == intents
    if split == "test":
        assert counts.most_common(2) == [("GET_WEATHER", 5333), ("CREATE_ALARM", 3744)]


def test_topv2_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"alarm_test.tsv: no such file"):
        read_topv2(tmp_path, "test")


@pytest.mark.parametrize(
    ("name", "part", "clips"),
    [("v2_testing_list.txt", "test", 11005), ("v2_validation_list.txt", "valid", 9981)],
)
def test_speech_commands_lists(real_data, name, part, clips):
    path = real_data / "text" / "gsc_lists" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    names = path.read_text().split()
    assert len(names) == len(set(names)) == clips
    assert {line.split("/")[0] for line in names} == set(WORDS)
    assert {which_set(line) for line in names} == {part}, "the rule gives the published lists"


def test_speech_commands_sample_of_v001(real_data, tmp_path):
    """Real clips of v0.01 in word folders without lists; speakers of the test set left out."""
    source = real_data / "gsc_v1_mini"
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    (every,) = SpeechCommands().prepare(source, tmp_path, ["all"])
    got = read_datadir(every)
    listed = sum(1 for word in source.iterdir() if word.is_dir() for _ in word.glob("*.wav"))
    assert len(got) == listed > 100
    kept, targets = load_protocol("gsc_v1_30").assign(got)
    assert len(kept) == listed and set(targets.tolist()) == set(range(30))
    kept, targets = load_protocol("gsc_v2_12").assign(got)
    protocol = load_protocol("gsc_v2_12")
    unknown = protocol.ids.index("_unknown_")
    words = Counter(u.labels["label"] for u in got)
    commands = sum(words[label] for label in protocol.ids)
    assert (targets == unknown).sum() == listed - commands


def test_slurp_reconstructed_train_is_refused_with_the_reason(real_data):
    """It has no scenario and action: a user who gives it is told so, line by line."""
    path = real_data / "text" / "slurp" / "train_reconstructed.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    problems = Problems()
    assert list(read_sentences(path, problems)) == []
    assert len(problems) == len(path.read_text().splitlines())
    assert "train_reconstructed.jsonl:1: no scenario in this entry" in problems.lines[0]
    assert json.loads(path.read_text().splitlines()[0])["sentence"]
