"""`speechcwcl listen` as a user types it, and on real speech where there is a trained model."""

import io
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from speechcwcl.cli.main import main
from speechcwcl.data.audio import write_audio
from speechcwcl.models.aligner import Aligner

TOOLS = Path(__file__).resolve().parents[2] / "tools" / "benchmarks"


@pytest.fixture(scope="module")
def model(tiny_speech, tiny_text, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "model"
    Aligner.build(tiny_speech, tiny_text, projection={"hidden": [16]}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Four seconds with two tones in noise; a threshold that random weights can reach."""
    monkeypatch.setattr("speechcwcl.apps.listen.scoring._TOO_CLOSE", 1.1)
    monkeypatch.setattr("speechcwcl.apps.listen.scoring.background_texts", lambda: list("abcdef"))
    wave = 0.002 * np.random.default_rng(0).standard_normal(4 * 16000)
    for start in (0.8, 2.6):
        time = np.arange(8000) / 16000
        wave[int(start * 16000) :][:8000] += 0.2 * np.sin(2 * np.pi * 600 * time)
    path = tmp_path / "scene.wav"
    write_audio(path, wave.astype(np.float32))
    return path


def typed(*words):
    return main(["listen", *(str(word) for word in words)])


def test_a_file_gives_lines(scene, model, capsys):
    words = (scene, "--model", model, "--labels", "stop; go ;", "--threshold", "0.0018")
    assert typed(*words) == 0
    out = capsys.readouterr().out.splitlines()
    assert 1 <= len(out) <= 3
    for line in out:
        start, end, label, score = line.split(" ")
        assert 0 <= float(start) < float(end) <= 4.1 and label in ("stop", "go")
        assert 0 < float(score) < 1
    assert typed(*words, "--format", "json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [f"{e['start']:.2f}" for e in events] == [line.split()[0] for line in out]
    assert sorted(events[0]) == ["decided", "end", "label", "score", "start"]


def test_raw_samples_on_the_standard_input(scene, model, capsys, monkeypatch):
    words = ("--model", model, "--labels", "stop;go", "--threshold", "0.0018")
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


def test_labels_of_a_file(scene, model, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("stop\n\ngo\n")
    words = (scene, "--model", model, "--threshold", "0.0018")
    assert typed(*words, "--labels_file", tmp_path / "labels.txt") == 0
    first = capsys.readouterr().out
    assert typed(*words, "--labels", "stop;go") == 0
    assert capsys.readouterr().out == first


def test_what_the_user_can_put_right(scene, model, tmp_path, capsys):
    (tmp_path / "bad.wav").write_text("no audio")
    words = ("--model", model)
    for given, message in (
        ((scene, *words), "no labels: give words to listen for"),
        ((scene, *words, "--labels", " ; "), "no labels"),
        ((scene, *words, "--labels", "go;go"), "'go' is given twice"),
        ((tmp_path / "bad.wav", *words, "--labels", "go"), "bad.wav: not audio"),
        ((tmp_path / "no.wav", *words, "--labels", "go"), "no such audio file"),
        ((scene, *words, "--labels", "go", "--threshold", "7"), "threshold: 7"),
        ((scene, *words, "--labels", "go", "--hop", "3"), "hop 3"),
        ((scene, *words, "--labels", "go", "--template", "say it"), "needs exactly one {}"),
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


def test_a_microphone_hears_what_a_file_has(scene, model, capsys, monkeypatch):
    from speechcwcl.apps.listen import sources
    from speechcwcl.data.audio import load_audio
    from speechcwcl.data.audio.resampling import resample

    device = Device(resample(load_audio(scene), 16000, 48000))
    monkeypatch.setitem(sys.modules, "sounddevice", device)

    class Ending(sources.queue.Queue):
        def get(self):
            if self.empty():
                raise KeyboardInterrupt
            return super().get()

    monkeypatch.setattr(sources.queue, "Queue", Ending)
    words = ("--model", model, "--labels", "stop;go", "--threshold", "0.0018")
    assert typed(*words) == 0
    heard = capsys.readouterr().out.splitlines()
    assert typed(scene, *words) == 0
    assert len(heard) == len(capsys.readouterr().out.splitlines()) > 0
    device.there = False
    assert typed(*words) == 2
    assert "no microphone can be used (No input device" in capsys.readouterr().err


# -- with a trained model -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(repository):
    place = Path(os.environ.get("SPEECHCWCL_MODEL", repository / "egs/mini/cwcl1/exp/cwcl/model"))
    if not place.is_dir():
        pytest.skip(f"no trained model at {place}: run `make demo`, or set SPEECHCWCL_MODEL")
    return Aligner.from_pretrained(place)


def spotted(aligner, clips, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import listen_scenes

    from speechcwcl.apps.listen.listener import listen

    wav, said = listen_scenes.scene(clips, seed=0)
    counts = listen_scenes.Counts()
    for labels in listen_scenes.groups(said, 10):
        events = list(listen(aligner, np.array_split(wav, 50), labels))
        counts += listen_scenes.score(events, said, labels)
    return counts


@pytest.mark.slow
def test_words_in_synthetic_speech(trained, repository, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import listen_scenes

    clips = listen_scenes.mini_clips(repository / "egs/mini/corpus", "test", 40, 12, seed=0)
    counts = spotted(trained, clips, monkeypatch)
    assert counts.precision > 0.6 and counts.recall > 0.6, counts


@pytest.mark.slow
def test_words_in_real_speech(trained, real_data, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import listen_scenes

    clips = listen_scenes.real_clips(real_data, 40, 5, seed=0)
    counts = spotted(trained, clips, monkeypatch)
    assert counts.precision > 0.5 and counts.recall > 0.5, counts
