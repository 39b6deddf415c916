"""The folder of a saved Aligner, see `folders`: written whole, checked strictly."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from speechcwcl.errors import UserError
from speechcwcl.files import read_json, write_json
from speechcwcl.models.encoders.families import open_family
from speechcwcl.models.encoders.speech import SpeechEncoder
from speechcwcl.models.folders import (
    _MOST_NUMBER,
    CARD,
    FEATURES,
    FORMAT,
    MODEL_TYPE,
    MOST_JSON,
    PROTOCOLS,
    VERSION,
    WEIGHTS,
    TextInfo,
    _refuse_unsafe,
    check_files,
    check_shapes,
    read_config,
    refuse_links,
    write_config,
)
from speechcwcl.models.text_side import text_files
from speechcwcl.models.weights.sources import resolve


def write(
    folder: Path,
    config: dict[str, Any],
    state: dict[str, torch.Tensor],
    protocols: dict[str, Any] | None = None,
    card: str | None = None,
) -> None:
    """Finish a folder: the weights, then config.json with the hash of everything there.

    Args:
        folder: an existing folder; files already in it (towers) are listed too.
        config: every key of the format but `format, version, speechcwcl, files`.
        protocols: label texts to go along; see `packed_protocols`.
    """
    write_json(
        folder / FEATURES,
        {
            "feature_extractor_type": "SpeechCwclFeatureExtractor",
            "processor_class": "SpeechCwclProcessor",
            "sampling_rate": 16000,
        },
    )
    if protocols:
        write_json(folder / PROTOCOLS, protocols)
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {**config, "model_type": MODEL_TYPE}
    if card is not None:
        digest = hashlib.sha256(card.encode("utf-8")).hexdigest()
        config["info"] = {**config["info"], "card": digest}
    write_config(folder, config, FORMAT, VERSION)
    if card is not None:
        (folder / CARD).write_text(card, encoding="utf-8", newline="\n")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Check everything in a folder but load none of it.

    Returns:
        The configuration, and the shape of each tensor of the weights, by their header.

    Raises:
        UserError: no aligner there, a newer version, an unknown key, a file that is missing,
            truncated, changed, a link or able to carry code; a number that no model has.
    """
    config = read_config(folder)
    refuse_links(folder)
    _refuse_unsafe(folder, config["files"])
    check_files(folder, config["files"])
    shapes = _shapes(folder / WEIGHTS)
    shaping = ("dim", "speech", "text", "pooling_options", "projection")
    _refuse_huge(folder / "config.json", {key: config[key] for key in shaping}, None)
    if config["towers"]:
        texts = [_shapes(folder / n) for n in config["files"] if n.endswith(".safetensors")]
        for tower, count in (("speech", len(shapes)), ("text", sum(map(len, texts)))):
            path = folder / tower / "config.json"
            _refuse_huge(path, read_json(path, dict, limit=MOST_JSON), count)
    return config, shapes


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: broken: {error}") from error


def _refuse_huge(path: Path, config: dict[str, Any], tensors: int | None) -> None:
    """Raise where a configuration asks for more than its weights can hold.

    Shapes are compared with the weights before anything is allocated, but whoever builds a model
    to compare it must not be kept busy by a million layers or long tables either.
    """
    left: list[tuple[str, Any]] = [("", config)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(key, one) for one in value]
        most = tensors if tensors is not None and key.endswith("layers") else _MOST_NUMBER
        size = len(value) if isinstance(value, list) else value
        if isinstance(size, int) and abs(size) > most:
            why = f"{WEIGHTS} has {tensors} tensors" if most == tensors else f"at most {most}"
            raise UserError(f"{path}: {key}: {size} is more than any such model has ({why})")


# -- the frozen encoders in it ----------------------------------------------------------------


def write_towers(folder: Path, speech_encoder: SpeechEncoder, text: TextInfo) -> None:
    """Put `speech/` (configuration only) and `text/` (all files) into a folder.

    The speech encoder's weights are not written here: they go with the learned ones.
    """
    family = speech_encoder.family
    # Saved by transformers, which knows how to write the nested parts of a configuration.
    family.config.save_pretrained(folder / "speech")
    write_json(folder / "speech" / "preprocessor_config.json", family.feature_config)
    source = resolve(text.source)
    names = [path.relative_to(source) for path in text_files(source)]
    if any(name.suffix == ".bin" for name in names):
        raise UserError(
            f"text encoder {text.source!r}: its weights are pickled (.bin), which a saved aligner "
            "may not hold; save it as safetensors first, or leave the towers out"
        )
    kept = ["modules.json", "sentence_bert_config.json", "1_Pooling/config.json"]
    names += [Path(name) for name in kept if (source / name).is_file()]
    for name in names:
        (folder / "text" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / "text" / name)


def speech_side(folder: Path, config: dict[str, Any]) -> SpeechEncoder:
    """The speech encoder of a saved aligner: out of the folder, or where config.json says.

    Raises:
        UserError: it cannot be fetched, or is not the one that the aligner was trained with.
    """
    saved = config["speech"]
    if config["towers"]:
        return _outline(folder / "speech", saved, {})  # its weights come with all the others
    speech = SpeechEncoder.from_pretrained(saved["source"], **saved["options"])
    if speech.hash != saved["hash"]:
        raise UserError(
            f"speech encoder {saved['source']!r}: not the one that {folder} was trained with "
            "(its hash differs)"
        )
    return speech


def speech_outline(
    folder: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> SpeechEncoder:
    """As `speech_side` without weights, to be called under torch's device `meta`."""
    saved = config["speech"]
    if config["towers"]:
        return _outline(folder / "speech", saved, shapes)
    return _outline(resolve(saved["source"]), saved, {})


def _outline(
    folder: Path, saved: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> SpeechEncoder:
    def check(model: torch.nn.Module) -> None:
        named = {f"speech_encoder.model.{name}": t for name, t in model.state_dict().items()}
        known = {name: shapes[name] for name in named.keys() & shapes.keys()}  # LoRA renames some
        check_shapes(folder.parent / WEIGHTS, known, {name: named[name] for name in known})

    family = open_family(folder, str(folder), weights=False, check=check)
    options = {**saved["options"], "source": saved["source"], "source_hash": saved["hash"]}
    return SpeechEncoder(family, **options)
