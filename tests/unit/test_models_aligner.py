"""The aligner: encoding, classifying, folders that open safely or not at all."""

import json

import numpy as np
import pytest
import torch
from models_tiny import MODELS, clips, pad, save

from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.audio_input import batches

OPTIONS = {"frame_stride": 2, "pooling_options": {"heads": 2, "stats": ["mean"]}}


@pytest.fixture(scope="module")
def speech_folder(tmp_path_factory):
    return save("whisper", tmp_path_factory.mktemp("speech"))


@pytest.fixture
def aligner(speech_folder, tiny_text):
    torch.manual_seed(0)
    return Aligner.build(speech_folder, tiny_text, projection={"hidden": [16]}, **OPTIONS).eval()


WAVES = clips(0.7, 0.05, 1.3, 0.4, 0.0002)


def test_embeddings_do_not_depend_on_batch_or_order(aligner):
    whole = aligner.encode_speech(WAVES)
    assert whole.shape == (5, aligner.dim)
    assert whole.dtype == np.float32
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    alone = np.concatenate([aligner.encode_speech([wave]) for wave in WAVES])
    assert np.abs(whole - alone).max() < 1e-5
    backwards = aligner.encode_speech(WAVES[::-1], batch_seconds=1.5)[::-1]
    assert np.abs(whole - backwards).max() < 1e-5
    assert np.abs(whole[0] - whole[2]).max() > 1e-3


@pytest.mark.parametrize("name", sorted(MODELS))
def test_batch_must_not_matter_for_any_family(name, tiny_text, tmp_path):
    torch.manual_seed(0)
    aligner = Aligner.build(save(name, tmp_path), tiny_text, layers="mix", **OPTIONS).eval()
    whole = aligner.encode_speech(WAVES)
    alone = np.concatenate([aligner.encode_speech([wave]) for wave in WAVES[::-1]])[::-1]
    assert np.abs(whole - alone).max() < 1e-5


def test_training_paths_agree(aligner):
    wav, lengths = pad(WAVES)
    direct = aligner.embed_speech(wav, lengths)
    cached = aligner.embed_features(*aligner.speech_encoder.frozen_features(wav, lengths))
    assert torch.equal(direct, cached)
    assert direct.requires_grad
    assert np.abs(direct.detach().numpy() - aligner.encode_speech(WAVES)).max() < 1e-5


def test_encode_speech_in_training_mode_has_no_dropout(aligner):
    expected = aligner.encode_speech(WAVES)
    aligner.train()
    assert np.array_equal(aligner.encode_speech(WAVES), expected)
    assert aligner.training


def test_every_way_to_hand_over_audio(aligner, tmp_path):
    import soundfile

    wave = WAVES[0]
    expected = aligner.encode_speech([wave])[0]
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    integers = np.round(wave * 32768).astype(np.int16)
    given = [
        str(tmp_path / "a.wav"),
        tmp_path / "a.wav",
        torch.from_numpy(wave),
        wave.astype(np.float64),
        wave[None, :],
        wave[:, None],
        integers,
    ]
    found = aligner.encode_speech(given)
    assert np.abs(found[:6] - expected).max() < 1e-5
    assert np.abs(found[6] - expected).max() < 1e-2
    halved = torch.from_numpy(wave).to(torch.bfloat16)
    assert np.array_equal(aligner.encode_speech([halved]), aligner.encode_speech([halved.float()]))
    slow = torch.nn.functional.interpolate(torch.from_numpy(wave)[None, None], scale_factor=0.5)
    other = aligner.encode_speech([slow[0, 0]], sample_rate=8000)
    assert other.shape == (1, aligner.dim)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.array([0.1, np.nan], dtype=np.float32), "recording 2: .*NaN or infinite"),
        (np.zeros(0, dtype=np.float32), "recording 2: no samples"),
        (np.zeros((2, 100), dtype=np.float32), r"recording 2: shape \(2, 100\)"),
        ([0.1, 0.2], "recording 2: a list; give a path"),
        (np.array(["a"]), "recording 2: samples of type <U1; give integers or floats"),
        (np.zeros(9, dtype=complex), "recording 2: samples of type complex128"),
        ("no/such/file.wav", "no/such/file.wav"),
    ],
)
def test_bad_audio_is_named(bad, words, aligner):
    with pytest.raises(UserError, match=words):
        aligner.encode_speech([WAVES[0], bad])


def test_batches_are_full_and_hold_everything():
    sizes = [16000 * s for s in (5, 1, 3, 3, 90, 2)]
    found = batches(sizes, 10.0)
    assert sorted(sum(found, [])) == list(range(6))
    assert [4] in found
    for group in found:
        assert len(group) == 1 or max(sizes[i] for i in group) * len(group) <= 160000
    assert len(found) == 3
    with pytest.raises(UserError, match="batch_seconds"):
        batches(sizes, 0)


