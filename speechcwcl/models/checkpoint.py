"""The folder of a saved Aligner: safetensors and plain JSON, written whole, read with suspicion.

``config.json`` names every other file with its size and sha256. Reading one runs no code, opens no
pickle, and refuses what is not exactly as it was written.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from speechcwcl import __version__
from speechcwcl.errors import UserError, closest
from speechcwcl.files import read_json, sha256_file, write_json
from speechcwcl.models.text_side import TOKENIZER_FILES

FORMAT = "speechcwcl-aligner"
VERSION = 1
MODEL_TYPE = "speechcwcl"  # what transformers finds our classes by (see export/pipeline.py)
WEIGHTS = "model.safetensors"
CARD = "README.md"  # anybody may edit it, so config.json does not list it; info has its hash
PROTOCOLS = "labels.json"
FEATURES = "preprocessor_config.json"
_KEYS = {
    "format": str,
    "version": int,
    "speechcwcl": str,
    "dim": int,
    "speech": dict,
    "text": dict,
    "pooling": str,
    "pooling_options": dict,
    "projection": (str, dict),
    "towers": bool,
    "files": dict,
    "info": dict,
}
# What folders of earlier days do not have; transformers finds its class by it.
_OPTIONAL = {"model_type": str}
# Formats that can carry code, whatever the folder's config.json says about them.
_UNSAFE = (
    ".bin", ".pt", ".pth", ".pt2", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npz", ".npy",
    ".py", ".pyc", ".so", ".dll", ".h5", ".keras",
)  # fmt: skip
# All that an encoder inside the folder consists of. transformers would heed more, an adapter for
# instance, which names another model to fetch.
_TOWER_FILES = {
    "speech": {"config.json", "preprocessor_config.json"},
    "text": {
        *TOKENIZER_FILES,
        "config.json",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    },
}


def ours(folder: Path, form: str = FORMAT) -> set[str]:
    """The files of a saved model, for :func:`speechcwcl.files.replace_folder`.

    Args:
        folder: any folder.
        form: ``format`` of the config.json that is ours.

    Returns:
        What config.json lists, and a model card as `speechcwcl pack` left it; empty where the
        folder is no such model.
    """
    try:
        config = read_json(folder / "config.json", dict)
    except UserError:
        return set()
    listed = config.get("files")
    if config.get("format") != form or not isinstance(listed, dict):
        return set()
    info = config.get("info")
    card = info.get("card") if isinstance(info, dict) else None
    own = (folder / CARD).is_file() and sha256_file(folder / CARD) == card
    return {"config.json", *listed, *([CARD] if own else [])}


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
        config: every key of the format but ``format, version, speechcwcl, files``.
        state: the tensors.
        protocols: label texts to go along; see :func:`packed_protocols`.
        card: the model card.
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
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in paths
    }
    head = {"format": FORMAT, "version": VERSION, "speechcwcl": __version__, "files": listed}
    head["model_type"] = MODEL_TYPE
    if card is not None:
        (folder / CARD).write_text(card, encoding="utf-8", newline="\n")
        config = {**config, "info": {**config["info"], "card": sha256_file(folder / CARD)}}
    write_json(folder / "config.json", {**config, **head})


def read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Check a folder and read it.

    Returns:
        The configuration and the tensors.

    Raises:
        UserError: no aligner there, a newer version, an unknown key, a file that is missing,
            truncated, changed or able to carry code.
    """
    config = read_config(folder)
    _refuse_unsafe(folder, config["files"])
    for name, entry in config["files"].items():
        _check_file(folder, name, entry)
    try:
        return config, load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{folder / WEIGHTS}: broken: {error}") from error


