"""Data folders: what is written comes back; whatever is wrong is named with file and line."""

import os
import random
from pathlib import Path

import pytest

from speechcwcl.data import tables
from speechcwcl.data.kaldi import (
    Utterance,
    check_datadir,
    iter_datadir,
    read_corpus,
    read_datadir,
    write_datadir,
)
from speechcwcl.data.tables import Problems
from speechcwcl.errors import UserError


def some(count=5, **changes):
    return [
        Utterance(f"u{i}", f"audio/u {i}.wav", text=f"words of {i}", speaker=f"s{i % 2}", **changes)
        for i in range(count)
    ]


def folder_with(tmp_path, **files):
    """A sound folder of three utterances, with some files replaced (None removes)."""
    content = {
        "wav.scp": "a a.wav\nb b.wav\nc c.wav\n",
        "text": "a one\nb two\nc three\n",
        "utt2spk": "a s1\nb s1\nc s2\n",
        **{name.replace("wav_scp", "wav.scp"): value for name, value in files.items()},
    }
    folder = tmp_path / "train"
    folder.mkdir()
    for name, value in content.items():
        if value is not None:
            raw = value if isinstance(value, bytes) else value.encode()
            (folder / name).write_bytes(raw)
    return folder


def problems_of(folder, **options):
    with pytest.raises(UserError) as caught:
        read_datadir(folder, **options)
    report = check_datadir(folder, **options)
    assert report.problems and str(report) == str(caught.value)
    with pytest.raises(UserError):
        iter_datadir(folder, **options)
    return str(caught.value).splitlines()


def test_what_is_written_comes_back_sorted(tmp_path):
    utterances = some(12, labels={"label": "set an alarm", "scenario": "alarm"}, duration=1.25)
    shuffled = random.Random(0).sample(utterances, 12)
    folder = write_datadir(tmp_path / "set", shuffled, corpus={"name": "x", "licence": "CC0"})
    assert read_datadir(folder) == sorted(utterances, key=lambda u: u.id)
    assert list(iter_datadir(folder)) == read_datadir(folder)
    names = ["text", "utt2dur", "utt2label", "utt2scenario", "utt2spk", "wav.scp"]
    assert read_corpus(folder) == {
        "name": "x", "licence": "CC0", "utterances": 12, "files": names
    }  # fmt: skip
    for name in ("wav.scp", "text", "utt2spk", "utt2label", "utt2scenario", "utt2dur"):
        lines = (folder / name).read_bytes().splitlines()
        assert lines == sorted(lines) and len(lines) == 12
    assert sorted(os.listdir(tmp_path)) == ["set"]


def test_segments_share_a_recording_and_whole_files_may_be_among_them(tmp_path):
    cut = [
        Utterance("c1", "long one.flac", "x", "s", 0.5, 1.75),
        Utterance("c2", "long one.flac", "y", "s", 2.0, None),
        Utterance("c3", "other.flac", "z", "s", None, 2.5),
    ]
    folder = write_datadir(tmp_path / "set", [*cut, *some(1)], corpus={})
    assert len((folder / "wav.scp").read_text().splitlines()) == 3
    back = {u.id: u for u in read_datadir(folder)}
    times = {key: (u.audio, u.start, u.end) for key, u in back.items()}
    assert times == {
        "c1": ("long one.flac", 0.5, 1.75),
        "c2": ("long one.flac", 2.0, None),
        "c3": ("other.flac", 0.0, 2.5),
        "u0": ("audio/u 0.wav", 0.0, None),
    }


def test_two_recordings_of_one_name_stay_two(tmp_path):
    cut = [Utterance(f"u{i}", f"{i}/rec.wav", "x", "s", 0, 1) for i in range(3)]
    folder = write_datadir(tmp_path / "set", cut, corpus={})
    assert [u.audio for u in read_datadir(folder)] == ["0/rec.wav", "1/rec.wav", "2/rec.wav"]


