"""Labels as they sound: the synthetic voices, and keywords enrolled from them."""

import csv
import importlib
import json
import stat
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from test_keywords import Model, background  # noqa: F401  (a fixture)
from test_streaming import tone

import speechcwcl
from speechcwcl.cli.main import main
from speechcwcl.data.audio import load_audio, write_audio
from speechcwcl.errors import UserError
from speechcwcl.zeroshot import enrolment, voices
from speechcwcl.zeroshot.keywords import Keywords

RATE = 16000


@pytest.fixture
def mini_words():
    """(word, clip) of 60 words that a voice of the mini corpus says; the model has not heard it."""
    corpus = Path(__file__).resolve().parents[2] / "egs/mini/corpus"
    with (corpus / "segments.tsv").open(newline="") as file:
        said = [row for row in csv.DictReader(file, delimiter="\t") if row["set"] == "test_words"]
    said = [row for row in said if row["voice"] == "am_michael"][:60]
    wav = load_audio(corpus / said[0]["file"])
    spans = [(int(float(row["start"]) * RATE), int(float(row["end"]) * RATE)) for row in said]
    return [(row["text"], wav[a:b]) for row, (a, b) in zip(said, spans, strict=True)]


@pytest.fixture
def only_hibari(monkeypatch):
    pytest.importorskip("hibari", reason="the extra [voices] is not installed")
    monkeypatch.setattr(voices.shutil, "which", lambda name: None)


def test_a_voice_says_a_word_at_several_pitches_and_speeds(only_hibari):
    (clips,) = voices.speak("computer")
    seconds = np.array([len(clip) / RATE for clip in clips]).reshape(len(voices.PITCHES), -1)
    assert seconds.shape[1] == len(voices.SPEEDS)
    assert (np.diff(seconds, axis=1) < 0).all() and (seconds > 0.2).all() and (seconds < 2).all()
    assert np.allclose(seconds[0], seconds[-1], rtol=0.15)  # the pitch does not change the speed

    def pitch(clip):
        around = clip[np.argmax(np.abs(clip)) - 400 :][:1600]
        likeness = np.correlate(around, around, "full")[len(around) - 1 :]
        return RATE / (40 + likeness[40:267].argmax())  # 60 to 400 Hz

    low, high = (np.median([pitch(clip) for clip in clips[i : i + 3]]) for i in (0, 9))
    assert high / low == pytest.approx(1.4, rel=0.15)


def test_words_as_they_sound_are_recognised(only_hibari, mini_words):
    model = speechcwcl.load("en-tiny")
    names = sorted({said for said, _ in mini_words})
    keywords = model.enrol(names, spoken=True)
    answers = model.classify([clip for _, clip in mini_words], keywords)
    right = [said == best[0]["label"] for (said, _), best in zip(mini_words, answers, strict=True)]
    assert np.mean(right) >= 0.9


def test_every_engine_counts_alike(monkeypatch):
    low, high = tone(300, 0.6), tone(1500, 0.6)
    monkeypatch.setattr(enrolment, "speak", lambda text: [[low], [high] * 3])
    (row,) = enrolment.encode_spoken(Model(), ["anything"])
    one, other = (enrolment.clip_vector(Model(), clip) for clip in (low, high))
    assert np.allclose(row, enrolment.unit_rows(one + other))


def test_a_program_is_asked_for_each_of_its_voices(tmp_path, monkeypatch):
    sound = tmp_path / "sound.wav"
    write_audio(sound, tone(300, 0.5))
    program = tmp_path / "flite"
    program.write_text(f'#!/bin/sh\necho "$2 $4" >> {tmp_path}/asked\ncp {sound} "$6"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(voices.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (clips,) = voices.speak("hey you")
    assert [len(clip) for clip in clips] == [RATE // 2] * 4
    assert (tmp_path / "asked").read_text().split("\n")[:2] == ["slt hey you", "awb hey you"]
    program.write_text("#!/bin/sh\necho no such voice >&2\nexit 3\n")
    with pytest.raises(UserError, match="flite cannot say 'hey you' .no such voice"):
        voices.speak("hey you")


def test_without_a_voice_it_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(voices.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(voices.shutil, "which", lambda name: None)
    saved = str(tmp_path / "k.json")
    assert main(["classify", "--spoken", "--labels", "athena;amelia", "--save", saved]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(
            "no synthetic voice is installed: pip install 'speechcwcl[voices]', or install flite"
        )
    )
    with pytest.raises(UserError, match="'привет': the synthetic voices cannot say it"):
        voices.speak("привет")


def test_a_file_tells_that_its_labels_were_spoken(monkeypatch, tmp_path):
    sounds = {"low": tone(300, 0.6), "high": tone(1500, 0.6)}
    monkeypatch.setattr(enrolment, "speak", lambda text: [[sounds[text]]])
    made = Model().enrol(["low", "high"], spoken=True)
    made.save(tmp_path / "k.json")
    assert Keywords.load(tmp_path / "k.json").spoken
    value = json.loads((tmp_path / "k.json").read_text())
    del value["spoken"]  # as a file of an earlier version
    (tmp_path / "old.json").write_text(json.dumps(value))
    assert not Keywords.load(tmp_path / "old.json").spoken


def test_a_release_speaks_known_words_of_the_dictionary_and_no_wake_words(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    release = importlib.import_module("release_speech")
    file = tmp_path / "cmudict.dict"
    file.write_text("athena AH\nlamp L\nlamp(2) L\nradio R\nto T\nzzyzx Z\nlamp's L\n")
    sphinx = types.SimpleNamespace(get_model_path=lambda name: str(file))
    monkeypatch.setitem(sys.modules, "pocketsphinx", sphinx)
    known = dict.fromkeys(["athena", "lamp", "radio", "to", "lamp's"], 0)
    tokenizer = types.SimpleNamespace(get_vocab=lambda: known)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda folder: tokenizer)
    monkeypatch.setattr(release, "resolve", lambda name: name)
    assert [words.split()[-1] for words in release.dictionary()] == ["lamp", "radio"]
