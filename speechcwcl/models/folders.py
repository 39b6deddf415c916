"""What a saved model's folder says, checked file by file; no torch is needed for that.

`config.json` names every other file with its size and sha256. Reading one runs no code, opens no
pickle, and refuses what is not exactly as it was written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from speechcwcl import __version__
from speechcwcl.errors import UserError, closest
from speechcwcl.files import read_json, sha256_file, write_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
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


@dataclass(frozen=True)
class TextInfo:
    """What is known of a text encoder without loading it."""

    source: str  # folder, our name or hub id
    hash: str  # sha256 over weights, tokenizer, pooling and length limit
    dim: int  # width of an embedding
    pooling: str  # `mean`, `cls`, `max` or `last`
    max_tokens: int  # longer texts are cut
    lower: bool  # whether texts are lower-cased first


def ours(folder: Path, form: str = FORMAT) -> set[str]:
    """The files of a saved model of that format, for `speechcwcl.files.replace_folder`.

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


def hashed_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file below a folder by its path in it, with its size and sha256."""
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_config(folder: Path, config: dict[str, Any], form: str, version: int) -> None:
    """Write config.json with the size and hash of every file that is in the folder."""
    head = {"format": form, "version": version, "speechcwcl": __version__}
    write_json(folder / "config.json", {**config, **head, "files": hashed_files(folder)})


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


def read_config(
    folder: Path,
    what: str = "a saved aligner",
    form: str = FORMAT,
    latest: int = VERSION,
    keys: dict[str, Any] = _KEYS,
    needed: str = WEIGHTS,
) -> dict[str, Any]:
    """Read and check config.json alone: version, keys and their types, `needed` among the files.

    `model_type` may be there too (older folders have none).
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: not {what}: it has no config.json")
    config = read_json(path, limit=MOST_JSON)
    found = config.get("format") if isinstance(config, dict) else None
    if found != form:
        hint = "; export it first: speechcwcl export" if found == FORMAT else ""
        raise UserError(f"{path}: not {what} (format {form}){hint}")
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
    return config


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


def check_files(folder: Path, listed: dict[str, Any]) -> None:
    """Raise unless every listed file is there with its size and its sha256."""
    for name, entry in listed.items():
        _check_file(folder, name, entry)


def check_shapes(
    path: str | Path, found: dict[str, tuple[int, ...]], expected: dict[str, Any]
) -> None:
    """Raise unless the tensors of a file have exactly the names and shapes of a model's."""
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            raise UserError(f"{path}: tensor {name!r} is missing")
        if name not in expected:
            raise UserError(f"{path}: unexpected tensor {name!r}{closest(name, expected)}")
        shape = tuple(expected[name].shape)
        if found[name] != shape:
            raise UserError(f"{path}: tensor {name!r} is {found[name]}, expected {shape}")