def packed_protocols(
    folder: str | Path,
) -> dict[str, tuple[dict[str, tuple[str, ...]], tuple[str, ...]]]:
    """The label texts that a saved aligner brings along.

    Returns:
        Name of the protocol -> (label -> its texts, templates); empty where there are none.
    """
    path = Path(folder) / PROTOCOLS
    if not path.is_file() or PROTOCOLS not in read_config(Path(folder))["files"]:
        return {}
    try:
        return {
            name: (
                {str(label): tuple(map(str, texts)) for label, texts in entry["labels"]},
                tuple(map(str, entry["templates"])),
            )
            for name, entry in read_json(path).items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not as expected: {error!r}; copy the folder again") from error


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check config.json alone."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: not a saved aligner: it has no config.json")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{path}: not a saved aligner (format {FORMAT})")
    refuse_newer(path, config, VERSION)
    for key in config:
        if key not in _KEYS and key not in _OPTIONAL:
            raise UserError(f"{path}: unknown key {key!r}{closest(key, _KEYS)}")
    for key, kind in _KEYS.items():
        if not isinstance(config.get(key), kind) or isinstance(config[key], bool) != (kind is bool):
            raise UserError(f"{path}: key {key!r} is missing or of the wrong type")
    if WEIGHTS not in config["files"]:
        raise UserError(f"{path}: 'files' does not list {WEIGHTS}")
    return config


def refuse_newer(path: Path, config: dict[str, Any], latest: int) -> None:
    """Refuse a config.json of a format version above ``latest``, or of none."""
    version = config.get("version")
    if not isinstance(version, int) or version > latest:
        raise UserError(
            f"{path}: format version {version}, this speechcwcl ({__version__}) reads up to "
            f"{latest}; upgrade: pip install -U speechcwcl"
        )


def _refuse_unsafe(folder: Path, listed: dict[str, Any]) -> None:
    for path in sorted(folder.rglob("*")):
        name = PurePosixPath(path.relative_to(folder).as_posix())
        if path.suffix.lower() in _UNSAFE:
            raise UserError(
                f"{path}: such a file can run code when opened, and an aligner needs none; refused"
            )
        if path.suffix.lower() == ".safetensors" and path.is_file():
            _refuse_disguise(path)
        tower = _TOWER_FILES.get(name.parts[0])
        if tower is None or not path.is_file():
            continue
        weights = name.match("*.safetensors") or name.match("*.safetensors.index.json")
        inside = "/".join(name.parts[1:])
        if str(name) not in listed or not (inside in tower or weights):
            raise UserError(f"{path}: no file of a saved aligner; refused: remove it")


def _refuse_disguise(path: Path) -> None:
    """A safetensors file begins with the length of its JSON header, then the header."""
    with path.open("rb") as stream:
        head = stream.read(9)
    if head[8:9] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise UserError(
            f"{path}: a pickle or zip under the name of safetensors; such a file can run code "
            "when opened; refused"
        )


def _check_file(folder: Path, name: str, entry: Any) -> None:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise UserError(f"{folder / 'config.json'}: 'files' names {name!r}, outside the folder")
    if not isinstance(entry, dict) or {"bytes", "sha256"} - entry.keys():
        raise UserError(f"{folder / 'config.json'}: 'files' entry {name!r} has no size and hash")
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path}: missing; copy the whole folder again")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise UserError(
            f"{path}: {size} bytes, should be {entry['bytes']}: truncated or changed; copy it again"
        )
    if sha256_file(path) != entry["sha256"]:
        raise UserError(f"{path}: its sha256 is not the one in config.json: changed; copy it again")


def check_state(path: Path, found: dict[str, torch.Tensor], expected: dict[str, Any]) -> None:
    """Raise unless the tensors have exactly the expected names and shapes."""
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            raise UserError(f"{path}: tensor {name!r} is missing")
        if name not in expected:
            near = closest(name, expected)
            raise UserError(f"{path}: unexpected tensor {name!r}{near}")
        if found[name].shape != expected[name].shape:
            raise UserError(
                f"{path}: tensor {name!r} is {tuple(found[name].shape)}, "
                f"expected {tuple(expected[name].shape)}"
            )


def check_files(folder: Path, listed: dict[str, Any]) -> None:
    """Raise unless every listed file is there with its size and its sha256."""
    for name, entry in listed.items():
        _check_file(folder, name, entry)
