"""The folder of a saved Aligner: safetensors and plain JSON, written whole, read with suspicion.

``config.json`` names every other file with its size and sha256. Reading one runs no code, opens no
pickle, and refuses what is not exactly as it was written.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from speechcwcl import __version__
from speechcwcl.errors import UserError, closest
from speechcwcl.files import read_json, sha256_file, write_json
from speechcwcl.models.encoders.families import open_family
from speechcwcl.models.encoders.speech import SpeechEncoder
from speechcwcl.models.text_side import TOKENIZER_FILES, TextInfo, text_files
from speechcwcl.models.weights.sources import resolve

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
MOST_JSON = 1 << 24  # bytes of a config.json
_MOST_NUMBER = 10**7  # in one, and entries of a list; no width, vocabulary or length is larger
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
    """The files of a saved model of that format, for :func:`speechcwcl.files.replace_folder`.

    What config.json lists, and a model card as `speechcwcl pack` left it; none in other folders.
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
    config = {**config, "model_type": MODEL_TYPE}
    if card is not None:
        digest = hashlib.sha256(card.encode("utf-8")).hexdigest()
        config["info"] = {**config["info"], "card": digest}
    write_config(folder, config, FORMAT, VERSION)
    if card is not None:
        (folder / CARD).write_text(card, encoding="utf-8", newline="\n")


def write_config(folder: Path, config: dict[str, Any], form: str, version: int) -> None:
    """Write config.json with the size and hash of every file that is in the folder.

    Args:
        folder: holds them already.
        config: every key of the format but ``format, version, speechcwcl, files``.
        form: name of the format.
        version: of the format.
    """
    listed = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    head = {"format": form, "version": version, "speechcwcl": __version__, "files": listed}
    write_json(folder / "config.json", {**config, **head})


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
    config = read_json(path, limit=MOST_JSON)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{path}: not a saved aligner (format {FORMAT})")
    check_keys(path, config, VERSION, _KEYS, WEIGHTS)
    return config


def check_keys(
    path: Path, config: dict[str, Any], latest: int, keys: dict[str, Any], needed: str
) -> None:
    """Check version, keys and their types, and that ``needed`` is among the files.

    ``model_type`` may be there too (older folders have none).
    """
    version = config.get("version")
    if not isinstance(version, int) or version > latest:
        raise UserError(
            f"{path}: format version {version}, this speechcwcl ({__version__}) reads up to "
            f"{latest}; upgrade: pip install -U speechcwcl"
        )
    for key in config.keys() - keys.keys() - {"model_type", "windows"}:
        raise UserError(f"{path}: unknown key {key!r}{closest(key, keys)}")
    for key, kind in keys.items():
        if not isinstance(config.get(key), kind) or isinstance(config[key], bool) != (kind is bool):
            raise UserError(f"{path}: key {key!r} is missing or of the wrong type")
    if needed not in config["files"]:
        raise UserError(f"{path}: 'files' does not list {needed}")


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


def refuse_links(folder: Path) -> None:
    """Raise for a link in a model folder, but for those of the hub's cache to its blobs."""
    place = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if not path.is_symlink():
            continue
        blobs = place.parents[1] / "blobs"
        if place.parent.name != "snapshots" or path.resolve().parent != blobs:
            raise UserError(f"{path}: a link, and a model needs none; copy the folder: cp -rL")


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


def check_shapes(path: Path, found: dict[str, tuple[int, ...]], expected: dict[str, Any]) -> None:
    """Raise unless the tensors of a file have exactly the names and shapes of a model's."""
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            raise UserError(f"{path}: tensor {name!r} is missing")
        if name not in expected:
            raise UserError(f"{path}: unexpected tensor {name!r}{closest(name, expected)}")
        shape = tuple(expected[name].shape)
        if found[name] != shape:
            raise UserError(f"{path}: tensor {name!r} is {found[name]}, expected {shape}")


def check_files(folder: Path, listed: dict[str, Any]) -> None:
    """Raise unless every listed file is there with its size and its sha256."""
    for name, entry in listed.items():
        _check_file(folder, name, entry)


# -- the frozen encoders in it ----------------------------------------------------------------


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


def speech_side(folder: Path, config: dict[str, Any]) -> SpeechEncoder:
    """The speech encoder of a saved aligner: out of the folder, or where config.json says.

    Raises:
        UserError: it cannot be had, or is not the one that the aligner was trained with.
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
    """As :func:`speech_side` without weights, to be called under torch's device ``meta``."""
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