def test_blanks_in_text_become_one_space_and_unicode_stays(tmp_path):
    text = "  naïve\n 東京\u2028 \t\u00a0Ωmega  "
    folder = write_datadir(tmp_path / "s", [Utterance("ü", "ä ö.wav", text, "ß")], corpus={})
    (back,) = read_datadir(folder)
    assert (back.id, back.audio, back.speaker) == ("ü", "ä ö.wav", "ß")
    assert back.text == "naïve 東京 Ωmega"


def test_unsorted_files_of_any_order_are_accepted(tmp_path):
    utterances = sorted(some(50), key=lambda u: u.id)
    folder = tmp_path / "set"
    folder.mkdir()
    for name, value in (("wav.scp", "audio"), ("text", "text"), ("utt2spk", "speaker")):
        rows = [f"{u.id} {getattr(u, value)}\n" for u in utterances]
        random.Random(name).shuffle(rows)
        (folder / name).write_text("".join(rows))
    assert read_datadir(folder) == utterances


def test_dos_line_ends_tabs_a_byte_order_mark_and_blank_lines_are_accepted(tmp_path):
    folder = folder_with(tmp_path, text=b"\xef\xbb\xbfa\tone two\r\n\r\nb  two\r\nc three\r\n   \n")
    assert [u.text for u in read_datadir(folder)] == ["one two", "two", "three"]


def test_without_utt2spk_each_utterance_is_its_own_speaker(tmp_path):
    assert [u.speaker for u in read_datadir(folder_with(tmp_path, utt2spk=None))] == list("abc")


def test_labels_may_be_partial_and_may_replace_the_text(tmp_path):
    folder = folder_with(tmp_path, text=None, utt2label="a yes\nc no thanks\n", utt2accent="b x\n")
    back = read_datadir(folder)
    assert [u.labels for u in back] == [{"label": "yes"}, {"accent": "x"}, {"label": "no thanks"}]
    assert {u.text for u in back} == {None}
    report = check_datadir(folder)
    assert not report.problems and report.fields == {"accent": (1, 1), "label": (2, 2)}
    assert (report.utterances, report.speakers, report.with_text) == (3, 2, 0)


@pytest.mark.parametrize("key, near", [("bb", "b"), ("cc", "c"), ("aa", "a")])
def test_an_id_that_has_no_audio_is_named_with_the_closest(tmp_path, key, near):
    lines = problems_of(folder_with(tmp_path, text=f"a one\nb two\nc three\n{key} four\n"))
    assert lines == [f"{tmp_path}/train/text:4: id {key!r} is not in wav.scp (closest: {near!r})"]


@pytest.mark.parametrize("name", ["text", "utt2spk"])
def test_an_utterance_without_a_line_is_named(tmp_path, name):
    lines = problems_of(folder_with(tmp_path, **{name: "a 1\nc 3\n"}))
    assert lines == [f"{tmp_path}/train/wav.scp:2: id 'b' has no line in {name}"]


@pytest.mark.parametrize("name", ["wav_scp", "text", "utt2spk", "utt2label"])
def test_duplicate_ids_are_named_with_both_lines(tmp_path, name):
    lines = problems_of(folder_with(tmp_path, **{name: "c 1\na 2\nb 3\na 4\n"}))
    name = name.replace("_", ".")
    assert lines == [f"{tmp_path}/train/{name}:4: id 'a' again (first in line 2)"]


def test_empty_values_are_named(tmp_path):
    folder = folder_with(tmp_path, text="a one\nb\nc  \n", utt2spk="a s\nb\nc s\n", utt2label="a\n")
    lines = problems_of(folder)
    assert f"{folder}/text:2: empty text for id 'b'" in lines
    assert f"{folder}/text:3: empty text for id 'c'" in lines
    assert f"{folder}/utt2spk:2: no speaker for id 'b'" in lines
    assert f"{folder}/utt2label:1: no value for id 'a'" in lines
    (folder / "wav.scp").write_text("a\nb b.wav\nc c.wav\n")
    assert f"{folder}/wav.scp:1: no path after id 'a'" in problems_of(folder)


