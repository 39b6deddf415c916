"""`speechcwcl listen` as a user types it, and on real speech where there is a trained model."""

import io
import json
import re
import sys
import time
import types

import numpy as np
import pytest
import torch

from speechcwcl.cli.main import main
from speechcwcl.data.audio import write_audio
from speechcwcl.models.aligner import Aligner

pytestmark = pytest.mark.usefixtures("little_background")


@pytest.fixture(scope="module")
def model(tiny_speech, tiny_text, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "model"
    Aligner.build(tiny_speech, tiny_text, projection={"hidden": [16]}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def scene(tmp_path):
    """Four seconds with two tones in noise."""
    wave = 0.002 * np.random.default_rng(0).standard_normal(4 * 16000)
    for start in (0.8, 2.6):
        time = np.arange(8000) / 16000
        wave[int(start * 16000) :][:8000] += 0.2 * np.sin(2 * np.pi * 600 * time)
    path = tmp_path / "scene.wav"
    write_audio(path, wave.astype(np.float32))
    return path


def typed(*words):
    return main(["listen", "--torch", *(str(word) for word in words)])


LOW = ("--score", "0.000001")  # random weights are sure of nothing


def test_a_file_gives_lines(scene, model, capsys):
    words = (scene, "--model", model, "--labels", "stop; go ;", *LOW)
    assert typed(*words) == 0
    out = capsys.readouterr().out.splitlines()
    assert 1 <= len(out) <= 4
    for line in out:
        start, end, label, score = line.split(" ")
        assert 0 <= float(start) < float(end) <= 4.1 and label in ("stop", "go")
        assert 0 <= float(score) <= 1
    assert typed(*words, "--format", "json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [f"{e['start']:.2f}" for e in events] == [line.split()[0] for line in out]
    assert sorted(events[0]) == ["decided", "end", "label", "score", "start", "z"]
    assert typed(*words[:-1], "0.999999") == 0
    out, err = capsys.readouterr()
    assert not out and "nothing found; with --score" in err


def test_raw_samples_on_the_standard_input(scene, model, capsys, monkeypatch):
    words = ("--model", model, "--labels", "stop;go", *LOW)
    assert typed(scene, *words) == 0
    expected = capsys.readouterr().out.splitlines()
    raw = scene.read_bytes()[44:]
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(raw)))
    assert typed("-", *words) == 0
    found = capsys.readouterr()
    assert "listening for: stop; go" in found.err
    assert [line.split()[:3] for line in found.out.splitlines()] == [
        line.split()[:3] for line in expected
    ]


def test_a_stream_that_stops_and_goes_on(scene, model, capsys, monkeypatch):
    """What is heard after the gap has the times that a clock would give it."""
    raw = scene.read_bytes()[44:]
    monkeypatch.setattr("speechcwcl.apps.sound.PATIENCE", 0.3)

    class Stopping(io.BytesIO):
        stopped = False

        def read1(self, size=-1):
            if self.tell() >= len(raw) and not self.stopped:
                self.stopped = True
                time.sleep(1.0)
            return super().read1(size)

    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=Stopping(raw + raw)))
    assert typed("-", "--model", model, "--labels", "stop;go", *LOW, "--format", "json") == 0
    found = capsys.readouterr()
    assert re.search(r"no sound for \d+\.\d s; listening again", found.err)
    events = [json.loads(line) for line in found.out.splitlines()]
    first = [e for e in events if e["start"] < 4.0]
    again = [e for e in events if e["start"] >= 4.3]
    assert len(first) == len(again) == len(events) / 2 > 0
    shift = again[0]["start"] - first[0]["start"]
    assert 4.3 < shift < 60


def test_keywords_that_were_saved(scene, model, tmp_path, capsys):
    (tmp_path / "mine/stop").mkdir(parents=True)
    write_audio(tmp_path / "mine/stop/a.wav", tone_of(scene))
    words = (scene, "--model", model)
    assert typed(*words, "--examples", tmp_path / "mine", "--save", tmp_path / "k.json") == 0
    first = capsys.readouterr()
    assert "k.json: 1 labels, 1 example, thresholds" in first.err
    assert typed(*words, "--keywords", tmp_path / "k.json") == 0
    assert capsys.readouterr().out == first.out


def tone_of(scene):
    from speechcwcl.data.audio import load_audio

    return load_audio(scene, 0.7, 1.4)


