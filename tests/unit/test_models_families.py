"""Every family against transformers itself, and the batch that must not matter."""

import pytest
import torch
from models_tiny import MODELS, build, clips, pad, reference, save
from transformers import BertConfig

from speechcwcl.errors import UserError
from speechcwcl.models.encoders.families import FAMILIES, Family, family_class
from speechcwcl.models.encoders.speech import SpeechEncoder

NAMES = sorted(MODELS)
OURS = [name for name, found in FAMILIES.items() if isinstance(found, str)]  # no script's


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: save(name, root / name) for name in NAMES}


def encode(encoder, waves, extra=0):
    with torch.no_grad():
        frames, lengths = encoder(*pad(waves, extra))
    return [rows[:n] for rows, n in zip(frames, lengths, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_same_as_transformers(name, folders):
    encoder = SpeechEncoder.from_pretrained(folders[name], silence=0).eval()
    clip = clips(1.0)[0]
    expected = reference(name, build(name), clip)
    found = encode(encoder, [clip])[0]
    assert found.shape == expected.shape
    # w2v-bert: transformers takes its filter bank in another precision.
    assert torch.allclose(found, expected, atol=1e-4 if "bert" in name else 1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_alone_padded_and_in_any_order(name, folders):
    encoder = SpeechEncoder.from_pretrained(folders[name]).eval()
    waves = clips(1.0, 0.4, 0.05, 0.73, 0.001)
    alone = [encode(encoder, [wave])[0] for wave in waves]
    together = encode(encoder, waves, extra=777)
    backwards = encode(encoder, waves[::-1])[::-1]
    for a, b, c in zip(alone, together, backwards, strict=True):
        assert a.shape == b.shape == c.shape
        assert a.shape[0] >= 1
        assert (a - b).abs().max() < 1e-5
        assert (a - c).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["wav2vec2-group", "hubert-group", "whisper", "moonshine"])
def test_what_lies_beyond_the_length_is_not_heard(name, folders):
    encoder = SpeechEncoder.from_pretrained(folders[name]).eval()
    wav, lengths = pad(clips(0.6, 1.0))
    clean, _ = encoder(wav, lengths)
    wav[0, lengths[0] :] = 3.0
    dirty, frame_lengths = encoder(wav, lengths)
    assert torch.equal(clean, dirty)
    assert clean[0, frame_lengths[0] :].abs().max() == 0


@pytest.mark.parametrize("name", NAMES)
def test_frame_counts_and_rates(name, folders):
    encoder = SpeechEncoder.from_pretrained(folders[name], frame_stride=2)
    plain = SpeechEncoder.from_pretrained(folders[name])
    wave = clips(2.0)
    found, full = encode(encoder.eval(), wave)[0], encode(plain.eval(), wave)[0]
    assert encoder.frame_rate == plain.frame_rate / 2
    assert abs(len(full) - 2.0 * plain.frame_rate) < 3
    assert len(found) == -(-len(full) // 2)
    assert torch.allclose(found[0], full[:2].mean(0), atol=1e-6)
    last = full[2 * (len(found) - 1) :]
    assert torch.allclose(found[-1], last.mean(0), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_silence_changes_nothing_but_context(name, folders):
    quiet = SpeechEncoder.from_pretrained(folders[name], silence=[0.2, 0.1]).eval()
    plain = SpeechEncoder.from_pretrained(folders[name], silence=0).eval()
    wave = clips(0.8)
    a, b = encode(quiet, wave)[0], encode(plain, wave)[0]
    assert a.shape == b.shape
    assert (a - b).abs().max() > 1e-4


def test_the_group_norm_trap_is_real(folders):
    """Without the masked norm, padding moves the frames: what this project is built around."""
    model = build("wav2vec2-group")
    wav, lengths = pad(clips(0.4, 1.0))
    alone = reference("wav2vec2-group", model, wav[0, : lengths[0]].numpy())
    with torch.no_grad():
        padded = model(wav).last_hidden_state[0, : len(alone)]
    assert (padded - alone).abs().max() > 0.1


def test_whisper_long_clip_in_windows(folders):
    """Windows of the position table's length, one after the other, spectrogram over the whole."""
    encoder = SpeechEncoder.from_pretrained(folders["whisper"], silence=0).eval()
    waves = clips(3.4, 1.5, 2.0, 0.3)
    together = encode(encoder, waves)
    assert [len(rows) for rows in together] == [170, 75, 100, 15]
    for wave, rows in zip(waves, together, strict=True):
        assert (encode(encoder, [wave])[0] - rows).abs().max() < 1e-5
    # The second window of the two-second clip, computed by hand through the parts.
    family = encoder.family
    mel, frames = family.log_mel(*pad([waves[2]]))
    window = family.convolve(mel[..., 100:], frames - 100)
    context = family.context(window, torch.tensor([50]))
    for index in range(encoder.depth):
        window = family.layer(index, window, context)
    assert torch.allclose(together[2][50:], family.final(window)[0], atol=1e-5)


def test_whisper_long_clip_through_the_cut(folders):
    encoder = SpeechEncoder.from_pretrained(folders["whisper"], freeze=1, layers="mix").eval()
    wav, lengths = pad(clips(2.6, 1.2))
    frames, _ = encoder(wav, lengths)
    again, _ = encoder.from_features(*encoder.frozen_features(wav, lengths))
    assert torch.equal(frames, again)


def test_unknown_model_type_is_refused(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'bert' is not a speech encoder.*whisper"):
        SpeechEncoder.from_pretrained(tmp_path)
    assert len(OURS) == 7


def test_every_model_type_has_a_family():
    for model_type in OURS:
        assert issubclass(family_class(model_type, "here"), Family)


def test_adapter_of_translation_checkpoints_is_left_out(tmp_path):
    from transformers import Wav2Vec2Model

    config = MODELS["wav2vec2-layer"][1]()
    config.add_adapter = True
    torch.manual_seed(0)
    Wav2Vec2Model(config).save_pretrained(tmp_path)
    encoder = SpeechEncoder.from_pretrained(tmp_path).eval()
    assert abs(len(encode(encoder, clips(1.0))[0]) - 49) <= 1


@pytest.mark.parametrize("normalise", [True, False])
def test_waveform_normalisation_follows_the_checkpoint(normalise, tmp_path):
    from transformers import Wav2Vec2FeatureExtractor

    build("wav2vec2-layer").save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(tmp_path)
    encoder = SpeechEncoder.from_pretrained(tmp_path).eval()
    wave = clips(0.5)[0]
    same = (encode(encoder, [wave])[0] - encode(encoder, [wave * 5])[0]).abs().max() < 2e-3
    assert bool(same) is normalise
    assert f"normalise {normalise}" in encoder.cut
