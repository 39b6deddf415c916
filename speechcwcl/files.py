"""Writing files so that nobody ever sees half of one: atomic writes, hashes, JSON."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from speechcwcl.errors import UserError

_BLOCK = 1 << 20


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of ``path`` and rename it over ``path`` when all went well.

    Args:
        path: the file to (re)place; missing parent folders are made.
        mode: ``"w"`` (UTF-8 text, newline ``\\n``) or ``"wb"``.

    Raises:
        UserError: the folder is read-only, the disk is full, or the like.
    """
    path = Path(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, mode, **text) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise UserError(cannot_write(path, error)) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def cannot_write(path: str | Path, error: OSError) -> str:
    """One line that says why ``path`` could not be written and what to do."""
    reason = error.strerror or str(error)
    return f"{path}: cannot write: {reason}; free some space or choose a folder you may write to"


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as stream:
        stream.write(text + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: it is absent, unreadable or not JSON; the message names the line.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file.

    Raises:
        UserError: it is absent or unreadable, or not UTF-8 (the message names the line).
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from error


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON-able value, the same for equal values whatever the key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_folder(path: str | Path, pattern: str = "**/*") -> str:
    """Hex sha256 over the names and bytes of a folder's files, in name order."""
    root = Path(path)
    names = sorted(p.relative_to(root).as_posix() for p in root.glob(pattern) if p.is_file())
    return sha256_json([[name, sha256_file(root / name)] for name in names])


def cache_folder() -> Path:
    """Where fetched weights live: ``$SPEECHCWCL_CACHE``, else ``~/.cache/speechcwcl``."""
    given = os.environ.get("SPEECHCWCL_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "speechcwcl"
