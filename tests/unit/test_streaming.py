"""Spotting keywords: gate, detector, scorer, and a listener that does not care about blocks."""

import numpy as np
import pytest
import torch

from speechcwcl.apps.listen.listener import (
    FRAME,
    Detector,
    EnergyGate,
    Event,
    Listener,
    Options,
    listen,
)
from speechcwcl.apps.listen.scoring import NEAREST, Scorer, background_texts
from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner

RATE = 16000


def tone(pitch, seconds, level=0.3):
    return (level * np.sin(2 * np.pi * pitch * np.arange(int(seconds * RATE)) / RATE)).astype("f4")


def noise(seconds, level=0.003, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype("f4")


class Ears:
    """Hears pitches: a window's embedding is its power around three of them and elsewhere."""

    pitches = (500, 1500, 3000)

    def __init__(self):
        self.windows = 0

    def encode_speech(self, audio):
        rows = []
        for wave in audio:
            self.windows += 1
            power = np.abs(np.fft.rfft(wave)) ** 2
            hertz = np.arange(len(power)) * RATE / len(wave)
            near = [power[np.abs(hertz - pitch) < 60].sum() for pitch in self.pitches]
            rows.append([*near, max(power.sum() - sum(near), 0)])
        rows = np.sqrt(np.array(rows)) + 1e-6
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class PitchScorer:
    """The first two pitches are labels."""

    labels = ["low", "high"]

    def __call__(self, speech):
        return speech[:, :2].astype(np.float64) ** 2


def heard(wav, block=RATE, options=None, ears=None):
    listener = Listener(ears or Ears(), PitchScorer(), options)
    events = []
    for at in range(0, len(wav), block):
        events += listener.push(wav[at : at + block])
    return events + listener.finish()


SCENE = np.concatenate([
    noise(2.0), tone(500, 0.5), noise(1.5, seed=1), tone(3000, 0.6), noise(1.0, seed=2),
    tone(1500, 0.4), noise(1.5, seed=3), tone(1500, 0.4), noise(2.2, seed=4), tone(500, 0.5),
])  # fmt: skip
TRUTH = [(2.0, 2.5, "low"), (5.6, 6.0, "high"), (7.5, 7.9, "high"), (10.1, 10.6, "low")]


def test_one_event_a_word_at_its_place_and_none_for_another_sound():
    events = heard(SCENE)
    assert [event.label for event in events] == [label for _, _, label in TRUTH]
    for event, (start, end, _) in zip(events, TRUTH, strict=True):
        assert abs(event.start - start) <= 0.1 and abs(event.end - end) <= 0.1, event
        assert event.score > 0.5


@pytest.mark.parametrize("block", [37, 320, 1600, 7777, 10**7])
def test_blocks_of_any_size_give_the_same_events(block):
    assert heard(SCENE, block) == heard(SCENE, 16000)


def test_an_event_is_told_soon_after_the_word():
    listener, told = Listener(Ears(), PitchScorer()), []
    for at in range(0, len(SCENE), 1600):
        told += [(event, (at + 1600) / RATE) for event in listener.push(SCENE[at : at + 1600])]
    assert len(told) >= 3
    for event, clock in told:
        assert clock - event.end < 1.2
        assert event.decided <= clock + 1e-6 < event.decided + 0.11


def test_silence_costs_nothing():
    ears = Ears()
    assert heard(noise(30.0), ears=ears) == [] and ears.windows == 0
    assert heard(np.zeros(30 * RATE, np.float32), ears=ears) == [] and ears.windows == 0
    heard(SCENE, ears=ears)
    gated, ears.windows = ears.windows, 0
    heard(SCENE, options=Options(gate=-1), ears=ears)
    assert 0 < gated < 0.7 * ears.windows


def test_a_stream_shorter_than_a_window():
    events = heard(np.concatenate([noise(0.1), tone(500, 0.4)]))
    assert [event.label for event in events] == ["low"]
    assert heard(np.zeros(0, np.float32)) == [] and heard(noise(0.01)) == []


def test_memory_does_not_grow_with_the_stream():
    listener = Listener(Ears(), PitchScorer())
    for number in range(120):
        listener.push(SCENE[: 4 * RATE] if number % 2 else noise(4.0))
    held = len(listener._wav) / RATE
    assert held < 3 and len(listener._spans) < 200


def test_the_gate_follows_the_noise():
    wav = np.concatenate([noise(3, 0.004), tone(440, 0.3, 0.2), noise(12, 0.012), tone(440, 0.3)])
    gate = EnergyGate()
    active = gate.push(wav)
    assert len(active) == len(wav) // FRAME
    assert not active[:150].any() and active[151:164].all()
    assert not active[700:764].any() and active[766:778].all()
    parts = EnergyGate()
    cut = [parts.push(wav[at : at + 777]) for at in range(0, len(wav), 777)]
    assert np.array_equal(np.concatenate(cut), active)
    assert EnergyGate().push(tone(440, 1.0, 0.3)).all(), "speech from the first moment"


def peaks(rows, **options):
    detector = Detector(len(rows[0]), 0.5, **options)
    found = [peak for row in rows if (peak := detector.push(np.array(row)))]
    return [(p.label, p.step) for p in found + detector.finish()]


def test_detector_says_each_word_once():
    up, down = [0.9, 0.1], [0.1, 0.1]
    assert peaks([down, up, up, up, down, down], smooth=1) == [(0, 1)]
    assert peaks([down, up, down, down, down, up, down, down], smooth=1) == [(0, 1), (0, 5)]
    # It stays up: one long word, whatever the refractory time.
    assert peaks([up] * 20, smooth=1) == [(0, 0)]
    # Hysteresis: 0.45 is below the threshold and not below its release.
    assert peaks([up, *[[0.45, 0]] * 4, up, down, down, down], smooth=1) == [(0, 0)]
    # The better of two labels within the patience wins, the other one stays unsaid.
    assert peaks([[0.6, 0], [0.55, 0.8], [0.5, 0.7], down, down], smooth=1) == [(1, 1)]
    assert peaks([down, up, down, down], smooth=3) == []
    assert peaks([down, up, up, up], smooth=3) == [(0, 2)]
    for wrong in ({"threshold": 0.0}, {"threshold": 1.0}, {"threshold": 0.5, "smooth": 2}):
        with pytest.raises(UserError):
            Detector(2, **wrong)


def test_options_are_checked():
    for wrong in ({"hop": 0.0}, {"hop": 2.0}, {"window": 60.0}, {"threshold": 1.5}):
        with pytest.raises(UserError):
            Options(**wrong)


@pytest.fixture(scope="module")
def aligner(tiny_speech, tiny_text):
    torch.manual_seed(0)
    return Aligner.build(tiny_speech, tiny_text, projection={"hidden": [16]}).eval()


def test_scores_are_those_of_the_formula(aligner):
    from speechcwcl.apps.listen import scoring

    background = ["aa", "bb", "cc", "dd", "ee", "ff", "gg", "stop"]
    scorer = Scorer(aligner, ["stop", "go away"], ["{}", "say {}"], background)
    speech = aligner.encode_speech([noise(0.5), tone(500, 0.7)])
    labels = aligner.encode_labels(["stop", "go away"], ["{}", "say {}"])
    plain = aligner.encode_text(["stop", "go away"])
    rows = aligner.encode_text(background)
    kept = rows[(rows @ plain.T).max(axis=1) <= 0.8]
    if len(kept) < NEAREST:
        pytest.skip("the tiny text encoder finds everything alike")
    others = np.sort(speech @ kept.T, axis=1)[:, -NEAREST:].mean(axis=1, keepdims=True)
    margin = speech @ labels.T - scoring.WEIGHT * others
    expected = 1 / (1 + np.exp(scoring.BIAS - aligner.logit_scale.item() * margin))
    assert np.abs(scorer(speech) - expected).max() < 1e-5


def test_wrong_labels_are_refused(aligner):
    for labels, words in (([], "no labels"), (["a", " "], "no labels"), (["a", "a"], "twice")):
        with pytest.raises(UserError, match=words):
            Scorer(aligner, labels)
    with pytest.raises(UserError, match="background: fewer than 5"):
        Scorer(aligner, ["stop"], background=["go"])


def test_the_background_is_plain_text_without_repeats():
    texts = background_texts()
    assert len(texts) > 500 and len(set(texts)) == len(texts)
    assert all(text == text.strip() and text for text in texts)


def test_a_real_encoder_gives_the_same_in_a_stream_and_offline(aligner, monkeypatch):
    monkeypatch.setattr("speechcwcl.apps.listen.scoring._TOO_CLOSE", 1.1)
    wav = np.concatenate([noise(0.5), tone(700, 0.5), noise(0.6, seed=5), tone(900, 0.4)])
    options = Options(threshold=0.0095)
    labels = ["stop", "turn left"]
    whole = list(listen(aligner, [wav], labels, options))
    parts = list(listen(aligner, np.array_split(wav, 23), labels, options))
    assert len(whole) == len(parts) > 0
    for a, b in zip(whole, parts, strict=True):
        assert isinstance(a, Event)
        assert (a.start, a.end, a.label) == (b.start, b.end, b.label)
        assert abs(a.score - b.score) < 2e-4
    # A window's score is that of the clip cut out by hand.
    scorer = Scorer(aligner, labels)
    listener = Listener(aligner, scorer, options)
    listener.push(wav)
    clip = wav[int(0.2 * RATE) : int(1.2 * RATE)]
    direct = scorer(aligner.encode_speech([clip]))
    assert direct.shape == (1, 2) and listener.embedded > 0