def test_text_space(aligner):
    texts = ["yes", "no", "turn left"]
    raw = aligner.text_encoder.encode(texts)
    assert np.abs(aligner.encode_text(texts) - raw).max() < 1e-6
    mean = raw.mean(axis=0)
    aligner.set_text_mean(mean)
    centred = (raw - mean) / np.linalg.norm(raw - mean, axis=1, keepdims=True)
    assert np.abs(aligner.encode_text(texts) - centred).max() < 1e-5
    labels = aligner.encode_labels(["yes", ["no", "turn left"]], ["{}", "he said {}"])
    group = aligner.encode_text(["no", "he said no", "turn left", "he said turn left"]).mean(0)
    assert np.abs(labels[1] - group / np.linalg.norm(group)).max() < 1e-5


def test_text_encoder_is_lazy_and_no_part_of_the_state(aligner):
    assert not any("text_encoder" in name for name in aligner.state_dict())
    first = aligner.text_encoder
    assert aligner.text_encoder is first
    aligner.text.drop()
    assert aligner.text_encoder is not first
    assert aligner.text.hash == first.hash


def test_classify(aligner):
    found = aligner.classify(WAVES[:2], ["yes", "no", "stop"], ["say {}"])
    speech = aligner.encode_speech(WAVES[:2])
    cosine = speech @ aligner.encode_labels(["yes", "no", "stop"], ["say {}"]).T
    for row, expected in zip(found, cosine, strict=True):
        assert [entry["cosine"] for entry in row] == sorted(expected.tolist(), reverse=True)
        assert sum(entry["score"] for entry in row) == pytest.approx(1, abs=1e-5)
        assert row[0]["label"] == ["yes", "no", "stop"][int(expected.argmax())]
    mapped = aligner.classify(WAVES[:1], {"Y": ["yes", "yeah"], "N": "no"}, top_k=1)
    assert len(mapped[0]) == 1
    assert mapped[0][0]["label"] in ("Y", "N")


@pytest.mark.parametrize(
    ("labels", "templates", "words"),
    [
        ([], ["{}"], "no labels"),
        (["yes", "yes"], ["{}"], "'yes' is given twice"),
        (["yes"], ["say it"], "'say it': needs exactly one"),
        (["yes", ""], ["{}"], "is empty"),
    ],
)
def test_classify_bad_labels(labels, templates, words, aligner):
    with pytest.raises(UserError, match=words):
        aligner.classify(WAVES[:1], labels, templates)


SETTINGS = [
    {},
    {"freeze": 1, "layers": "mix"},
    {"freeze": "none", "pooling": "mean", "pooling_options": None},
    {"freeze": 1, "lora": {"r": 2}},
]


