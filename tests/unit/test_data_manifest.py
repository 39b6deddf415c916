"""Manifests: compiled in parallel, filtered, checked; read lazily."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechcwcl.cli.main import main
from speechcwcl.data import compiling
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import Utterance, write_datadir
from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import UserError
from speechcwcl.files import sha256_file


def recordings(tmp_path, seconds, **changes):
    """A data folder with one 8 kHz recording for each length."""
    audio = tmp_path / "audio"
    audio.mkdir(exist_ok=True)
    utterances = []
    for i, length in enumerate(seconds):
        path = audio / f"u{i:03}.wav"
        soundfile.write(path, np.zeros(round(8000 * length), np.float32), 8000)
        utterances.append(
            Utterance(
                f"u{i:03}", str(path), f"text {i}", f"s{i % 3}", labels={"label": f"l{i % 2}"}
            )
        )
    for u in utterances:
        for name, value in changes.items():
            setattr(u, name, value)
    return write_datadir(tmp_path / "train", utterances, corpus={}), utterances


def compiled(tmp_path, seconds=(0.5, 1.0, 1.5), **options):
    folder, utterances = recordings(tmp_path, seconds)
    out = tmp_path / "dump" / "manifest.jsonl"
    return compile_manifest(folder, out, progress=False, **options), Manifest(out), utterances


@pytest.mark.parametrize("nj", [1, 3])
def test_durations_are_measured_and_the_order_is_that_of_the_ids(tmp_path, monkeypatch, nj):
    monkeypatch.setattr(compiling, "_CHUNK", 7)
    seconds = [0.5 + (37 * i % 41) / 100 for i in range(100)]
    summary, manifest, utterances = compiled(tmp_path, seconds, nj=nj)
    assert manifest.ids == [u.id for u in utterances]
    assert np.allclose(manifest.durations, seconds, atol=1e-4)
    assert manifest.durations.dtype == np.float32
    assert summary.utterances == len(manifest) == 100
    assert summary.seconds == pytest.approx(sum(seconds), abs=0.01)
    assert summary.fields == {"label": 100}
    for utterance, length in zip(utterances, seconds, strict=True):
        utterance.duration = round(length, 6)
    assert list(manifest) == utterances
    assert [manifest[i] for i in range(100)] == utterances


def test_the_lines_have_the_agreed_keys_and_the_hash_is_that_of_the_file(tmp_path):
    summary, manifest, _ = compiled(tmp_path)
    first = json.loads(manifest.path.read_text().splitlines()[0])
    assert list(first) == [
        "id", "audio", "start", "end", "duration", "text", "speaker", "labels",
    ]  # fmt: skip
    assert first["duration"] == 0.5 and first["labels"] == {"label": "l0"}
    assert summary.hash == manifest.hash == sha256_file(manifest.path)
    assert summary.utterances == 3
    assert "3 utterances, 0.00 h" in str(summary)


@pytest.mark.parametrize("nj", [1, 2])
def test_the_manifest_does_not_depend_on_the_number_of_processes(tmp_path, nj):
    summary, _, _ = compiled(tmp_path, [0.3] * 20, nj=nj)
    other = compile_manifest(tmp_path / "train", tmp_path / "again.jsonl", progress=False)
    assert summary.hash == other.hash


def test_too_short_and_too_long_are_dropped_counted_and_listed(tmp_path):
    summary, manifest, _ = compiled(
        tmp_path, [0.05, 1.0, 3.0, 2.0, 0.0999], min_duration=0.1, max_duration=2.0
    )
    assert manifest.ids == ["u001", "u003"]  # a length that equals the limit stays
    assert (summary.too_short, summary.too_long, summary.bad) == (2, 1, 0)
    assert Path(summary.dropped_list).read_text().splitlines() == [
        "u000\ttoo short\t0.050",
        "u002\ttoo long\t3.000",
        "u004\ttoo short\t0.100",
    ]
    assert "2 too short and 1 too long" in str(summary)
    again = compile_manifest(
        tmp_path / "train", manifest.path, min_duration=None, max_duration=None, progress=False
    )
    assert again.utterances == 5 and again.dropped_list == ""
    assert not Path(summary.dropped_list).exists()


def break_audio(tmp_path):
    """Five kinds of unsound audio among eight recordings."""
    folder, utterances = recordings(tmp_path, [1.0] * 8)
    paths = [Path(u.audio) for u in utterances]
    paths[1].unlink()
    paths[2].write_bytes(b"")
    paths[3].write_bytes(b"no audio " * 50)
    paths[5].write_bytes(paths[5].read_bytes()[:-12000])
    wav = np.zeros(8000, np.float32)
    wav[7] = np.nan
    soundfile.write(paths[6], wav, 8000, subtype="FLOAT")
    return folder


@pytest.mark.parametrize("nj", [1, 2])
def test_unsound_audio_is_an_error_that_names_all_and_writes_nothing(tmp_path, nj):
    folder = break_audio(tmp_path)
    with pytest.raises(UserError) as caught:
        compile_manifest(folder, tmp_path / "dump" / "m.jsonl", nj=nj, progress=False)
    lines = str(caught.value).splitlines()
    words = ["no such audio file", "empty file", "not audio", "truncated", "NaN"]
    ids = ["u001", "u002", "u003", "u005", "u006"]
    assert len(lines) == 6 and "skip_bad" in lines[-1]
    for line, key, word in zip(lines[:5], ids, words, strict=True):
        assert line.startswith(f"{key}: {tmp_path}/audio/{key}.wav: ") and word in line
    assert os.listdir(tmp_path / "dump") == []


@pytest.mark.parametrize("nj", [1, 2])
def test_unsound_audio_is_left_out_and_listed_if_wished(tmp_path, nj):
    folder = break_audio(tmp_path)
    out = tmp_path / "dump" / "m.jsonl"
    summary = compile_manifest(folder, out, nj=nj, skip_bad=True, progress=False)
    assert Manifest(out).ids == ["u000", "u004", "u007"]
    assert summary.bad == 5 and summary.bad_list == str(tmp_path / "dump" / "m.bad.tsv")
    rows = [line.split("\t") for line in Path(summary.bad_list).read_text().splitlines()]
    assert [row[0] for row in rows] == ["u001", "u002", "u003", "u005", "u006"]
    elsewhere = tmp_path / "bad.txt"
    compile_manifest(folder, out, skip_bad=True, bad_list=elsewhere, progress=False)
    assert len(elsewhere.read_text().splitlines()) == 5


def test_more_than_ten_unsound_files_are_all_in_a_list(tmp_path):
    folder, utterances = recordings(tmp_path, [1.0] * 30)
    for u in utterances[:25]:
        os.unlink(u.audio)
    with pytest.raises(UserError) as caught:
        compile_manifest(folder, tmp_path / "m.jsonl", progress=False)
    lines = str(caught.value).splitlines()
    assert lines[10] == "... and 15 more (25 in all)"
    assert lines[11] == f"all of them: {tmp_path}/m.bad.tsv"
    assert len((tmp_path / "m.bad.tsv").read_text().splitlines()) == 25


def test_segments_are_checked_against_their_recording(tmp_path):
    audio = tmp_path / "r.wav"
    soundfile.write(audio, np.zeros(16000, np.float32), 8000)
    cuts = {"a": (0.5, 1.5), "b": (1.0, None), "c": (1.5, 2.45), "d": (1.0, 2.7), "e": (2.5, 2.6)}
    utterances = [Utterance(k, str(audio), "x", "s", *times) for k, times in cuts.items()]
    folder = write_datadir(tmp_path / "set", utterances, corpus={})
    with pytest.raises(UserError) as caught:
        compile_manifest(folder, tmp_path / "m.jsonl", progress=False)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["d", "e"]
    assert "outside the recording, which has 2.000 s" in lines[0]
    summary = compile_manifest(folder, tmp_path / "m.jsonl", skip_bad=True, progress=False)
    assert summary.cut == 1
    assert "1 segments cut to the end of their recording (by 0.5 s at most)" in str(summary)
    manifest = Manifest(tmp_path / "m.jsonl")
    assert manifest.durations.tolist() == pytest.approx([1.0, 1.0, 0.5])
    assert [len(u.load()) for u in manifest] == [16000, 16000, 8000]


def test_given_durations_are_believed_and_files_are_not_opened(tmp_path):
    utterances = [
        Utterance(f"u{i}", f"/nowhere/{i}.wav", "x", "s", duration=1.0 + i) for i in range(4)
    ]
    folder = write_datadir(tmp_path / "set", utterances, corpus={})
    compile_manifest(folder, tmp_path / "m.jsonl", nj=2, progress=False)
    assert Manifest(tmp_path / "m.jsonl").durations.tolist() == [1, 2, 3, 4]


def test_an_unsound_folder_is_refused_before_any_audio_is_opened(tmp_path, monkeypatch):
    folder, _ = recordings(tmp_path, [1.0] * 3)
    (folder / "text").write_text("u000 x\nu001 y\nu02 z\n")
    monkeypatch.setattr(compiling, "audio_info", lambda path: pytest.fail("opened"))
    with pytest.raises(UserError, match=r"text:3: id 'u02' is not in wav.scp \(closest: 'u002'\)"):
        compile_manifest(folder, tmp_path / "m.jsonl", progress=False)


def test_when_nothing_is_left_it_says_why(tmp_path):
    folder, _ = recordings(tmp_path, [0.01, 3.0])
    with pytest.raises(
        UserError, match="no utterance is left: 1 shorter than 0.1 s, 1 longer than"
    ):
        compile_manifest(folder, tmp_path / "m.jsonl", max_duration=2, progress=False)
    with pytest.raises(UserError, match="min_duration 3 s must be below max_duration 2 s"):
        compile_manifest(folder, tmp_path / "m.jsonl", min_duration=3, max_duration=2)
    assert not (tmp_path / "m.jsonl").exists()


def test_a_worker_that_dies_is_one_line(tmp_path, monkeypatch):
    folder, _ = recordings(tmp_path, [0.5] * 5)
    monkeypatch.setattr(compiling, "audio_info", lambda path: os._exit(9))
    with pytest.raises(UserError, match="was ended from outside"):
        compile_manifest(folder, tmp_path / "m.jsonl", nj=2, progress=False)
    assert not (tmp_path / "m.jsonl").exists()


def test_only_a_window_of_the_utterances_is_in_memory():
    taken = 0

    def many():
        nonlocal taken
        for taken in range(1, 20_001):
            yield Utterance(f"u{taken}", "/nowhere.wav", duration=1.0)

    for nj in (1, 2):
        taken = 0
        stream = compiling.measure(many(), nj=nj)
        for _ in range(1000):
            next(stream)
        stream.close()
        assert taken <= 1000 + compiling._CHUNK * (1 + nj * compiling._WAITING_PER_WORKER)


def piped(tmp_path, command):
    folder = tmp_path / "piped"
    folder.mkdir(exist_ok=True)
    (folder / "wav.scp").write_text(f"a {command} |\n")
    (folder / "text").write_text("a x\n")
    return folder


def test_allowed_commands_run_once_without_a_shell_and_become_files(tmp_path):
    soundfile.write(tmp_path / "t w o.wav", np.full(8000, 0.25, np.float32), 8000)
    folder = piped(tmp_path, f"cat '{tmp_path}/t w o.wav' | cat")
    out = tmp_path / "m.jsonl"
    with pytest.raises(UserError, match=r"wav.scp:1: 'a' is a command.*`format` .*--allow_pipe"):
        compile_manifest(folder, out, progress=False)
    assert main(["check", str(folder)]) == main(["format", str(folder), str(out)]) == 2
    assert main(["check", str(folder), "--allow_pipe"]) == 0
    assert main(["format", str(folder), str(out), "--allow_pipe", "--nj", "2"]) == 0
    (utterance,) = Manifest(out)
    assert utterance.duration == 1.0 and utterance.audio.endswith(".flac")
    assert utterance.load()[4000:12000].mean() == pytest.approx(0.25, abs=1e-3)
    os.unlink(tmp_path / "t w o.wav")
    compile_manifest(folder, out, allow_pipe=True, progress=False)  # not run again


@pytest.mark.parametrize(
    "command, what",
    [
        ("touch MARK ; cat x.wav", "';' needs a shell"),
        ("cat x.wav > MARK", "'>' needs a shell"),
        ("cat x.wav & touch MARK", "'&' needs a shell"),
        ("cat $(touch MARK)", "needs a shell"),
        ("cat `touch MARK`", "exit status|no samples|empty"),
        ("cat 'x.wav", "cannot be split"),
        ("cat x.wav | | cat", "empty command"),
        ("no-such-program-at-all x", "No such file"),
        ("false", "exit status 1"),
        ("true", "empty file"),
        ("echo hello", "not audio"),
    ],
)
def test_commands_that_fail_or_want_a_shell_are_refused(tmp_path, command, what):
    mark = tmp_path / "mark"
    folder = piped(tmp_path, command.replace("MARK", str(mark)))
    with pytest.raises(UserError, match=what):
        compile_manifest(folder, tmp_path / "m.jsonl", allow_pipe=True, progress=False)
    assert not mark.exists() and not (tmp_path / "m.jsonl").exists()


def test_an_ended_process_leaves_no_manifest(tmp_path):
    folder, _ = recordings(tmp_path, [0.5] * 5)
    code = (
        "import os, signal\n"
        "from speechcwcl.data import compiling, manifest\n"
        "real, written = manifest.manifest_line, []\n"
        "def line(u):\n"
        "    written.append(u)\n"
        "    if len(written) == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(u)\n"
        "manifest.manifest_line = line\n"
        f"compiling.compile_manifest({str(folder)!r}, {str(tmp_path / 'm.jsonl')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -9
    assert not (tmp_path / "m.jsonl").exists()


@pytest.mark.parametrize("when", ["working", 0.0, 0.01, 0.03, 0.1])
def test_ctrl_c_ends_it_in_silence_and_leaves_nothing(tmp_path, when):
    """Whether workers are busy, or (so many seconds after the call) still starting."""
    folder, _ = recordings(tmp_path, [0.3] * 200)
    code = (
        "import os, signal, sys, time\n"
        # ignored where the suite itself runs in the background
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from speechcwcl.data import compiling\n"
        "compiling._CHUNK = 2\n"
        "compiling.audio_info = lambda path: (os.write(1, b'working\\n'), time.sleep(300))\n"
        "try:\n"
        "    print('ready', flush=True)\n"
        "    compiling.compile_manifest(sys.argv[1], sys.argv[2], nj=2, progress=False)\n"
        "except KeyboardInterrupt:\n"
        "    os.write(1, b'stopped\\n'); os._exit(0)\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "m.jsonl")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    if when == "working":
        assert process.stdout.readline() == "working\n"
    else:
        time.sleep(when)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=50)
    assert out.replace("working\n", "") == "stopped\n" and err == ""
    assert not (tmp_path / "m.jsonl").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    folder, _ = recordings(tmp_path, [0.5] * 3)

    def full(utterance):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("speechcwcl.data.manifest.manifest_line", full)
    with pytest.raises(UserError, match="m.jsonl: cannot write: No space left") as caught:
        compile_manifest(folder, tmp_path / "dump" / "m.jsonl", progress=False)
    assert "\n" not in str(caught.value) and os.listdir(tmp_path / "dump") == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    folder, _ = recordings(tmp_path, [0.5])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        compile_manifest(folder, tmp_path / "file" / "m.jsonl", progress=False)


def test_real_digits_compile(tmp_path, real_data):
    paths = sorted((real_data / "fsdd").glob("*.wav"))
    folder = write_datadir(
        tmp_path / "fsdd", (Utterance(p.stem, str(p), text=p.stem[0]) for p in paths), corpus={}
    )
    summary = compile_manifest(folder, tmp_path / "m.jsonl", nj=2, progress=False)
    assert summary.utterances == len(paths) and 0.3 < summary.seconds / len(paths) < 0.6
