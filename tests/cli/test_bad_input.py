"""Bad input through the verbs: one clear line, exit code 2, nothing half-written."""

import os

import numpy as np
import pytest

from speechcwcl.cli.main import main
from speechcwcl.data.audio import write_audio


@pytest.fixture
def datadir(tmp_path):
    """A sound data folder of three utterances; tests break it."""
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    lines = {"wav.scp": [], "text": [], "utt2spk": [], "utt2label": []}
    for number, word in enumerate(("yes", "no", "stop")):
        path = tmp_path / f"{word}.wav"
        time = np.arange(16000) / 16000
        write_audio(path, (0.1 * np.sin(2 * np.pi * 300 * (number + 1) * time)).astype(np.float32))
        lines["wav.scp"].append(f"u{number} {path}")
        lines["text"].append(f"u{number} {word}")
        lines["utt2spk"].append(f"u{number} s1")
        lines["utt2label"].append(f"u{number} {word}")
    for name, rows in lines.items():
        (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def edit(folder, name, old, new):
    path = folder / name
    path.write_text(path.read_text().replace(old, new))


def formatted(datadir, *words):
    out = datadir.parent.parent / "dump" / "manifest.jsonl"
    return main(["format", str(datadir), str(out), *words]), out


def test_a_sound_folder_passes(datadir):
    assert main(["check", str(datadir)]) == 0
    code, out = formatted(datadir)
    assert code == 0 and len(out.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("text", "u1 no", "u9 no", "text:2: id 'u9' is not in wav.scp"),
        ("text", "u1 no", "u1", "text:2"),
        ("text", "u1 no", "u0 no", "text:2"),
        ("wav.scp", "u2 ", "u1 ", "wav.scp:3"),
        ("wav.scp", ".wav", ".flac", "no such audio file (closest: 'yes.wav')"),
        ("wav.scp", "stop.wav", "stop.wav |", "wav.scp:3"),
    ],
)
def test_broken_tables_are_named_by_line(datadir, capsys, name, old, new, message):
    edit(datadir, name, old, new)
    code, out = formatted(datadir)
    error = capsys.readouterr().err
    assert code == 2 and message in error and "Traceback" not in error, error
    assert not out.exists()


def test_text_that_is_not_utf8_is_named_by_line(datadir, capsys):
    (datadir / "text").write_bytes(b"u0 yes\nu1 \xff\xfe\nu2 stop\n")
    assert formatted(datadir)[0] == 2
    error = capsys.readouterr().err
    assert "text:2" in error and "UTF-8" in error


@pytest.mark.parametrize("content", [b"", b"not audio at all", b"RIFF\x24\x00\x00\x00WAVEfmt "])
def test_unreadable_audio_stops_or_is_listed(datadir, tmp_path, capsys, content):
    (tmp_path / "no.wav").write_bytes(content)
    code, out = formatted(datadir)
    assert code == 2 and "no.wav" in capsys.readouterr().err and not out.exists()
    code, out = formatted(datadir, "--skip_bad")
    assert code == 0 and len(out.read_text().splitlines()) == 2
    assert "no.wav" in (out.parent / "left_out.tsv").read_text() + capsys.readouterr().out


def test_too_short_and_too_long_audio_is_left_out_and_counted(datadir, tmp_path, capsys):
    write_audio(tmp_path / "yes.wav", np.full(800, 0.1, np.float32))  # 0.05 s
    write_audio(tmp_path / "no.wav", np.full(60 * 16000, 0.1, np.float32))
    code, out = formatted(datadir)
    assert code == 0 and len(out.read_text().splitlines()) == 1
    assert "1 " in capsys.readouterr().out


def test_nothing_left_is_an_error(datadir, capsys):
    code, out = formatted(datadir, "--min_duration", "5")
    assert code == 2 and not out.exists() and capsys.readouterr().err


def test_a_folder_without_utterances(datadir, capsys):
    for name in ("wav.scp", "text", "utt2spk", "utt2label"):
        (datadir / name).write_text("")
    code, _ = formatted(datadir)
    assert code == 2 and "Traceback" not in capsys.readouterr().err


def test_a_folder_one_may_not_write_to(datadir, tmp_path, capsys, monkeypatch):
    target = tmp_path / "locked"
    target.mkdir()

    def refuse(*args, **options):
        raise OSError(30, "Read-only file system", str(target))

    monkeypatch.setattr(os, "replace", refuse)
    assert main(["format", str(datadir), str(target / "m.jsonl")]) == 2
    assert "Read-only file system" in capsys.readouterr().err
    assert not list(target.glob("m.jsonl"))


def test_a_full_disk(datadir, tmp_path, capsys, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["format", str(datadir), str(tmp_path / "out" / "m.jsonl")]) == 2
    assert "No space left" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.jsonl"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "no verb 'trian' (closest: 'train')"),
        (
            ["train", "c.yaml", "--train", "m.jsonl", "--valid", "v", "--expdir", ""],
            "--expdir: empty",
        ),
        (["format", " ", "m.jsonl"], "datadir: empty; is a variable of your script unset?"),
        (["search", "build", "rec", "--index="], "--index: empty"),
        (["prepare", "minni"], "no corpus 'minni' (closest: 'mini')"),
        (["prepare", "mini", "--sets", "tset_words"], "no split 'tset_words'"),
        (["prepare", "mini", "--data", "/no/such/folder"], "no such folder"),
        (["check", "/no/such/folder"], "/no/such/folder"),
        (["fetch", "all-minilm"], "all-MiniLM-L6-v2"),
        (["average", "/no/such/folder"], "no checkpoint"),
    ],
)
def test_wrong_words_name_the_nearest(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error, error


def test_an_eval_of_no_such_protocol_or_label(datadir, tmp_path, capsys):
    code, out = formatted(datadir)
    for pair, message in (
        ("train", "expected SET:PROTOCOL"),
        ("train:mini_wrods", "closest: 'mini_words'"),
        ("dev:mini_words", "no such manifest"),
    ):
        words = ["train", str(tmp_path / "c.yaml"), "--train", str(out), "--valid", pair]
        (tmp_path / "c.yaml").write_text("loss: cwcl\n")
        assert main([*words, "--expdir", str(tmp_path / "exp"), "--dumpdir", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "exp" / "checkpoints").exists()


def test_a_reader_that_goes_away_is_no_error(monkeypatch, capfd):
    from speechcwcl.cli import main as entry

    def gone(words):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(entry, "verb_parser", lambda verb: (None, gone))
    monkeypatch.setattr(entry.os, "dup2", lambda *files: None)
    assert entry.main(["doctor"]) == 1
    assert capfd.readouterr().err == ""