@pytest.mark.parametrize("towers", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
def test_saved_and_opened_again(settings, towers, speech_folder, tiny_text, tmp_path):
    if "lora" in settings:
        pytest.importorskip("peft")
    torch.manual_seed(0)
    aligner = Aligner.build(speech_folder, tiny_text, **{**OPTIONS, **settings}).eval()
    with torch.no_grad():  # as training would
        for parameter in aligner.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    aligner.set_text_mean(np.full(aligner.dim, 0.1))
    aligner.save_pretrained(tmp_path / "model", with_towers=towers, info={"note": "x"})
    names = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert names <= {".json", ".safetensors"}
    torch.manual_seed(1)
    again = Aligner.from_pretrained(tmp_path / "model")
    assert not again.training
    assert np.array_equal(again.encode_speech(WAVES), aligner.encode_speech(WAVES))
    assert np.array_equal(again.encode_text(["yes"]), aligner.encode_text(["yes"]))
    assert again.logit_scale == aligner.logit_scale
    assert again.speech_encoder.cache_key == aligner.speech_encoder.cache_key
    assert again.text.hash == aligner.text.hash
    again.save_pretrained(tmp_path / "copy", with_towers=towers, info={"note": "x"})
    first, second = (tmp_path / name / "model.safetensors" for name in ("model", "copy"))
    assert first.read_bytes() == second.read_bytes()


def test_towers_need_nothing_else(tiny_text, tmp_path):
    torch.manual_seed(0)
    speech = save("wavlm-layer", tmp_path / "speech")
    text = tmp_path / "text"
    text.mkdir()
    for path in tiny_text.iterdir():
        (text / path.name).write_bytes(path.read_bytes())
    aligner = Aligner.build(speech, text, **OPTIONS).eval()
    expected = aligner.classify(WAVES[:1], ["yes", "no"])
    aligner.save_pretrained(tmp_path / "whole", with_towers=True)
    aligner.save_pretrained(tmp_path / "light")
    speech.rename(tmp_path / "gone")
    text.rename(tmp_path / "gone too")
    assert (
        Aligner.from_pretrained(tmp_path / "whole").classify(WAVES[:1], ["yes", "no"]) == expected
    )
    with pytest.raises(UserError, match="no such folder"):
        Aligner.from_pretrained(tmp_path / "light")


def test_light_folder_holds_only_what_was_learned(aligner, tmp_path):
    from safetensors import safe_open

    aligner.save_pretrained(tmp_path / "m")
    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as tensors:
        names = set(tensors.keys())
    learned = {name for name, p in aligner.named_parameters() if p.requires_grad}
    assert names == learned | {"text_mean"}


@pytest.fixture
def saved(aligner, tmp_path):
    aligner.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder, words):
    with pytest.raises(UserError, match=words) as caught:
        Aligner.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_truncated_changed_or_missing_weights(saved):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    refused(saved, "truncated or changed")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(saved, "its sha256 is not the one in config.json")
    path.unlink()
    refused(saved, "model.safetensors: missing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(version=2), "format version 2.*upgrade"),
        (lambda c: c.update(version="1"), "format version 1"),
        (lambda c: c.update(format="other"), "not a saved aligner"),
        (lambda c: c.update(poolng="mean"), "unknown key 'poolng' .closest: 'pooling'"),
        (lambda c: c.pop("pooling"), "key 'pooling' is missing"),
        (lambda c: c.update(towers=0), "key 'towers' is missing or of the wrong type"),
        (lambda c: c["files"].clear(), "does not list model.safetensors"),
        (lambda c: c["files"].update({"../x": {}}), "outside the folder"),
        (lambda c: c["files"].update({"/etc/passwd": {}}), "outside the folder"),
        (lambda c: c["files"].update({"extra.json": {}}), "has no size and hash"),
        (lambda c: c["speech"].update(hash="0" * 64), "not the one that .* was trained with"),
        (lambda c: c["speech"]["options"].update(colour=3), "not as expected: .*colour"),
        (lambda c: c["text"].pop("hash"), "not as expected"),
        (lambda c: c.update(projection={"hidden": [17]}), "projection.*expected"),
        (lambda c: c.update(projection={"hidden": [16, 16]}), "projection.* is missing|expected"),
        (
            lambda c: c["speech"]["options"].update(layers="mix"),
            "'speech_encoder.mix.weights' is m",
        ),
        (
            lambda c: c.update(pooling="mean", pooling_options={}),
            "unexpected tensor 'pooling|is \\(",
        ),
    ],
)
def test_changed_configuration(change, words, saved):
    edit(saved, change)
    refused(saved, words)


def test_other_text_encoder_is_refused_when_it_is_used(saved):
    edit(saved, lambda c: c["text"].update(hash="0" * 64))
    aligner = Aligner.from_pretrained(saved)
    aligner.encode_speech(WAVES[:1])
    with pytest.raises(UserError, match="not the one this model was trained with"):
        aligner.encode_text(["yes"])


@pytest.mark.parametrize("name", ["pytorch_model.bin", "extra/code.py", "x.pkl", "weights.PT"])
def test_files_that_can_run_code_are_refused(name, saved):
    (saved / name).parent.mkdir(exist_ok=True)
    (saved / name).write_bytes(b"x")
    refused(saved, "can run code")


def test_not_an_aligner_at_all(tmp_path, speech_folder):
    refused(tmp_path, "no config.json")
    refused(speech_folder, "not a saved aligner")
    refused(tmp_path / "nothing", "no such folder")
    (tmp_path / "config.json").write_text("{]")
    refused(tmp_path, "config.json:1: not valid JSON")


def test_saving_replaces_as_a_whole_or_not_at_all(aligner, saved, monkeypatch):
    aligner.save_pretrained(saved)
    before = (saved / "model.safetensors").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("speechcwcl.models.checkpoint.save_file", full)
    with pytest.raises(UserError, match="cannot write: No space left"):
        aligner.save_pretrained(saved)
    assert (saved / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in saved.parent.iterdir()) == ["m"]


def test_unwritable_place(aligner, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        aligner.save_pretrained(tmp_path / "file" / "m")


def test_pickled_text_encoder_goes_into_no_folder(speech_folder, tiny_text, tmp_path):
    for path in tiny_text.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    from safetensors.torch import load_file

    torch.save(load_file(tiny_text / "model.safetensors"), tmp_path / "pytorch_model.bin")
    aligner = Aligner.build(speech_folder, tmp_path)
    assert aligner.encode_text(["yes"]).shape == (1, aligner.dim)
    with pytest.raises(UserError, match="pickled"):
        aligner.save_pretrained(tmp_path / "m", with_towers=True)
    assert not (tmp_path / "m").exists()


def test_logit_scale(aligner):
    assert aligner.logit_scale.item() == pytest.approx(1 / 0.07, rel=1e-5)
    aligner.set_logit_scale(20.0)
    assert aligner.logit_scale.item() == pytest.approx(20.0, rel=1e-5)
    aligner.set_logit_scale(1e6)
    assert aligner.logit_scale.item() == 100.0
