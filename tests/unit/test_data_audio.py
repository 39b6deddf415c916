"""Decoding: formats, rates, channels, stretches, and every kind of broken file."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from speechcwcl.data.audio import audio_info, load_audio, write_audio
from speechcwcl.data.audio.resampling import resample
from speechcwcl.errors import UserError

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.ogg": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
RATES = (8000, 16000, 24000, 44100, 48000)
PAIRS = [(n, r) for n in FORMATS for r in RATES if (n, r) != ("opus.ogg", 44100)]


def sweep(rate, seconds, amplitude=0.3):
    time = np.arange(int(rate * seconds)) / rate
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(time))
    return (amplitude * np.sin(2 * np.pi * (200 + 40 * time) * time) + noise).astype(np.float32)


def make(folder, name, rate=16000, seconds=4.0, wav=None, channels=1):
    kind, subtype = FORMATS[name]
    wav = sweep(rate, seconds) if wav is None else wav
    path = folder / f"{rate}.{name}"
    soundfile.write(path, np.stack([wav] * channels, 1), rate, format=kind, subtype=subtype)
    return path


@pytest.mark.parametrize("name, rate", PAIRS)
def test_every_format_and_rate_comes_out_as_16_khz_mono(tmp_path, name, rate):
    path = make(tmp_path, name, rate, 2.0, channels=2)
    info = audio_info(path)
    assert (info.sample_rate, info.channels) == (rate, 2)
    assert info.duration == pytest.approx(2.0, abs=0.11)  # mp3 pads to whole frames
    wav = load_audio(path)
    assert wav.dtype == np.float32 and wav.ndim == 1
    assert len(wav) == pytest.approx(32000, abs=1700)
    expected = resample(sweep(rate, 2.0), rate, 16000)
    count = min(len(wav), len(expected))
    assert np.corrcoef(wav[:count], expected[:count])[0, 1] > 0.99


@pytest.mark.parametrize("name, rate", PAIRS)
def test_a_sought_stretch_equals_the_same_stretch_of_a_full_decode(tmp_path, name, rate):
    path = make(tmp_path, name, rate, 8.0)
    whole = load_audio(path, sample_rate=rate)
    limit = 2e-3 if (name, rate) == ("opus.ogg", 16000) else 1e-6  # SILK keeps long state
    rng = np.random.default_rng(1)
    starts = [0.0, 1 / rate, 7.9, 7.95, *rng.uniform(0, 7.9, 25)]
    for start in starts:
        end = min(8.0, start + rng.uniform(0.01, 1.0))
        part = load_audio(path, start, end, sample_rate=rate)
        first = round(start * rate)
        assert len(part) == round(end * rate) - first
        assert np.abs(part - whole[first : first + len(part)]).max() <= limit


@pytest.mark.parametrize("name", ["flac", "opus.ogg", "mp3", "wav"])
def test_a_stretch_of_a_long_file_is_sought_not_decoded_from_the_start(tmp_path, name, monkeypatch):
    path = make(tmp_path, name, 16000, 40.0)
    decoded = []
    real = soundfile.SoundFile.read

    def counting(self, frames=-1, *args, **kwargs):
        data = real(self, frames, *args, **kwargs)
        decoded.append(len(data))
        return data

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    assert len(load_audio(path, 30.0, 31.0)) == 16000
    assert sum(decoded) <= 1.6 * 16000


def test_stereo_is_the_mean_of_the_channels(tmp_path):
    left, right = sweep(16000, 1.0), -0.5 * sweep(16000, 1.0)
    soundfile.write(tmp_path / "s.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    assert np.allclose(load_audio(tmp_path / "s.wav"), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("seconds", [0.05, 60.0])
def test_very_short_and_long_files_load(tmp_path, seconds):
    path = make(tmp_path, "flac", 16000, seconds)
    assert len(load_audio(path)) == round(seconds * 16000)


def test_resampling_keeps_a_tone_and_its_level(tmp_path):
    time = np.arange(8000) / 8000
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 1000 * time), 8000, subtype="FLOAT")
    wav = load_audio(path)[2000:14000]
    spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav))))
    assert np.argmax(spectrum) * 16000 / len(wav) == pytest.approx(1000, abs=2)
    assert np.sqrt(np.mean(wav**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


def check_refused(path, *words, call=load_audio):
    with pytest.raises(UserError) as caught:
        call(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("call", [load_audio, audio_info])
def test_missing_files_name_the_closest_or_the_missing_folder(tmp_path, call):
    make(tmp_path, "wav")
    check_refused(tmp_path / "1600.wav", "no such audio file", "'16000.wav'", call=call)
    check_refused(tmp_path / "no" / "x.wav", "folder", "does not exist", call=call)
    check_refused(tmp_path, "a folder", call=call)


@pytest.mark.parametrize("call", [load_audio, audio_info])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_empty_and_corrupt_files_are_refused(tmp_path, suffix, call):
    empty = tmp_path / f"empty.{suffix}"
    empty.touch()
    check_refused(empty, "empty file", call=call)
    junk = tmp_path / f"junk.{suffix}"
    junk.write_bytes(b"this is not audio at all, " * 200)
    check_refused(junk, call=call)


def test_a_header_without_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 16000)
    check_refused(tmp_path / "none.wav", "no samples")


@pytest.mark.parametrize("call", [load_audio, audio_info])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(tmp_path, name, part, call):
    path = make(tmp_path, name, 16000, 20.0)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * part)])
    check_refused(path, "truncated", call=call)


def test_a_streamed_wav_with_a_placeholder_length_is_accepted(tmp_path):
    path = make(tmp_path, "wav", 16000, 1.0)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"data") + 4
    raw[4:8] = raw[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(raw)
    assert len(load_audio(path)) == 16000


def test_an_mp3_without_its_length_header_is_not_cut_short_in_silence(tmp_path):
    path = make(tmp_path, "mp3", 16000, 20.0)
    raw = path.read_bytes()
    headless = tmp_path / "headless.mp3"
    headless.write_bytes(raw[raw.index(b"\xff\xf3", 10) :])  # the first frame holds the length
    check_refused(headless, "variable bit rate", "of 20.")
    steady = tmp_path / "steady.mp3"
    options = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
    soundfile.write(steady, sweep(16000, 5.0), 16000, **options)
    raw = steady.read_bytes()
    steady.write_bytes(raw[raw.index(b"\xff\xf3", 10) :])
    assert b"Info" not in steady.read_bytes()[:500]
    assert len(load_audio(steady)) == pytest.approx(80000, abs=3000)


def test_mp3_tags_do_not_matter(tmp_path):
    path = make(tmp_path, "mp3", 44100, 2.0)
    before = load_audio(path)
    tag = b"ID3\x03\0\0\0\0\x10\0" + b"\0" * 2048
    path.write_bytes(tag + path.read_bytes() + b"TAG" + b"\0" * 125)
    assert np.array_equal(load_audio(path), before)


@pytest.mark.parametrize("call", [load_audio, audio_info])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused_with_their_time(tmp_path, value, call):
    wav = sweep(16000, 2.0)
    wav[24000] = value
    soundfile.write(tmp_path / "nan.wav", wav, 16000, subtype="FLOAT")
    check_refused(tmp_path / "nan.wav", "NaN or infinite", "1.500 s", call=call)


def test_stretches_outside_the_recording_are_refused_but_rounding_is_forgiven(tmp_path):
    path = make(tmp_path, "wav", 16000, 2.0)
    assert len(load_audio(path, 1.5, 2.04)) == len(load_audio(path, 1.5, 2.5)) == 8000
    for start, end in (
        (1.0, 2.51),
        (2.0, 2.02),
        (1.5, 1.5),
        (1.0, 0.5),
        (-1, 1),
        (float("nan"), 1),
    ):
        with pytest.raises(UserError, match="stretch"):
            load_audio(path, start, end)


def test_commands_are_not_run(tmp_path):
    marker = tmp_path / "ran"
    with pytest.raises(UserError, match="a command"):
        load_audio(f"touch {marker} |")
    assert not marker.exists()


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3"])
def test_write_then_load(tmp_path, suffix):
    wav = sweep(16000, 1.0)
    write_audio(tmp_path / f"x.{suffix}", wav)
    again = load_audio(tmp_path / f"x.{suffix}")
    count = min(len(again), len(wav))
    assert np.corrcoef(again[:count], wav[:count])[0, 1] > 0.98
    assert os.listdir(tmp_path) == [f"x.{suffix}"]


def test_writing_nonsense_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match=r"closest: '.wav'"):
        write_audio(tmp_path / "x.wave", sweep(16000, 0.1))
    with pytest.raises(UserError, match="finite"):
        write_audio(tmp_path / "x.wav", np.array([0.0, np.nan]))
    with pytest.raises(UserError, match="44100 Hz"):
        write_audio(tmp_path / "x.opus", sweep(16000, 0.1), 44100)
    assert os.listdir(tmp_path) == []


def test_mp3_decoding_leaves_the_terminal_alone(tmp_path):
    path = make(tmp_path, "mp3", 16000, 20.0)
    code = (
        "import sys; from speechcwcl.data.audio import load_audio\n"
        f"for k in range(15): load_audio({str(path)!r}, 1 + k, 1.7 + k)\n"
        "print('still here', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "still here\n"


def test_a_forked_child_of_a_process_that_used_torch_threads_can_resample():
    code = (
        "import os, numpy as np, torch\n"
        "from speechcwcl.data.audio.resampling import resample\n"
        "torch.set_num_threads(2)\n"
        "wav = np.ones(400000, np.float32)\n"
        "resample(wav, 8000, 16000)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    resample(wav, 8000, 16000)\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "7"


def test_headers_are_read_without_torch():
    code = "import sys, speechcwcl.data.manifest; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