def test_labels_of_a_file(scene, model, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("stop\n\ngo\n")
    words = (scene, "--model", model, *LOW)
    assert typed(*words, "--labels_file", tmp_path / "labels.txt") == 0
    first = capsys.readouterr().out
    assert typed(*words, "--labels", "stop;go") == 0
    assert capsys.readouterr().out == first


def test_what_the_user_can_put_right(scene, model, tmp_path, capsys):
    (tmp_path / "bad.wav").write_text("no audio")
    words = ("--model", model)
    for given, message in (
        ((scene, *words), "no labels given"),
        ((scene, *words, "--labels", " ; "), "no labels"),
        ((scene, *words, "--labels", "go;go"), "'go' is given twice"),
        ((tmp_path / "bad.wav", *words, "--labels", "go"), "bad.wav: not audio"),
        ((tmp_path / "no.wav", *words, "--labels", "go"), "no such audio file"),
        ((scene, *words, "--labels", "go", "--score", "7"), "score: 7"),
        ((scene, *words, "--labels", "go", "--false_alarms_per_hour", "-1"), "is not above 0"),
        ((scene, *words, "--labels", "go", "--template", "say it"), "no template file"),
        ((scene, *words, "--labels", "go", "--microphone", "1"), "--microphone: there is a file"),
        ((scene, "--model", tmp_path / "nothing", "--labels", "go"), "nothing"),
    ):
        assert typed(*given) == 2, given
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error and error.count("\n") == 1, error


class NoPortAudio:
    """Makes `import sounddevice` fail as it does where the library is missing."""

    def find_spec(self, name, path=None, target=None):
        if name == "sounddevice":
            raise OSError("PortAudio library not found")


def test_no_microphone_is_one_line(model, capsys, monkeypatch):
    words = ("--model", model, "--labels", "go")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert typed(*words) == 2
    assert "pip install 'speechcwcl[mic]'" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "sounddevice")
    monkeypatch.setattr(sys, "meta_path", [NoPortAudio(), *sys.meta_path])
    assert typed(*words) == 2
    error = capsys.readouterr().err
    assert "no microphone can be used (PortAudio library not found" in error
    assert "arecord" in error and error.count("\n") == 1


class Device(types.ModuleType):
    """A sound card of 48 kHz only, which plays a file and then is interrupted."""

    class PortAudioError(Exception):
        pass

    def __init__(self, wave):
        super().__init__("sounddevice")
        self.wave, self.there = wave, True

    def query_devices(self, device, kind):
        if not self.there:
            raise ValueError("No input device matching 'x'")
        return {"default_samplerate": 48000.0}

    def check_input_settings(self, device, channels, dtype, samplerate):
        if samplerate != 48000:
            raise self.PortAudioError("Invalid sample rate")

    def InputStream(self, callback, blocksize, samplerate, **options):  # noqa: N802
        import contextlib

        @contextlib.contextmanager
        def stream():
            assert samplerate == 48000
            for at in range(0, len(self.wave), blocksize):
                block = self.wave[at : at + blocksize, None]
                callback(block, len(block), None, None)
            yield

        return stream()


def test_a_microphone_hears_what_a_file_has_and_goes_on_after_a_gap(
    scene, model, capsys, monkeypatch
):
    from speechcwcl.apps import sound
    from speechcwcl.data.audio import load_audio
    from speechcwcl.data.audio.resampling import resample

    device = Device(resample(load_audio(scene), 16000, 48000))
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    monkeypatch.setattr(sound, "PATIENCE", 0.2)
    opened = []

    class Ending(sound.queue.Queue):
        def get(self, block=True, timeout=None):
            if self.empty() and len(opened) >= 2:
                raise KeyboardInterrupt
            return super().get(block, timeout)

    plain = device.InputStream

    def input_stream(**options):
        opened.append(options)
        return plain(**options)

    monkeypatch.setattr(device, "InputStream", input_stream)
    monkeypatch.setattr(sound.queue, "Queue", Ending)
    words = ("--model", model, "--labels", "stop;go", *LOW)
    assert typed(*words) == 0  # it plays, stops, and plays again when it is opened again
    found = capsys.readouterr()
    assert "the microphone has stopped; waiting for it" in found.err
    assert found.err.count("listening again") == 1
    assert typed(scene, *words) == 0
    assert len(found.out.splitlines()) == 2 * len(capsys.readouterr().out.splitlines()) > 0
    device.there = False
    assert typed(*words) == 2
    assert "no microphone can be used (No input device" in capsys.readouterr().err
