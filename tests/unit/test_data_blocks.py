"""Decoding and resampling block by block gives what decoding the whole gives."""

import numpy as np
import pytest

from speechcwcl.data.audio import audio_blocks, load_audio, write_audio
from speechcwcl.data.audio.resampling import BlockResampler, resample
from speechcwcl.errors import UserError


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("rate", [16000, 8000, 44100, 48000, 22050, 11025])
def test_resampling_in_blocks_of_any_size(rate):
    wave = noise(rate + 123)
    whole = resample(wave, rate, 16000)
    for sizes in ([7], [1000, 1], [441, 20000], [10**6]):
        resampler, parts, at = BlockResampler(rate, 16000), [], 0
        while at < len(wave):
            size = sizes[len(parts) % len(sizes)]
            parts.append(resampler.push(wave[at : at + size]))
            at += size
        joined = np.concatenate([*parts, resampler.finish()])
        assert joined.shape == whole.shape
        assert np.abs(joined - whole).max() < 1e-6
        if sizes == [1000, 1] and rate != 16000:
            assert sum(len(p) for p in parts) > 0.9 * len(whole), "it must not hoard"


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_blocks_of_a_file(tmp_path, suffix, rate):
    path = tmp_path / f"a{suffix}"
    write_audio(path, noise(2 * rate + 77), rate)
    whole = load_audio(path)
    for seconds in (0.013, 0.7, 10):
        joined = np.concatenate(list(audio_blocks(path, seconds)))
        assert joined.shape == whole.shape and np.abs(joined - whole).max() < 2e-6


def test_a_file_that_breaks_off(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, noise(40000))
    path.write_bytes(path.read_bytes()[:-20000])
    with pytest.raises(UserError, match=r"a\.wav: truncated"):
        list(audio_blocks(path))
    (tmp_path / "b.wav").write_text("no audio")
    with pytest.raises(UserError, match=r"b\.wav: not audio"):
        list(audio_blocks(tmp_path / "b.wav"))
