"""The folder of an exported model: ``model.onnx`` and plain JSON, read with suspicion.

``config.json`` names every other file with its size and sha256. An ONNX file is a graph of known
operators and runs no code of its own; onnxruntime opens no file outside the folder for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speechcwcl import __version__
from speechcwcl.errors import UserError
from speechcwcl.files import read_json, sha256_file, write_json
from speechcwcl.models import checkpoint
from speechcwcl.models.checkpoint import check_files, check_keys

FORMAT = "speechcwcl-onnx"
VERSION = 1
MODEL = "model.onnx"
_KEYS = {
    "format": str,
    "version": int,
    "speechcwcl": str,
    "dim": int,
    "sample_rate": int,
    "logit_scale": float,
    "precision": str,
    "speech": dict,
    "text": dict,
    "text_mean": list,
    "files": dict,
    "info": dict,
}


def ours(folder: Path) -> set[str]:
    """The files of an exported model, for :func:`speechcwcl.files.replace_folder`."""
    return checkpoint.ours(folder, FORMAT)


def write(folder: Path, config: dict[str, Any]) -> None:
    """Write config.json with the size and hash of every file that is in the folder.

    Args:
        folder: holds the graph already.
        config: every key of the format but ``format, version, speechcwcl, files``.
    """
    listed = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.iterdir())
    }
    head = {"format": FORMAT, "version": VERSION, "speechcwcl": __version__, "files": listed}
    write_json(folder / "config.json", {**config, **head})


def read(folder: Path) -> dict[str, Any]:
    """Check a folder and read its config.json.

    Raises:
        UserError: no exported model there, a newer version, an unknown key, a file that is
            missing, truncated or changed.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: not an exported model: it has no config.json")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        saved = isinstance(config, dict) and config.get("format") == "speechcwcl-aligner"
        hint = "; export it first: speechcwcl export" if saved else ""
        raise UserError(f"{path}: not an exported model (format {FORMAT}){hint}")
    check_keys(path, config, VERSION, _KEYS, MODEL)
    numbers = [x for x in config["text_mean"] if isinstance(x, float)]
    if len(numbers) != config["dim"] or len(config["text_mean"]) != config["dim"]:
        raise UserError(f"{path}: key 'text_mean' is not {config['dim']} numbers")
    check_files(folder, config["files"])
    return config
