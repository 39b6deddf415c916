"""Tiny speech encoders of every family, built from configurations; waveforms to feed them."""

import json

import numpy as np
import torch
import transformers as hf

from speechcwcl.models.aligner import Aligner

_CONV = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}
_LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
_CONFORMER = {k: v for k, v in _CONV.items() if k in ("hidden_size", "num_hidden_layers")}
_CONFORMER |= {"num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 32}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}

# name -> (class of the whole model, its configuration)
MODELS = {
    "wav2vec2-group": (hf.Wav2Vec2Model, lambda: hf.Wav2Vec2Config(**_CONV)),
    "wav2vec2-layer": (hf.Wav2Vec2Model, lambda: hf.Wav2Vec2Config(**_CONV, **_LARGE)),
    "hubert-group": (hf.HubertModel, lambda: hf.HubertConfig(**_CONV)),
    "hubert-layer": (hf.HubertModel, lambda: hf.HubertConfig(**_CONV, **_LARGE)),
    "hubert-batchnorm": (
        hf.HubertModel,
        lambda: hf.HubertConfig(**_CONV, conv_pos_batch_norm=True),
    ),
    "wavlm-group": (hf.WavLMModel, lambda: hf.WavLMConfig(**_CONV)),
    "wavlm-layer": (hf.WavLMModel, lambda: hf.WavLMConfig(**_CONV, **_LARGE)),
    "data2vec": (
        hf.Data2VecAudioModel,
        lambda: hf.Data2VecAudioConfig(**{**_CONV, "num_conv_pos_embeddings": 3}),
    ),
    "w2v-bert-key": (hf.Wav2Vec2BertModel, lambda: hf.Wav2Vec2BertConfig(**_CONFORMER)),
    "w2v-bert-relative": (
        hf.Wav2Vec2BertModel,
        lambda: hf.Wav2Vec2BertConfig(**_CONFORMER, position_embeddings_type="relative"),
    ),
    "w2v-bert-rotary": (
        hf.Wav2Vec2BertModel,
        lambda: hf.Wav2Vec2BertConfig(**_CONFORMER, position_embeddings_type="rotary"),
    ),
    "moonshine": (
        hf.MoonshineModel,
        lambda: hf.MoonshineConfig(
            hidden_size=32,
            intermediate_size=48,
            vocab_size=32,
            encoder_num_hidden_layers=3,
            encoder_num_attention_heads=4,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=4,
        ),  # fmt: skip
    ),
    "whisper": (
        hf.WhisperModel,
        lambda: hf.WhisperConfig(
            d_model=32,
            vocab_size=32,
            max_source_positions=50,
            **_IDS,
            encoder_layers=3,
            encoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_layers=1,
            decoder_attention_heads=4,
            decoder_ffn_dim=48,
        ),  # fmt: skip
    ),
}


def build(name):
    """A whole tiny model with random weights in evaluation mode.

    Biases and norms start as zeros and ones, which would hide mistakes; they get noise too.
    """
    torch.manual_seed(0)
    cls, config = MODELS[name]
    model = cls(config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def extractor(name):
    """The feature extractor that goes with a family, as its published folders have it."""
    if name == "whisper":
        return hf.WhisperFeatureExtractor(feature_size=80)
    if name.startswith("w2v-bert"):
        return hf.SeamlessM4TFeatureExtractor()
    return hf.Wav2Vec2FeatureExtractor(do_normalize=name != "moonshine")


def save(name, folder):
    """Save a tiny model and its feature extractor as transformers does."""
    model = build(name)
    model.save_pretrained(folder)
    extractor(name).save_pretrained(folder)
    return folder


def reference(name, model, clip):
    """(frames, dim) of one clip by transformers itself, feature extraction included."""
    options = {"sampling_rate": 16000, "return_tensors": "pt"}
    if name == "whisper":
        options["padding"] = "do_not_pad"
    inputs = extractor(name)(clip, **options)
    with torch.no_grad():
        if name == "whisper":
            return model.encoder(inputs.input_features).last_hidden_state[0]
        if name == "moonshine":
            return model.encoder(inputs.input_values).last_hidden_state[0]
        if name.startswith("w2v-bert"):
            return model(**inputs).last_hidden_state[0][inputs.attention_mask[0].bool()]
        return model(inputs.input_values).last_hidden_state[0]


def clips(*seconds, seed=0):
    """Noise with a changing level: a list of float32 arrays at 16 kHz."""
    rng = np.random.default_rng(seed)
    result = []
    for length in seconds:
        n = int(length * 16000)
        level = 0.02 + 0.08 * np.abs(np.sin(np.arange(n) / 1500 + rng.uniform(0, 6)))
        result.append((rng.standard_normal(n) * level + 0.01).astype(np.float32))
    return result


def pad(waves, extra=0):
    """(batch, samples) zero-padded, (batch,) lengths."""
    lengths = torch.tensor([len(wave) for wave in waves])
    batch = torch.zeros(len(waves), int(lengths.max()) + extra)
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    return batch, lengths


# text encoders: name -> (class, its configuration for a vocabulary of that size)
TEXT_MODELS = {
    "bert": (hf.BertModel, hf.BertConfig),
    "mpnet": (hf.MPNetModel, hf.MPNetConfig),
    "roberta": (hf.RobertaModel, hf.RobertaConfig),
    "bart": (hf.BartModel, hf.BartConfig),
}


def save_text(name, folder, tokenizer):
    """Save a tiny text encoder of a family; its tokenizer is that of the folder `tokenizer`."""
    torch.manual_seed(0)
    cls, config = TEXT_MODELS[name]
    words = hf.AutoTokenizer.from_pretrained(tokenizer)
    size = {"vocab_size": len(words), "max_position_embeddings": 66, "pad_token_id": 0}
    if name == "bart":
        width = {"d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32}
        width |= {"decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        width |= {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    else:
        width = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        width |= {"intermediate_size": 32}
    cls(config(**width, **size)).save_pretrained(folder)
    words.save_pretrained(folder)
    if name in ("mpnet", "roberta"):  # published as sentence-transformers folders
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        modules = [{"path": p, "type": f"sentence_transformers.models.{k}"} for p, k in kinds]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        pooling = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    return folder


TO_OPENAI = (
    (".layers.", ".blocks."),
    ("self_attn_layer_norm", "attn_ln"),
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("final_layer_norm", "mlp_ln"),
    ("self_attn.", "attn."),
    ("encoder_attn.", "cross_attn."),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    (".fc1.", ".mlp.0."),
    (".fc2.", ".mlp.2."),
    ("embed_positions.weight", "positional_embedding"),
    ("embed_tokens", "token_embedding"),
    ("encoder.layer_norm", "encoder.ln_post"),
    ("decoder.layer_norm", "decoder.ln"),
)
DIMS = {
    "n_mels": 80,
    "n_vocab": 32,
    "n_audio_ctx": 50,
    "n_audio_state": 32,
    "n_audio_head": 4,
    "n_audio_layer": 3,
    "n_text_ctx": 448,
    "n_text_state": 32,
    "n_text_head": 4,
    "n_text_layer": 1,
}


def openai_checkpoint(path):
    """A tiny Whisper under OpenAI's names."""
    from transformers import WhisperConfig, WhisperModel

    torch.manual_seed(0)
    config = build("whisper").config.to_dict() | {"encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    model = WhisperModel(WhisperConfig(**config)).eval()
    state = {}
    for name, tensor in model.state_dict().items():
        for theirs, ours in TO_OPENAI:
            name = name.replace(theirs, ours)
        state[name] = tensor
    torch.save({"dims": DIMS, "model_state_dict": state}, path)
    return model, state


# -- exported models --

EXACT = 1e-4
EXPORTED = {"frame_stride": 2, "pooling_options": {"heads": 2, "stats": ["std"]}}


def model_for_export(name, folder, text, **options):
    """With what an export must not lose: heads, a stride, statistics, the mean of the texts."""
    torch.manual_seed(0)
    model = Aligner.build(save(name, folder), text, **{**EXPORTED, **options}).eval()
    model.set_text_mean(torch.linspace(-0.1, 0.1, model.dim))
    return model


def check_parity(model, onnx_model, waves):
    """An exported model gives the model's embeddings: alone, padded, in another order."""
    wanted = model.encode_speech(waves)
    alone = np.concatenate([onnx_model.encode_speech([wave]) for wave in waves])
    wav, lengths = pad(waves, extra=777)
    wav[wav == 0] = 0.5  # what lies beyond the lengths must not be heard
    padded = onnx_model.embed_speech(wav, lengths)
    backwards = onnx_model.embed_speech(wav.flip(0), lengths.flip(0))[::-1]
    for found in (alone, padded, backwards):
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() < EXACT
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-3  # or the test would say nothing
