"""SpeechEncoder: the cut, what is trained, layer mixes, LoRA, hashes, bad input."""

import json
import subprocess
import sys

import pytest
import torch
from models_tiny import MODELS, build, clips, pad, save

from speechcwcl.errors import UserError
from speechcwcl.models.encoders.speech import SpeechEncoder

NAMES = ["whisper", "wavlm-group", "hubert-layer", "moonshine", "w2v-bert-relative"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: save(name, root / name) for name in NAMES}


@pytest.fixture(scope="module")
def all_folders(folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("more")
    return {n: folders[n] if n in folders else save(n, root / n) for n in MODELS}


@pytest.fixture(scope="module")
def batch():
    return pad(clips(0.9, 0.35))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layers", ["last", "mix", [2], [1, 3], [-1, 0]], ids=str)
def test_frozen_and_trained_parts_make_the_whole(name, layers, folders, batch):
    options = {"layers": layers, "frame_stride": 2}
    free = SpeechEncoder.from_pretrained(folders[name], **options, freeze="none").eval()(*batch)[0]
    for freeze in ["all", 0, 1, 2, 3]:
        encoder = SpeechEncoder.from_pretrained(folders[name], **options, freeze=freeze).eval()
        feats, feature_lengths = encoder.frozen_features(*batch)
        assert feats.dim() == 4
        assert not feats.requires_grad
        again, lengths = encoder.from_features(feats, feature_lengths)
        frames, expected_lengths = encoder(*batch)
        assert torch.equal(frames, again)
        assert torch.equal(lengths, expected_lengths)
        # The same numbers whatever is frozen: only what is learned differs.
        assert torch.allclose(free, frames, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_last_layer_of_mix_is_the_top(name, folders, batch):
    mixed = SpeechEncoder.from_pretrained(folders[name], layers=[-1]).eval()
    last = SpeechEncoder.from_pretrained(folders[name]).eval()
    top = torch.nn.functional.layer_norm(last(*batch)[0], (last.dim,))
    frames, lengths = mixed(*batch)
    assert torch.allclose(frames[0, : lengths[0]], top[0, : lengths[0]], atol=1e-5)


def test_hidden_states_are_those_of_transformers(folders, batch):
    model = build("hubert-layer")
    wav, lengths = batch
    clip = wav[:1, : lengths[0]]
    normal = (clip - clip.mean()) / torch.sqrt(clip.var(unbiased=False) + 1e-7)
    with torch.no_grad():
        states = model(normal, output_hidden_states=True).hidden_states
    concat = SpeechEncoder.from_pretrained(
        folders["hubert-layer"], layers=[0, 1, 2], combine="concat"
    )
    assert concat.dim == 3 * 32
    found = concat.eval()(clip, lengths[:1])[0][0]
    expected = torch.cat([torch.nn.functional.layer_norm(s[0], (32,)) for s in states[:3]], dim=-1)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("freeze", ["all", 1, "none"])
def test_only_what_should_learn_gets_gradients(freeze, folders, batch):
    encoder = SpeechEncoder.from_pretrained(folders["whisper"], freeze=freeze, layers="mix").train()
    encoder(*batch)[0].square().sum().backward()
    with_gradient = {n for n, p in encoder.named_parameters() if p.grad is not None}
    learned = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert with_gradient == learned
    assert "mix.weights" in learned
    layers = {n.split(".")[2] for n in learned if n.startswith("model.layers.")}
    assert layers == {"all": set(), 1: {"1", "2"}, "none": {"0", "1", "2"}}[freeze]
    assert ("model.conv1.weight" in learned) is (freeze == "none")
    assert ("model.layer_norm.weight" in learned) is (freeze != "all")
    assert "model.embed_positions.weight" not in learned


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("options", [{"freeze": "none"}, {"freeze": 1}, {"freeze": 0, "lora": {}}])
def test_every_learned_parameter_gets_a_gradient(name, options, all_folders, batch):
    """A learned parameter without a gradient would stop distributed training."""
    if "lora" in options:
        pytest.importorskip("peft")
    encoder = SpeechEncoder.from_pretrained(all_folders[name], **options).train()
    encoder(*batch)[0].square().sum().backward()
    learned = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert learned
    assert {n for n, p in encoder.named_parameters() if p.grad is not None} == learned


@pytest.mark.parametrize("name", sorted(MODELS))
def test_mixed_precision_training_runs(name, all_folders, batch):
    encoder = SpeechEncoder.from_pretrained(all_folders[name], freeze="none").train()
    exact = encoder.eval()(*batch)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        frames, _ = encoder.train()(*batch)
    frames.float().square().sum().backward()
    assert torch.isfinite(frames).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = encoder.eval()(*batch)[0]
    assert (near.float() - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_batch_norm_keeps_its_statistics(all_folders, batch):
    encoder = SpeechEncoder.from_pretrained(all_folders["hubert-batchnorm"], freeze="none").train()
    before = encoder.model.encoder.pos_conv_embed.batch_norm.running_mean.clone()
    encoder(*batch)
    assert torch.equal(encoder.model.encoder.pos_conv_embed.batch_norm.running_mean, before)


def test_layers_above_the_wanted_ones_are_neither_run_nor_trained(folders, batch):
    encoder = SpeechEncoder.from_pretrained(folders["whisper"], freeze="none", layers=[1]).train()
    encoder(*batch)[0].sum().backward()
    assert not any(p.requires_grad for p in encoder.model.layers[1:].parameters())
    assert not any(p.requires_grad for p in encoder.model.layer_norm.parameters())
    assert encoder.model.layers[0].fc1.weight.grad is not None


def test_dropout_only_where_it_is_trained(tmp_path, batch):
    model = build("hubert-layer")
    for key in ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"):
        setattr(model.config, key, 0.5)
    model.save_pretrained(tmp_path)
    frozen = SpeechEncoder.from_pretrained(tmp_path, freeze="all").train()
    assert torch.equal(frozen(*batch)[0], frozen(*batch)[0])
    upper = SpeechEncoder.from_pretrained(tmp_path, freeze=2).train()
    assert torch.equal(upper.frozen_features(*batch)[0], upper.frozen_features(*batch)[0])
    assert not torch.equal(upper(*batch)[0], upper(*batch)[0])
    assert [layer.training for layer in upper.family.layers] == [False, False, True]
    assert torch.equal(upper.eval()(*batch)[0], upper(*batch)[0])


def test_checkpointing_gives_the_same_gradients(folders, batch):
    gradients = []
    for checkpointing in (False, True):
        encoder = SpeechEncoder.from_pretrained(
            folders["wavlm-group"], freeze=1, gradient_checkpointing=checkpointing
        ).train()
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for layer in encoder.family.layers:
            layer.attention.dropout = 0.0
        encoder(*batch)[0].square().sum().backward()
        gradients.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5), name


def test_half_precision_features_are_taken(folders, batch):
    encoder = SpeechEncoder.from_pretrained(folders["whisper"], freeze=2).eval()
    feats, lengths = encoder.frozen_features(*batch)
    near, _ = encoder.from_features(feats.half(), lengths)
    assert near.dtype == torch.float32
    assert torch.allclose(near, encoder(*batch)[0], atol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_lora(name, folders, batch):
    pytest.importorskip("peft")
    encoder = SpeechEncoder.from_pretrained(folders[name], freeze=1, lora={"r": 2}).eval()
    plain = SpeechEncoder.from_pretrained(folders[name], freeze=1).eval()
    assert torch.equal(encoder(*batch)[0], plain(*batch)[0])  # begins as nothing
    learned = [n for n, p in encoder.named_parameters() if p.requires_grad]
    assert learned
    assert all("lora_" in n for n in learned)
    assert not any("layers.0." in n for n in learned)
    encoder.train()
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1.0)
    encoder(*batch)[0].square().mean().backward()
    optimizer.step()
    assert not torch.allclose(encoder.eval()(*batch)[0], plain(*batch)[0], atol=1e-6)
    frozen, _ = encoder.frozen_features(*batch)
    assert torch.equal(frozen, plain.frozen_features(*batch)[0])


def test_lora_names_what_is_wrong(folders):
    pytest.importorskip("peft")
    for lora, freeze, words in (
        ({"rank": 2}, 1, "no option 'rank'"),
        ({"r": 2}, "all", "no layer is left to adapt"),
        ({"targets": ["quark"]}, 0, "match none of the layer's.*q_proj"),
    ):
        with pytest.raises(UserError, match=words):
            SpeechEncoder.from_pretrained(folders["whisper"], freeze=freeze, lora=lora)


def test_hash_and_cut_tell_caches_apart(folders, tmp_path):
    def key(folder=folders["whisper"], **options):
        return SpeechEncoder.from_pretrained(folder, **options).cache_key

    keys = [
        key(),
        key(layers="mix"),
        key(layers=[1]),
        key(frame_stride=2),
        key(silence=0),
        key(freeze=1),
        key(freeze=2),
        key(freeze=1, layers="mix"),
        key(folders["moonshine"]),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == key(gradient_checkpointing=True)
    # Above the cut, the stride changes nothing that is cached.
    assert key(freeze=1) == key(freeze=1, frame_stride=4)
    model = build("whisper")
    with torch.no_grad():
        model.encoder.layers[0].fc1.bias[0] += 1e-3
    model.save_pretrained(tmp_path)
    assert key(tmp_path) != key()


def test_hash_belongs_to_what_was_loaded(folders, batch):
    encoder = SpeechEncoder.from_pretrained(folders["whisper"], freeze="none")
    before = encoder.hash
    with torch.no_grad():
        encoder.model.layers[0].fc1.weight.mul_(2)
    assert encoder.hash == before
    assert encoder.cut == ""
    with pytest.raises(UserError, match="nothing to cache"):
        encoder.frozen_features(*batch)


def test_encoder_only_folder_is_the_same_encoder(folders, tmp_path):
    build("whisper").encoder.save_pretrained(tmp_path)
    encoder = SpeechEncoder.from_pretrained(tmp_path)
    assert encoder.hash == SpeechEncoder.from_pretrained(folders["whisper"]).hash


def test_full_generation_checkpoint_works(folders, tmp_path):
    from transformers import WhisperForConditionalGeneration

    whole = WhisperForConditionalGeneration(build("whisper").config)
    whole.model.load_state_dict(build("whisper").state_dict())
    whole.save_pretrained(tmp_path)
    encoder = SpeechEncoder.from_pretrained(tmp_path)
    assert encoder.hash == SpeechEncoder.from_pretrained(folders["whisper"]).hash
    assert not any("decoder" in name for name in encoder.state_dict())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"freeze": "al"}, "freeze: 'al' is not 'all', 'none' or a number from 0 to 3"),
        ({"freeze": 4}, "freeze: 4"),
        ({"freeze": True}, "freeze: True"),
        ({"layers": "top"}, "layers: 'top' is not 'last', 'mix' or a list"),
        ({"layers": [9]}, "between 0 and 3"),
        ({"layers": []}, "layers: "),
        ({"layers": ["a"]}, "layers: "),
        ({"layers": None}, "layers: None"),
        ({"frame_stride": 0}, "frame_stride: 0 is not a whole number"),
        ({"combine": "sum"}, "combine: 'sum'"),
        ({"silence": -1}, "silence: -1"),
        ({"silence": [1, 2, 3]}, "silence: "),
    ],
)
def test_wrong_options(options, words, folders):
    with pytest.raises(UserError, match=words):
        SpeechEncoder.from_pretrained(folders["whisper"], **options)