def test_files_that_are_not_utf_8_are_named_with_the_line(tmp_path):
    folder = folder_with(tmp_path, text=b"a one\nb tw\xe9\nc three\n")
    assert f"{folder}/text:2: not UTF-8; save the file as UTF-8" in problems_of(folder)
    (folder / "text").write_bytes(b"a one\nb t\0wo\nc three\n")
    assert f"{folder}/text:2: a NUL byte; is this a text file?" in problems_of(folder)


def test_wrong_numbers_of_columns_are_named(tmp_path):
    folder = folder_with(
        tmp_path,
        utt2spk="x s 1\ny s\nz s\n",
        text="x 1\ny 2\nz 3\n",
        segments="x a 0\ny a 0 1 2\nz a 0 1\n",
    )
    lines = problems_of(folder)
    expected = "4 expected: utterance recording start end"
    assert f"{folder}/segments:1: 3 columns, {expected}" in lines
    assert f"{folder}/segments:2: 5 columns, {expected}" in lines
    assert f"{folder}/utt2spk:1: 3 columns, 2 expected: utterance speaker" in lines
    assert len(lines) == 3


@pytest.mark.parametrize(
    "line, what",
    [
        ("x a 1 1", "no stretch from 1 s to 1 s"),
        ("x a 2 1.5", "no stretch from 2 s to 1.5 s"),
        ("x a -1 1", "no stretch from -1 s to 1 s"),
        ("x a nan 1", "no stretch from nan s to 1 s"),
        ("x a 0 inf", "no stretch from 0 s to inf s"),
        ("x a zero 1", "start and end must be seconds, not 'zero 1'"),
        ("x aa 0 1", "recording 'aa' is not in wav.scp (closest: 'a')"),
    ],
)
def test_unsound_segments_are_named(tmp_path, line, what):
    folder = folder_with(tmp_path, utt2spk="x s\n", text="x 1\n", segments=line + "\n")
    assert problems_of(folder) == [f"{folder}/segments:1: {what}"]


def test_a_segment_may_end_where_the_recording_does(tmp_path):
    folder = folder_with(tmp_path, utt2spk="x s\n", text="x 1\n", segments="x a 0.5 -1\n")
    (back,) = read_datadir(folder)
    assert (back.audio, back.start, back.end) == ("a.wav", 0.5, None)


def test_durations_must_be_seconds(tmp_path):
    folder = folder_with(tmp_path, utt2dur="a 1.5\nb -2\nc x\n")
    assert problems_of(folder) == [
        f"{folder}/utt2dur:2: '-2' is no duration in seconds",
        f"{folder}/utt2dur:3: 'x' is no duration in seconds",
    ]


def test_commands_are_refused_unless_allowed(tmp_path):
    folder = folder_with(tmp_path, wav_scp="a a.wav\nb sox b.wav -t wav - |\nc c.wav\n")
    (line,) = problems_of(folder)
    assert line.startswith(f"{folder}/wav.scp:2: 'b' is a command") and "--allow_pipe" in line
    assert read_datadir(folder, allow_pipe=True)[1].audio == "sox b.wav -t wav - |"


def test_ten_problems_are_shown_and_all_are_counted(tmp_path):
    rows = "".join(f"u{i:03} x.wav\n" for i in range(100))
    folder = folder_with(tmp_path, wav_scp=rows, text="u050 one\n", utt2spk=None)
    lines = problems_of(folder)
    assert len(lines) == 11
    assert lines[-1] == "... and 89 more (99 in all)"
    assert len(check_datadir(folder).problems) == 99


