"""Writing so that nobody ever sees half of it, or loses what is not ours: the one store.

Whatever is written appears whole or not at all, with the umask's mode. While something is being
made it has a temporary neighbour that its writer holds a lock on, so that the next run can tell
what a killed one left behind and sweep it. A folder is replaced only when all in it is ours.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

from speechcwcl.errors import UserError
from speechcwcl.jsons import of_kind, parse_json

_BLOCK = 1 << 20
_SUFFIX = ".cwcl-tmp"  # of everything unfinished: .NAME.XXXXXXXX.cwcl-tmp
_swept: set[Path] = set()

Ours = Callable[[Path], Collection[str]]
"""Names the files below a folder (relative, with `/`) that are ours and may be replaced."""


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder and the like into one line about `path`.

    Libraries say it in their own ways: torch and safetensors raise no `OSError`.
    """
    try:
        yield
    except OSError as error:
        if not _is_at(error, Path(path)):
            raise  # of what is read meanwhile
        raise UserError(cannot_write(path, error)) from error
    except UnicodeEncodeError as error:  # Python's half characters, from names that are not UTF-8
        around = ascii(error.object[max(0, error.start - 30) : error.end + 10])
        raise UserError(
            f"{path}: cannot write {around}, which is not UTF-8; rename that file or folder"
        ) from error
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        if isinstance(error, UserError) or not _is_about_writing(error, text):
            raise
        raise UserError(cannot_write(path, OSError(text))) from error


def _is_at(error: OSError, path: Path) -> bool:
    if error.filename is None or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return error.errno is not None
    place = Path(os.path.abspath(path))
    about = Path(os.path.abspath(os.fsdecode(error.filename)))
    return about in place.parents or about.is_relative_to(place.parent)


def _is_about_writing(error: Exception, text: str) -> bool:
    if isinstance(error, ValueError):  # a NUL in the path
        return "null byte" in text
    words = ("writ", "iostream", "unexpected pos", "os error", "no space left")
    known = isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError"
    return known and any(word in text.lower() for word in words)


