"""Unpacking tar archives of strangers: plain files and folders, inside the target, nothing else."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from speechcwcl.errors import UserError
from speechcwcl.files import cannot_write

_BLOCK = 1 << 20


def extract(path: str | Path, folder: str | Path) -> int:
    """Unpack a ``.tar.gz``, ``.tgz`` or ``.tar`` file.

    Refused: names that lead out of the folder (``..``, absolute), links of any kind, devices,
    and writing through a link that lies in the folder. Permissions, owners and times of the archive
    are not taken over. The gzip check sum at the very end is read, so that a cut-off or damaged
    archive is noticed.

    Args:
        path: the archive.
        folder: made when missing; files that are there are replaced.

    Returns:
        How many files it held.

    Raises:
        UserError: not an archive, cut off, damaged, unsafe, or no room on the disk.
    """
    path, folder = Path(path), Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            path.open("rb") as raw,
            tqdm(
                total=path.stat().st_size, unit="B", unit_scale=True, desc=f"extract {path.name}"
            ) as bar,
        ):
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore
            return _members(path, stream, raw, folder, bar)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}: damaged or cut off ({str(error) or type(error).__name__}); delete it and run "
            "the same command again"
        ) from error
    except OSError as error:
        raise UserError(cannot_write(folder, error)) from error


def _members(path: Path, stream: IO[bytes], raw: IO[bytes], folder: Path, bar: tqdm) -> int:
    root = folder.resolve()
    count = 0
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            target = _safe(path, member, root)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                _write(archive, member, target)
                count += 1
            bar.update(raw.tell() - bar.n)
    while stream.read(_BLOCK):  # what follows the last member, up to the check sum
        pass
    if not count:
        raise UserError(f"{path}: no file in this archive; fetch it again")
    return count


def _safe(path: Path, member: tarfile.TarInfo, root: Path) -> Path:
    """Where a member goes; a UserError for what may not be unpacked."""
    name = PurePosixPath(member.name)
    kind = ""
    if member.issym() or member.islnk():
        kind = f"is a link to {member.linkname!r}"
    elif not (member.isfile() or member.isdir()):
        kind = "is a device or the like"
    elif name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
        kind = "leads out of the folder"
    target = root.joinpath(*name.parts) if not kind else root
    if not kind and not target.parent.resolve().is_relative_to(root):
        kind = "leads out of the folder through a link that is there"
    if not kind and target.is_symlink():
        kind = "would be written through a link that is there"
    if kind:
        raise UserError(f"{path}: unsafe archive: {member.name!r} {kind}; nothing of it is trusted")
    return target


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None  # regular files always have contents
    with target.open("wb") as stream:
        shutil.copyfileobj(source, stream, _BLOCK)
    written = target.stat().st_size
    if written != member.size:
        raise EOFError(f"{member.name}: {written} of {member.size} bytes")
