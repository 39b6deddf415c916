"""Spotting keywords: gate, windows, peaks, and a spotter that does not care about blocks."""

import numpy as np
import pytest

from speechcwcl.errors import UserError
from speechcwcl.zeroshot.grid import GRID
from speechcwcl.zeroshot.keywords import SMOOTH, Keywords, confidence, level_of_confidence
from speechcwcl.zeroshot.spotting import (
    AFTER,
    APART,
    FRAME,
    EnergyGate,
    Spotter,
    decided,
    peaks,
    possible_events,
)

RATE = 16000


def tone(pitch, seconds, level=0.3):
    return (level * np.sin(2 * np.pi * pitch * np.arange(int(seconds * RATE)) / RATE)).astype("f4")


def noise(seconds, level=0.003, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype("f4")


class Ears:
    """Hears pitches: a window's embedding is its power around three of them and elsewhere."""

    pitches, dim = (500, 1500, 3000), 4

    def __init__(self):
        self.blocks = 0

    def encode_windows(self, blocks):
        self.blocks += len(blocks)
        size = round(GRID.length * RATE)
        cut = [
            block[place * GRID.step_samples :][:size]
            for block in blocks
            for place in range(GRID.places)
        ]
        return np.stack([self.vector(wave) for wave in cut]).reshape(len(blocks), -1, 4)

    def vector(self, wave):
        power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
        hertz = np.arange(len(power)) * RATE / len(wave)
        near = [power[np.abs(hertz - pitch) < 60].sum() for pitch in self.pitches]
        row = np.sqrt(np.array([*near, 1e3 + max(power.sum() - sum(near), 0)])) + 1e-6
        return (row / np.linalg.norm(row)).astype(np.float32)


# The first two pitches are labels; ordinary sound has a cosine of 0.2 with them.
WORDS = Keywords(
    ["low", "high"], np.eye(2, 4), "ears", np.full(2, 0.2), np.full(2, 0.1), [0, 0], level=5.0,
    cohort=np.zeros((1, 4)),
)  # fmt: skip


def heard(wav, block=RATE, ears=None, **options):
    spotter = Spotter(ears or Ears(), WORDS, **options)
    events = []
    for at in range(0, len(wav), block):
        events += spotter.push(wav[at : at + block])
    return events + spotter.finish()


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
        assert event.z >= 5 and event.score == pytest.approx(confidence(event.z), abs=1e-3)
    assert heard(SCENE, level=9.0) == []


@pytest.mark.parametrize("block", [37, 320, 1600, 7777, 10**7])
def test_blocks_of_any_size_give_the_same_events(block):
    assert heard(SCENE, block) == heard(SCENE, 16000)


def test_an_event_is_told_soon_after_the_word():
    spotter, told = Spotter(Ears(), WORDS), []
    for at in range(0, len(SCENE), 1600):
        told += [(event, (at + 1600) / RATE) for event in spotter.push(SCENE[at : at + 1600])]
    assert len(told) >= 3
    for event, clock in told:
        assert 0 < clock - event.end < 2.0
        assert event.decided <= clock + 1e-6 < event.decided + 0.13
    most = GRID.hop + GRID.length / 2 + (AFTER + SMOOTH) * GRID.step
    assert all(decided(step) - step * GRID.step < most + 1e-6 for step in range(40))


def test_silence_costs_nothing():
    ears = Ears()
    assert heard(noise(30.0), ears=ears) == [] and ears.blocks == 0
    assert heard(np.zeros(30 * RATE, np.float32), ears=ears) == [] and ears.blocks == 0
    quiet = np.concatenate([SCENE, noise(20.0)])
    heard(quiet, ears=ears)
    gated, ears.blocks = ears.blocks, 0
    heard(quiet, gate=-1, ears=ears)
    assert 0 < gated < 0.7 * ears.blocks


def test_a_stream_shorter_than_a_window():
    events = heard(np.concatenate([noise(0.1), tone(500, 0.4)]))
    assert [event.label for event in events] == ["low"]
    assert heard(np.zeros(0, np.float32)) == [] and heard(noise(0.01)) == []


def test_memory_does_not_grow_with_the_stream():
    spotter = Spotter(Ears(), WORDS)
    for number in range(60):
        spotter.push(SCENE[: 4 * RATE] if number % 2 else noise(4.0))
    assert (
        len(spotter._windows._wav) / RATE < 3 and len(spotter._spans) == APART + AFTER + 2 * SMOOTH
    )


def test_times_go_on_after_a_gap():
    later = heard(SCENE, began=100.0)
    for one, other in zip(heard(SCENE), later, strict=True):
        assert other.start == pytest.approx(one.start + 100)
        assert other.decided == pytest.approx(one.decided + 100)


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


def test_peaks():
    no = -np.inf
    assert peaks(np.array([no, no, 1, 2, 1, no, no]), 2, 2).tolist() == [3]
    assert peaks(np.array([no, no, 2, 2, 2, no, no]), 2, 2).tolist() == [2], (
        "the first of equal ones"
    )
    assert peaks(np.array([no, no, 3, 1, 2, no, no, no]), 2, 2).tolist() == [2]
    assert peaks(np.array([no, no, 3, 1, 1, 2, no, no]), 2, 2).tolist() == [2, 5]
    assert peaks(np.full(9, no), 2, 2).tolist() == [] and peaks(np.zeros(4), 2, 2).tolist() == []


def test_what_rises_after_an_event_is_the_same_word():
    z = np.full((40, 2), -np.inf)
    z[10:20, 0] = [0, 42, 0, 0, 0, 56, 0, 0, 0, 0]  # means of seven: 6, then 14
    z[30, 1] = 84
    spotter = Spotter(Ears(), WORDS)
    events = spotter._decide(z, np.zeros((40, 2), dtype=np.int64))
    assert [(event.label, round(event.z)) for event in events] == [("low", 6), ("high", 12)]
    steps, there = possible_events(z)
    assert there[:, 0].max() == 14 and len(steps) > 2, "at any level: the highest is among them"


def test_what_is_asked_of_a_spotter():
    none = Keywords(["low"], np.eye(1, 4), "ears", np.zeros(1), np.ones(1))
    with pytest.raises(UserError, match="no threshold"):
        Spotter(Ears(), none)
    for score in (0.1, 0.5, 0.99):
        assert confidence(level_of_confidence(score)) == pytest.approx(score)
    with pytest.raises(UserError, match="not between"):
        level_of_confidence(7)