def test_the_closest_id_is_found_in_a_huge_table_too(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_CLOSEST_ALL", 10)
    path = tmp_path / "text"
    path.write_text("".join(f"speaker{i:05} x\n" for i in range(3000)))
    table = tables.Table(path, Problems())
    assert table.near("speaker01234x") == " (closest: 'speaker01234')"
    assert table.where("speaker01234") == f"{path}:1235"


def test_a_wrong_folder_is_explained(tmp_path):
    folder = folder_with(tmp_path)
    with pytest.raises(UserError, match=r"no such data folder \(closest: 'train'\); run stage 1"):
        read_datadir(tmp_path / "trian")
    (folder / "wav.scp").unlink()
    with pytest.raises(UserError, match=r"no wav.scp in it \(but text, utt2spk\)"):
        read_datadir(folder)


def test_zero_utterances_are_an_error(tmp_path):
    folder = folder_with(tmp_path, wav_scp="", text="", utt2spk="")
    assert problems_of(folder) == [f"{folder}/wav.scp: zero utterances"]
    with pytest.raises(UserError, match="zero utterances to write"):
        write_datadir(tmp_path / "out", [], corpus={})
    assert os.listdir(tmp_path) == ["train"]


def test_neither_text_nor_labels_is_an_error(tmp_path):
    folder = folder_with(tmp_path, text=None)
    assert problems_of(folder) == [
        f"{folder}: neither text nor a label file such as utt2label in it"
    ]


def test_a_broken_corpus_json_is_named_with_its_line(tmp_path):
    folder = folder_with(tmp_path)
    (folder / "corpus.json").write_text('{\n "name": x}\n')
    (line,) = problems_of(folder)
    assert line.startswith(f"{folder}/corpus.json:2: not valid JSON")


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"id": "two words"}, "one word"),
        ({"id": ""}, "one word"),
        ({"text": "  "}, "empty text"),
        ({"text": None}, "have no text"),
        ({"speaker": "a b"}, "speaker"),
        ({"audio": "a\nb.wav"}, "path in one line"),
        ({"audio": " "}, "path in one line"),
        ({"start": 2.0, "end": 1.0}, "no stretch"),
        ({"labels": {"spk": "x"}}, "cannot name a label field"),
        ({"labels": {"../x": "x"}}, "cannot name a label field"),
        ({"id": "u1"}, "'u1' occurs more than once"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_the_old_folder(tmp_path, changes, what):
    folder = write_datadir(tmp_path / "set", some(2), corpus={})
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    broken = some(4)
    for name, value in changes.items():
        setattr(broken[2], name, value)
    with pytest.raises(UserError, match=what):
        write_datadir(folder, broken, corpus={})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert os.listdir(tmp_path) == ["set"]


def test_a_failing_source_leaves_nothing(tmp_path):
    def source():
        yield from some(3)
        raise OSError("the source went away")

    with pytest.raises(OSError, match="the source went away"):
        write_datadir(tmp_path / "set", source(), corpus={})
    assert os.listdir(tmp_path) == []


def test_a_folder_is_replaced_but_never_somebody_elses(tmp_path):
    folder = write_datadir(tmp_path / "set", some(5), corpus={})
    write_datadir(folder, some(2, labels={"label": "x"}), corpus={})
    assert [u.id for u in read_datadir(folder)] == ["u0", "u1"]
    (folder / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"is in the way .*'thesis.tex'"):
        write_datadir(folder, some(1), corpus={})
    assert (folder / "thesis.tex").exists()
    with pytest.raises(UserError, match="a file is in the way"):
        write_datadir(folder / "text", some(1), corpus={})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to play a full disk")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    real = Path.open

    def full(self, *args, **kwargs):
        return real(Path("/dev/full") if self.name == "text" else self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match="cannot write: No space left on device") as caught:
        write_datadir(tmp_path / "set", some(20_000), corpus={})
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_datadir(tmp_path / "file" / "set", some(), corpus={})


def test_all_problems_are_kept_while_ten_are_shown(tmp_path):
    problems = Problems()
    for i in range(25):
        problems.add(f"p{i}\nq")
    problems.save(tmp_path / "all.txt")
    problems.add("late")
    assert (tmp_path / "all.txt").read_text().splitlines() == [f"p{i} q" for i in range(25)]
    assert (len(problems), len(problems.text().splitlines()), problems.room) == (26, 11, False)
    problems.save(tmp_path / "all.txt")
    assert (tmp_path / "all.txt").read_text().splitlines()[-1] == "late"