def cannot_write(path: str | Path, error: OSError) -> str:
    """One line that says why `path` could not be written and what to do."""
    reason = error.strerror or str(error)
    return f"{path}: cannot write: {reason}; free some space or choose a folder you may write to"


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path` and rename it over `path` when all went well.

    Args:
        path: the file to (re)place; missing parent folders are made.
        mode: `"w"` (UTF-8 text, newline `\\n`) or `"wb"`.

    Raises:
        UserError: the folder is read-only, the disk is full, or the like.
    """
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with atomic_path(path) as temporary, temporary.open(mode, **text) as stream:
        yield stream


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """As `atomic_write`, for writers that want a name: gives an empty file to write into."""
    path = Path(path)
    with writing(path):
        temporary, held = _temporary(path, folder=False)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(held)


@contextlib.contextmanager
def replace_folder(folder: str | Path, ours: Ours) -> Iterator[Path]:
    """Give a scratch folder that takes the place of `folder` when all went well.

    Args:
        folder: made, or replaced as a whole when every file in it is ours; a link is followed.
        ours: see `Ours`.

    Raises:
        UserError: the folder holds anything that is not ours (nothing in it is touched then), the
            disk is full, or the like.
    """
    refuse_foreign(folder, ours)
    with writing(folder):
        place = Path(os.path.realpath(folder))
        scratch, held = _temporary(place, folder=True)
        try:
            made = scratch / "new"
            made.mkdir()
            yield made
            _settle(made, os.fstat(held).st_mode & 0o777)
            refuse_foreign(folder, ours)  # making it may have taken an hour
            _take_place(made, place, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            os.close(held)


def refuse_foreign(folder: str | Path, ours: Ours) -> None:
    """Raise unless `folder` is absent, empty, or holds nothing but our files."""
    place = Path(folder)
    if not place.exists() and not place.is_symlink():
        return
    if not place.is_dir():
        raise UserError(f"{folder}: a file is in the way; choose another folder")
    with writing(folder):
        found = sorted(_entries(place))
        known = set(ours(place)) if found else set()
        known |= {str(parent) for name in known for parent in Path(name).parents}
        foreign = [name for name in found if name not in known or (place / name).is_symlink()]
    if foreign:
        raise UserError(
            f"{folder}: is in the way (it holds {foreign[0]!r}, which was not written by this "
            "command); nothing was changed: move it or choose another folder"
        )


def _entries(folder: Path) -> Iterator[str]:
    """Everything below a folder, links not followed, but what a killed writer left."""
    for top, folders, names in os.walk(folder, onerror=_refuse_unreadable):
        folders[:] = [name for name in folders if not name.endswith(_SUFFIX)]
        for name in (*folders, *names):
            if not name.endswith(_SUFFIX):
                yield os.path.relpath(os.path.join(top, name), folder)


def _refuse_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # another process replaced it in this moment
        raise error


def _take_place(made: Path, place: Path, scratch: Path) -> None:
    """Rename a finished folder into its place; what was there goes into `scratch`."""
    number = 0
    while made.exists():  # other processes may do the same just now
        with contextlib.suppress(FileNotFoundError):
            os.rename(place, scratch / f"old{number or ''}")
        number += 1
        try:
            os.rename(made, place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _settle(folder: Path, mode: int) -> None:
    """Give what libraries wrote the umask's mode, and bring it to the disk.

    Some (safetensors, tempfile) write for the owner alone whatever the umask is.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def _temporary(place: Path, *, folder: bool) -> tuple[Path, int]:
    """A new empty neighbour of `place`, and the open handle that holds its lock."""
    place.parent.mkdir(parents=True, exist_ok=True)
    sweep(place.parent)
    while True:
        scratch = place.parent / _temporary_name(place.name)
        if folder:
            scratch.mkdir()
        handle = _hold(scratch / "lock" if folder else scratch)
        if os.fstat(handle).st_nlink:
            return scratch, handle
        os.close(handle)  # swept by another process before the lock was ours


def _temporary_name(name: str) -> str:
    # Names end at 255 bytes; the whole name is in it, so that a folder finds its place again.
    short = name if len(os.fsencode(name)) < 230 else name[:50]
    return f".{short}.{secrets.token_hex(4)}{_SUFFIX}"


def _hold(path: Path) -> int:
    """Make a file with the umask's mode and lock it until the handle is closed."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    with contextlib.suppress(OSError):  # a file system without locks: nothing is swept there
        fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def sweep(folder: str | Path) -> None:
    """Remove what killed writers left in a folder; looks once a process.

    A folder that was moved aside by a writer killed before the new one took its place is put back.
    """
    folder = Path(folder)
    if folder in _swept:
        return
    _swept.add(folder)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if entry.name.endswith(_SUFFIX)]:
            with contextlib.suppress(OSError):
                _sweep_one(Path(entry.path), entry.is_dir(follow_symlinks=False))


def _sweep_one(path: Path, is_folder: bool) -> None:
    if is_folder and not (path / "lock").exists():
        if time.time() - path.stat().st_mtime > 60:  # killed before the lock, not just about it
            path.rmdir()
        return
    handle = os.open(path / "lock" if is_folder else path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
        if not is_folder:
            path.unlink()
            return
        place = path.with_name(path.name[1:].removesuffix(_SUFFIX).rpartition(".")[0])
        if (path / "old").exists() and not place.exists():
            os.rename(path / "old", place)
        shutil.rmtree(path)
    finally:
        os.close(handle)


@contextlib.contextmanager
def lock(path: str | Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock file: one process at a time, given up with the process however that ends.

    Args:
        path: the lock file, such as `folder / ".lock"`; missing parent folders are made.
        waiting: called once when another process has it; it may raise to give up.
    """
    from filelock import FileLock, Timeout

    held = FileLock(path)
    with writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=0)
        except Timeout:
            if waiting:
                waiting()
            held.acquire()
    try:
        yield
    finally:
        held.release()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as stream:
        stream.write(text + "\n")


def copy_json(source: str | Path, target: str | Path) -> None:
    """Copy a JSON file, if it is there."""
    if Path(source).exists():
        write_json(target, read_json(source))


def read_json(path: str | Path, kind: Any = None, *, limit: int = 1 << 28) -> Any:
    """Read a JSON file that anybody may have written.

    Args:
        kind: what it must hold, any type that pydantic can check; `None` takes anything.
        limit: most bytes that are read.

    Raises:
        UserError: it is absent, unreadable, not JSON (the message names the line), nested too
            deeply, of another kind, or holds NaN, infinity, an integer of more than 64 bits or
            half a character.
    """
    text = read_text(path, limit=limit)
    value = parse_json(text, str(path))
    return value if kind is None else of_kind(path, value, text, kind)


def read_text(path: str | Path, *, limit: int = 1 << 28) -> str:
    """Read a UTF-8 text file (a byte order mark is dropped) of at most `limit` bytes.

    Raises:
        UserError: it is absent, unreadable or too large, or not UTF-8 (the message names the line).
    """
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"{path}: cannot read: {getattr(error, 'strerror', error)}") from error
    if len(raw) > limit:
        raise UserError(f"{path}: larger than {limit / 1e6:.0f} MB; files of this kind are smaller")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from error


def sha256_file(path: str | Path, kind: str = "sha256") -> str:
    """Hex sha256 (or another digest of hashlib) of a file's bytes."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with Path(path).open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON-able value, the same for equal values whatever the key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def cache_folder() -> Path:
    """Where fetched weights live: `$SPEECHCWCL_CACHE`, else `~/.cache/speechcwcl`."""
    given = os.environ.get("SPEECHCWCL_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "speechcwcl"
