"""Speech Commands: words, lists, the rule behind the lists, silence, the official 12 classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from speechcwcl.corpora.speech_commands import SpeechCommands, which_set
from speechcwcl.data.kaldi import read_datadir
from speechcwcl.errors import UserError


@pytest.fixture
def fake(fakes):
    return fakes("speech_commands")


@pytest.fixture
def copy(fake, tmp_path):
    """A copy of the fake, to be damaged."""
    return Path(shutil.copytree(fake, tmp_path / "copy"))


def prepared(source: Path, out: Path, split: str, **options) -> list:
    (folder,) = SpeechCommands().prepare(source, out, [split], **options)
    return read_datadir(folder)


def test_speech_commands_words(fake, tmp_path):
    source = fake
    sets = {s: prepared(source, tmp_path, s) for s in SpeechCommands.splits}
    words = ("train", "valid", "test")
    assert len(sets["all"]) == 72 == sum(len(sets[s]) for s in words)
    speakers = [{u.speaker for u in sets[s]} for s in words]
    assert not speakers[0] & speakers[1] and not speakers[0] & speakers[2]
    for split in words:
        labels = {u.labels["label"] for u in sets[split]}
        assert labels == {"yes", "no", "left", "stop", "seven", "tree"}
        assert not any("noise" in u.audio for u in sets[split])
        assert all(u.text == u.labels["label"] for u in sets[split])
        assert all(which_set(Path(u.audio).name) == split for u in sets[split])


def test_speech_commands_silence_is_cut_from_the_noise(fake, tmp_path):
    source = fake
    for split, noise in (("train12", "white_noise"), ("valid12", "running_tap")):
        got = prepared(source, tmp_path, split)
        pieces = [u for u in got if u.labels["label"] == "_silence_"]
        assert [(u.start, u.end) for u in pieces] == [(0.0, 1.0), (1.0, 2.0)], "2.5 s of it"
        assert {Path(u.audio).stem for u in pieces} == {noise}
        assert all(u.text == "silence" for u in pieces)
        assert len(got) - 2 == len(prepared(source, tmp_path, split[:-2]))


def test_speech_commands_official_twelve(fake, tmp_path):
    got = prepared(fake, tmp_path, "test12")
    labels = [u.labels["label"] for u in got]
    assert sorted(labels) == ["_silence_", "_unknown_", "left", "stop", "yes"]
    unknown = next(u for u in got if u.labels["label"] == "_unknown_")
    assert unknown.audio.endswith("tree_0000000a_nohash_1.wav.wav")
    assert unknown.speaker == "0000000a" and unknown.text is None
    folder = fake / "speech_commands_test_set_v0.02"
    assert prepared(folder, tmp_path, "test12") == got


@pytest.mark.parametrize("split", ["all", "train", "train12", "valid12", "test12"])
def test_hidden_files_of_macos_are_no_clips(fake, copy, tmp_path, split):
    for clip in list(copy.rglob("*.wav")):
        clip.with_name(f"._{clip.name}").write_bytes(b"\0\5\x16\7")
    got = [(u.id, Path(u.audio).name) for u in prepared(copy, tmp_path / "a", split)]
    assert got == [(u.id, Path(u.audio).name) for u in prepared(fake, tmp_path / "b", split)]


def test_speech_commands_without_lists(copy, tmp_path):
    """v0.01 has lists too; a plain folder of word folders has none and is split by the rule."""
    source = copy
    root = source / "speech_commands_v0.02"
    with_lists = {s: prepared(source, tmp_path / "a", s) for s in ("train", "test")}
    for name in ("validation_list.txt", "testing_list.txt"):
        (root / name).unlink()
    shutil.rmtree(root / "_background_noise_")
    for split, before in with_lists.items():
        assert prepared(root, tmp_path / "b", split) == before
    with pytest.raises(UserError, match="_background_noise_: no WAV files"):
        prepared(root, tmp_path / "b", "train12")
    with pytest.raises(UserError, match="12-class test set is not there"):
        prepared(root, tmp_path / "b", "test12")


def test_speech_commands_plain_names_and_empty_lists(tmp_path, copy):
    root = tmp_path / "mine"
    source = copy / "speech_commands_v0.02"
    for word in ("yes", "no"):
        (root / word).mkdir(parents=True)
        for number, path in enumerate(sorted((source / word).iterdir())[:2]):
            shutil.copy(path, root / word / f"my clip {number}.wav")
    got = prepared(root, tmp_path / "data", "all")
    assert [u.id for u in got] == [
        "no-my_clip_0", "no-my_clip_1", "yes-my_clip_0", "yes-my_clip_1",
    ]  # fmt: skip


def test_speech_commands_bad_input(copy, tmp_path):
    source = copy
    root = source / "speech_commands_v0.02"
    listed = (root / "testing_list.txt").read_text().splitlines()
    (root / listed[1]).unlink()
    with pytest.raises(UserError, match=r"testing_list.txt:2: .*is not there"):
        prepared(source, tmp_path / "data", "test")
    got = prepared(source, tmp_path / "data", "test", skip_bad=True)
    assert len(got) == len(listed) - 1
    (source / "speech_commands_test_set_v0.02" / "maybe").mkdir()
    with pytest.raises(UserError, match="maybe: not a class"):
        prepared(source, tmp_path / "data", "test12")