def test_broken_folders_are_refused(folders, tmp_path):
    weights = (folders["whisper"] / "model.safetensors").read_bytes()
    config = (folders["whisper"] / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="cannot load the weights"):
        SpeechEncoder.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="cannot load the weights"):
        SpeechEncoder.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights)
    more = json.loads(config) | {"encoder_layers": 4}
    (tmp_path / "config.json").write_text(json.dumps(more))
    with pytest.raises(UserError, match="do not fit config.json.*layers.3"):
        SpeechEncoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json:1: not valid JSON"):
        SpeechEncoder.from_pretrained(tmp_path)


def test_code_in_a_folder_is_never_run(folders, tmp_path):
    marker = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass C: pass\n"
    (tmp_path / "evil.py").write_text(code)
    for kind, words in (
        ("nobody-knows", "'nobody-knows' is not a speech encoder that"),
        ("hubert", "cannot load the weights"),  # transformers reads this one
    ):
        config = {"model_type": kind, "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.C"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=words):
            SpeechEncoder.from_pretrained(tmp_path)
        assert not marker.exists()


def test_what_onednn_prepared_for_past_shapes_is_let_go():
    """Each shape of a batch kept megabytes: hours of audio took gigabytes, never used again."""
    code = """
import os
os.environ["ONEDNN_VERBOSE"] = "profile_create"
os.environ.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)
import speechcwcl.models.checkpoint
import torch
convolution = torch.nn.Conv1d(8, 8, 3)
with torch.no_grad():
    for turn in (1, 2):
        print("turn", turn, flush=True)
        for size in range(40, 240):
            convolution(torch.zeros(2, 8, size))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.split("turn 2")
    if "cache_" not in first:
        pytest.skip("this processor's torch does not use oneDNN")
    assert second.count("convolution") >= 200
    assert not [line for line in second.splitlines() if "cache_hit,cpu,convolution" in line]
