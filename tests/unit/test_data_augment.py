"""Augmentation: repeatable, bounded, and each effect does what its name says."""

import json

import numpy as np
import pytest
import soundfile

from speechcwcl.data import effects
from speechcwcl.data.audio import load_audio
from speechcwcl.data.augment import DEFAULTS, Augmenter, check_config
from speechcwcl.errors import UserError
from speechcwcl.training.config import load_config
from speechcwcl.training.dataset import augmenter


def voice(seconds=2.0, seed=0):
    """Something like speech: a voiced buzz in syllables, with pauses."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(16000 * seconds)) / 16000
    buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 40))
    syllables = np.clip(np.sin(2 * np.pi * 3 * time), 0, None)
    return (0.1 * buzz * syllables + 1e-4 * rng.standard_normal(len(time))).astype(np.float32)


def always(name, **options):
    return Augmenter({name: {"prob": 1.0, **options}}, seed=3)


def band_power(wav, low, high):
    spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav)))) ** 2
    frequencies = np.fft.rfftfreq(len(wav), 1 / 16000)
    return float(spectrum[(frequencies >= low) & (frequencies < high)].sum())


def test_copy_zero_is_the_clean_one():
    wav = voice()
    assert Augmenter()(wav, "u", copy=0) is wav


def test_the_same_seed_key_and_copy_always_sound_the_same():
    wav, before = voice(), voice()
    draws = {
        (seed, key, copy): Augmenter(seed=seed)(wav, key, copy)
        for seed in (0, 1)
        for key in ("a", "b")
        for copy in (1, 2)
    }
    for (seed, key, copy), first in reversed(draws.items()):
        assert np.array_equal(Augmenter(seed=seed)(wav, key, copy), first)
    different = {first.tobytes() for first in draws.values()}
    assert len(different) == len(draws)
    assert np.array_equal(wav, before)  # the input is never changed


def test_switching_one_operation_off_leaves_the_others_as_they_were():
    wav = voice()
    with_both = Augmenter({"speed": {"prob": 1.0}, "gain": {"prob": 1.0}})(wav, "u")
    without = Augmenter({"speed": {"prob": 1.0}})(wav, "u")
    assert len(with_both) == len(without) != len(wav)
    assert np.corrcoef(with_both, without)[0, 1] > 0.999999


@pytest.mark.parametrize("kind", ["voice", "silence", "short", "loud", "empty", "one"])
def test_every_result_is_finite_bounded_float32(kind):
    wav = {
        "voice": voice(),
        "silence": np.zeros(16000, np.float32),
        "short": voice(0.05),
        "loud": np.clip(30 * voice(), -1, 1),
        "empty": np.zeros(0, np.float32),
        "one": np.ones(1, np.float32),
    }[kind]
    config = {name: {"prob": 1.0} for name in DEFAULTS}
    everything = Augmenter(config, seed=1)
    for copy in range(1, 12):
        for augment in (everything, Augmenter(seed=2)):
            out = augment(wav, "u", copy)
            assert out.dtype == np.float32 and out.ndim == 1 and out.flags.c_contiguous
            assert np.isfinite(out).all() and np.abs(out).max(initial=0) <= 1


@pytest.mark.parametrize("factor", [0.85, 0.93, 1.0, 1.15])
def test_speed_changes_length_and_pitch_together(factor):
    tone = np.sin(2 * np.pi * 440 * np.arange(32000) / 16000).astype(np.float32)
    out = always("speed", range=[factor, factor])(tone, "u")
    assert len(out) == pytest.approx(32000 / factor, abs=2)
    middle = out[4000:-4000]
    peak = np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle))))) * 16000 / len(middle)
    assert peak == pytest.approx(440 * factor, abs=1)


def test_pad_adds_silence_at_both_ends():
    wav = voice()
    out = always("pad", range=[0.2, 0.2])(wav, "u")
    assert len(out) == len(wav) + 6400
    assert not out[:3200].any() and not out[-3200:].any()
    assert np.array_equal(out[3200:-3200], wav)
    noisy = Augmenter({"pad": {"prob": 1, "range": [0.2, 0.2]}, "noise": {"prob": 1}})(wav, "u")
    assert noisy[:3200].std() > 1e-5


@pytest.mark.parametrize("snr", [0.0, 5.0, 20.0, 30.0])
@pytest.mark.parametrize("kind", ["white", "pink", "brown", "hum", "file"])
def test_noise_has_its_signal_to_noise_ratio_where_there_is_speech(tmp_path, kind, snr):
    path = tmp_path / "noise.wav"
    soundfile.write(path, 0.01 * np.random.default_rng(0).standard_normal(8000), 16000)
    wav = voice() * 0.2
    augment = Augmenter(
        {"noise": {"prob": 1, "range": [snr, snr], "kinds": [kind], "files": [str(path)]}},
    )
    noise = augment(wav, "u") - wav
    assert 10 * np.log10(effects.active_power(wav) / np.mean(noise**2)) == pytest.approx(
        snr, abs=0.1
    )


def test_pauses_do_not_change_the_level_of_the_noise():
    wav = voice()
    paused = np.concatenate([np.zeros(32000, np.float32), wav, np.zeros(64000, np.float32)])
    assert effects.active_power(paused) == pytest.approx(effects.active_power(wav), rel=0.02)
    steady = np.full(16000, 0.1, np.float32)
    assert effects.active_power(steady) == pytest.approx(0.01, rel=1e-5)


def test_colours_of_noise_fall_as_they_should():
    rng = np.random.default_rng(0)
    for exponent in (0, 1, 2):
        noise = effects.coloured_noise(160000, exponent, rng)
        per_hertz = [band_power(noise, f, 1.1 * f) / (0.1 * f) for f in (200, 400, 800, 1600, 3200)]
        slope = np.polyfit(range(5), 10 * np.log10(per_hertz), 1)[0]
        assert slope == pytest.approx(-3.01 * exponent, abs=0.7)  # dB per octave
        assert np.mean(noise**2) == pytest.approx(1, abs=1e-3)


def test_kinds_that_have_no_source_are_not_drawn():
    wav = voice()
    only = Augmenter({"noise": {"prob": 1.0, "kinds": ["file"]}})
    assert np.array_equal(only(wav, "u"), wav)


@pytest.mark.parametrize("rt60", [0.15, 0.3, 0.6])
def test_a_room_decays_in_its_reverberation_time(rt60):
    click = np.zeros(16000, np.float32)
    click[100] = 1.0
    rooms = [
        effects.reverberate(click, rt60, 0.0, np.random.default_rng(seed)) for seed in range(20)
    ]
    energy = np.mean([room[100 + 320 :] ** 2 for room in rooms], axis=0)
    decay = 10 * np.log10(np.cumsum(energy[::-1])[::-1] / energy.sum() + 1e-12)  # Schroeder
    t5, t25 = np.argmax(decay < -5) / 16000, np.argmax(decay < -25) / 16000
    assert 3 * (t25 - t5) == pytest.approx(rt60, rel=0.12)
    for room in rooms:  # the direct path comes first, alone, and carries half of the energy
        assert np.argmax(np.abs(room)) == 100 and not np.abs(room[101:130]).max() > 1e-6
        assert room[100] ** 2 / np.sum(room**2) == pytest.approx(0.5, abs=0.05)
        assert np.mean(room**2) == pytest.approx(np.mean(click**2), rel=1e-3)


def test_band_and_mulaw_take_away_the_highs():
    noise = 0.1 * np.random.default_rng(0).standard_normal(32000).astype(np.float32)
    narrow = always("band", low=[300, 300], high=[3400, 3400])(noise, "u")
    inside = band_power(narrow, 600, 2500) / band_power(noise, 600, 2500)
    assert inside == pytest.approx(1, abs=0.05)
    assert band_power(narrow, 5000, 8000) < 0.02 * band_power(noise, 5000, 8000)
    assert band_power(narrow, 0, 120) < 0.02 * band_power(noise, 0, 120)
    phone = always("mulaw")(voice(), "u")
    assert len(phone) == 32000 and band_power(phone, 4500, 8000) < 1e-3 * band_power(phone, 0, 4000)
    assert (
        np.corrcoef(phone, always("band", low=[1, 1], high=[3900, 3900])(voice(), "u"))[0, 1] > 0.9
    )


@pytest.mark.parametrize("slope", [-3.0, 3.0])
def test_tilt_turns_the_spectrum(slope):
    noise = 0.01 * np.random.default_rng(0).standard_normal(160000).astype(np.float32)
    out = always("tilt", range=[slope, slope])(noise, "u")
    gains = [
        10 * np.log10(band_power(out, f, 1.2 * f) / band_power(noise, f, 1.2 * f))
        for f in (250, 500, 1000, 2000, 4000)
    ]
    assert np.diff(gains) == pytest.approx([slope] * 4, abs=0.5)


def test_clip_and_gain_set_the_peaks():
    wav = voice()
    peak = np.abs(wav).max()
    clipped = always("clip", range=[0.5, 0.5])(wav, "u")
    assert np.abs(clipped).max() == pytest.approx(0.5 * peak)
    assert np.mean(np.abs(clipped) > 0.499 * peak) > 0.005
    quiet = always("gain", range=[-20, -20])(wav, "u")
    assert np.abs(quiet).max() == pytest.approx(0.1, rel=1e-5)


def test_probabilities_hold():
    wav = voice(0.2)
    augment = Augmenter({"gain": {"prob": 0.3, "range": [-20, -20]}})
    changed = sum(not np.array_equal(augment(wav, f"u{i}"), wav) for i in range(1000))
    assert 250 < changed < 350
    assert not any(
        not np.array_equal(Augmenter({"noise": {"prob": 0}})(wav, f"u{i}"), wav) for i in range(50)
    )


def test_operations_are_drawn_independently_of_each_other():
    wav = voice(0.1)
    augment = Augmenter({"gain": {"prob": 0.5, "range": [0, 0]}, "pad": {"prob": 0.5}})
    both = sum(
        len(out) > len(wav) and np.abs(out).max() == 1
        for out in (augment(wav, f"u{i}") for i in range(1000))
    )
    assert 200 < both < 300


def test_defaults_options_and_hash():
    assert (
        Augmenter().config == check_config(DEFAULTS) == json.loads(json.dumps(Augmenter().config))
    )
    assert Augmenter({}).config == {} == Augmenter({"gain": False, "speed": None}).config
    assert Augmenter({"speed": True}).config == {"speed": {"prob": 0.5, "range": [0.85, 1.15]}}
    assert Augmenter({"speed": {"prob": 1}}).config["speed"]["range"] == [0.85, 1.15]
    assert Augmenter(seed=1).hash == Augmenter(DEFAULTS, seed=1).hash != Augmenter(seed=2).hash
    assert Augmenter({"gain": True}).hash != Augmenter({"gain": {"prob": 0.1}}).hash


@pytest.mark.parametrize(
    "config, what",
    [
        ({"nois": {}}, r"no operation 'nois' \(closest: 'noise'\)"),
        ({"noise": {"porb": 1}}, r"noise: no key 'porb' \(closest: 'prob'\)"),
        ({"noise": {"prob": 1.5}}, "noise: prob: a number from 0 to 1 expected, not 1.5"),
        ({"noise": {"prob": "x"}}, "noise: prob: a number"),
        ({"noise": {"prob": True}}, "noise: prob: a number"),
        ({"noise": {"prob": float("nan")}}, "noise: prob: a number"),
        ({"speed": {"range": [1.1, 0.9]}}, "speed: range: 1.1 is above 0.9"),
        ({"speed": {"range": [0.1, 0.9]}}, "speed: range: a number from 0.5 to 2"),
        ({"speed": {"range": 1.1}}, r"speed: range: two numbers \[lowest, highest\]"),
        ({"speed": {"range": [1, 1, 1]}}, "two numbers"),
        ({"noise": {"kinds": ["wite"]}}, r"no kind 'wite' \(closest: 'white'\)"),
        ({"noise": {"kinds": {"white": -1}}}, "kinds: white: a number"),
        ({"noise": {"files": "x.wav"}}, "a list of audio files"),
        ({"noise": 3}, "noise: a mapping"),
        (["noise"], "a mapping of operations"),
    ],
)
def test_wrong_configurations_are_one_clear_line(config, what):
    with pytest.raises(UserError, match=what) as caught:
        Augmenter(config)
    assert "\n" not in str(caught.value)


def test_a_missing_noise_file_is_named():
    augment = Augmenter({"noise": {"prob": 1, "kinds": ["file"], "files": ["/no/such.wav"]}})
    with pytest.raises(UserError, match="/no/such.wav: no such audio file"):
        augment(voice(), "u")


def test_real_speech_stays_speech(real_data):
    """Augmented digits still resemble themselves more than other digits (long-term spectrum)."""
    paths = [real_data / "fsdd" / f"{digit}_george_0.wav" for digit in range(10)]
    clean = [load_audio(path) for path in paths]
    augment = Augmenter({"noise": {"prob": 1, "range": [15, 30]}, "gain": True, "pad": True})
    envelopes = [np.log(_spectrum(wav)) for wav in clean]
    hits = 0
    for i, wav in enumerate(clean):
        changed = np.log(_spectrum(augment(wav, f"d{i}")))
        hits += int(np.argmax([np.corrcoef(changed, e)[0, 1] for e in envelopes])) == i
    assert hits >= 5


def _spectrum(wav):
    power = np.abs(np.fft.rfft(wav, 16384)) ** 2
    return np.add.reduceat(power[80:4096], np.arange(0, 4016, 40)) + 1e-6


@pytest.mark.parametrize(("augment_seed", "same"), [(None, False), (0, True), (1, True)])
def test_runs_of_several_seeds_share_one_augmentation(augment_seed, same):
    keys = {"augment": {"noise": True}, "augment_seed": augment_seed}
    first, second = (augmenter(load_config({**keys, "seed": seed})) for seed in (1, 2))
    assert (first.hash == second.hash) == same
    assert first.seed == (1 if augment_seed is None else augment_seed)
    assert augmenter(load_config({"augment_seed": augment_seed})) is None
