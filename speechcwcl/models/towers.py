"""The frozen encoders inside a saved aligner, so that it opens with nothing else at hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from speechcwcl.errors import UserError
from speechcwcl.files import write_json
from speechcwcl.models.encoders.families import open_family
from speechcwcl.models.encoders.speech import SpeechEncoder
from speechcwcl.models.text_side import TextInfo, text_files
from speechcwcl.models.weights.sources import resolve


def write_towers(folder: Path, speech_encoder: SpeechEncoder, text: TextInfo) -> None:
    """Put ``speech/`` (configuration only) and ``text/`` (all files) into a folder.

    The speech encoder's weights are not written here: they go with the learned ones.

    Args:
        folder: an existing folder.
        speech_encoder: the speech encoder.
        text: the text encoder.
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


def speech_from_tower(folder: Path, saved: dict[str, Any]) -> SpeechEncoder:
    """The speech encoder of a folder with towers; its weights come with all the others.

    Args:
        folder: the saved aligner.
        saved: ``speech`` of its config.json.
    """
    family = open_family(folder / "speech", str(folder), weights=False)
    options = {**saved["options"], "source": saved["source"], "source_hash": saved["hash"]}
    return SpeechEncoder(family, **options)
