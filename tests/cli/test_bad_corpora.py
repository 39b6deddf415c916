"""Every corpus, broken in the usual ways, through the verbs: named, counted, exit 2, or skipped."""

import shutil

import pytest

from speechcwcl.cli.main import main
from speechcwcl.data.kaldi import read_datadir

# corpus -> (split, a recording of it, what the split is made of), found by these patterns
CASES = {
    "librispeech": ("dev-clean", "LibriSpeech/dev-clean/*/*/*.flac", "LibriSpeech/dev-clean"),
    "common_voice": ("test", "*/en/clips/common_voice_en_1000001[1-5].mp3", "*/en/test.tsv"),
    "slurp": ("test", "audio/slurp_real/audio-1490003*-headset.flac", "dataset/slurp/test.jsonl"),
    "stop": ("test", "stop/test_0/*/*.wav", "stop/manifests/test.tsv"),
    "speech_commands": ("test", "", "testing_list.txt"),
}


@pytest.fixture
def broken(fakes, tmp_path):
    """A function: a copy of a corpus' fake that may be broken, and its split and patterns."""

    def make(name):
        split, audio, mark = CASES[name]
        source = tmp_path / "source"
        shutil.copytree(fakes(name), source)
        if not audio:  # the list says which they are
            (found,) = source.rglob(mark)
            audio = found.parent.relative_to(source) / found.read_text().split()[0]
        (of_split,) = source.rglob(mark) if "/" not in mark else source.glob(mark)
        return source, split, sorted(source.glob(str(audio)))[0], of_split

    return make


def prepare(name, source, split, out, *words):
    where = ["--data", str(source), "--out", str(out)]
    return main(["prepare", name, *where, "--sets", split, *words])


@pytest.mark.parametrize("name", CASES)
def test_a_transcript_without_audio(broken, tmp_path, capsys, name):
    source, split, audio, _ = broken(name)
    whole = tmp_path / "whole"
    assert prepare(name, source, split, whole) == 0
    count = len(read_datadir(whole / split))
    audio.unlink()
    capsys.readouterr()
    assert prepare(name, source, split, tmp_path / "data") == 2
    error = capsys.readouterr().err
    assert audio.name in error and "skip_bad" in error and "Traceback" not in error, error
    assert not (tmp_path / "data" / split).exists()
    assert prepare(name, source, split, tmp_path / "data", "--skip_bad") == 0
    left = len(read_datadir(tmp_path / "data" / split))
    listed = (tmp_path / "data" / split / "bad.tsv").read_text().splitlines()
    assert left == count - 1 and len(listed) == 1 and audio.name in listed[0]


@pytest.mark.parametrize("name", CASES)
def test_a_missing_split(broken, tmp_path, capsys, name):
    source, split, _, mark = broken(name)
    if mark.is_dir():
        shutil.rmtree(mark)
    else:
        mark.unlink()
    code = prepare(name, source, split, tmp_path / "data")
    error = capsys.readouterr().err
    assert code == 2 and mark.name in error and "Traceback" not in error, error
    assert not (tmp_path / "data" / split).exists()


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_folder_and_a_half_extracted_archive(broken, tmp_path, capsys, name):
    source, split, _, _ = broken(name)
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong/holiday.jpg").touch()
    assert prepare(name, tmp_path / "wrong", split, tmp_path / "data") == 2
    assert "holiday.jpg" in capsys.readouterr().err
    (source / ".extracting-some.tar.gz").touch()
    assert prepare(name, source, split, tmp_path / "data") == 2
    assert "some.tar.gz is only half extracted" in capsys.readouterr().err
    assert not (tmp_path / "data" / split).exists()


def test_truncated_audio_is_named_or_skipped_and_listed(broken, tmp_path, capsys):
    source, split, audio, _ = broken("common_voice")
    data = audio.read_bytes()
    audio.write_bytes(data[: len(data) // 3])
    assert prepare("common_voice", source, split, tmp_path / "data") == 0
    out = tmp_path / "dump/test/manifest.jsonl"
    words = ["format", str(tmp_path / "data" / split), str(out)]
    assert main(words) == 2
    assert audio.name in capsys.readouterr().err and not out.exists()
    assert main([*words, "--skip_bad"]) == 0
    assert "1 with bad audio left out" in capsys.readouterr().out
    (line,) = (out.parent / "left_out.tsv").read_text().splitlines()
    assert audio.name in line and "truncated" in line
    assert len(out.read_text().splitlines()) == 4


def test_check_ends_with_2_on_a_bad_folder_and_says_where(broken, tmp_path, capsys):
    source, split, _, _ = broken("slurp")
    prepare("slurp", source, split, tmp_path / "data")
    folder = tmp_path / "data" / split
    assert main(["check", str(folder)]) == 0
    text = folder / "text"
    lines = text.read_text().splitlines()
    text.write_text("\n".join([lines[0].split()[0], *lines[2:]]) + "\n")
    capsys.readouterr()
    assert main(["check", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "text:1: empty text" in error and "has no line in text" in error, error
    assert main(["check", str(tmp_path / "data"), str(folder)]) == 2
    assert "not a data folder" in capsys.readouterr().err
