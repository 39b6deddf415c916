"""Unpacking tar archives of strangers: plain files and folders, inside the target, nothing else."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm import tqdm

from speechcwcl.errors import UserError
from speechcwcl.files import cannot_write

MOST = 200
"""Bytes that a byte of an archive may become: no corpus packs as well as that, bombs do."""
_ROOM = 1 << 26  # and this on top
_HEADER = 1 << 20  # the longest name or header of a member
_BLOCK = 1 << 20
_LONG = (*tarfile.GNU_TYPES, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


class _Member(tarfile.TarInfo):
    """Names and headers are read into memory, so their size is looked at before."""

    def _proc_member(self, archive: Any) -> Any:
        if self.type in _LONG and self.type != tarfile.GNUTYPE_SPARSE and self.size > _HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def extract(path: str | Path, folder: str | Path) -> int:
    """Unpack a `.tar.gz`, `.tgz` or `.tar` file.

    Refused: names that lead out of the folder (`..`, absolute), links of any kind, devices, files
    with holes, writing through a link that lies in the folder, and contents that are `MOST`
    times the archive or more than the disk has room for. Permissions, owners and times of the
    archive are not taken over. The gzip check sum at the very end is read, so that a cut-off or
    damaged archive is noticed.

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
        size = path.stat().st_size
        with (
            path.open("rb") as raw,
            tqdm(total=size, unit="B", unit_scale=True, desc=f"extract {path.name}") as bar,
        ):
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore
            count, left = 0, MOST * size + _ROOM
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:
                for member in archive:
                    left -= member.size
                    count += _unpack(path, archive, member, folder.resolve(), left)
                    bar.update(raw.tell() - bar.n)
            while block := stream.read(_BLOCK):  # what follows, up to the check sum
                left -= len(block)
                _refuse(path, "its end", "" if left >= 0 else f"is over {MOST} times as long")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}: damaged or cut off ({str(error) or type(error).__name__}); delete it and run "
            "the same command again"
        ) from error
    except OSError as error:
        raise UserError(cannot_write(folder, error)) from error
    if not count:
        raise UserError(f"{path}: no file in this archive; fetch it again")
    return count


def _unpack(
    path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, left: int
) -> int:
    """Write one member, if it is a file; how many files that makes."""
    name = PurePosixPath(member.name)
    kind = ""
    if member.issym() or member.islnk():
        kind = f"is a link to {member.linkname!r}"
    elif not (member.isfile() or member.isdir()):
        kind = "is a device or the like"
    elif name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
        kind = "leads out of the folder"
    elif member.issparse():
        kind = "is a file with holes, which may be any size"
    elif left < 0:
        kind = f"makes the contents more than {MOST} times the archive"
    _refuse(path, member.name, kind)
    target = root.joinpath(*name.parts)
    if not target.parent.resolve().is_relative_to(root):
        kind = "leads out of the folder through a link that is there"
    elif target.is_symlink():
        kind = "would be written through a link that is there"
    _refuse(path, member.name, kind)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return 0
    free = shutil.disk_usage(root).free
    if member.size > free:
        raise UserError(f"{root}: {member.name} has {member.size} bytes, {free} are free")
    target.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None  # regular files always have contents
    with target.open("wb") as stream:
        shutil.copyfileobj(source, stream, _BLOCK)
    if target.stat().st_size != member.size:
        raise EOFError(f"{member.name}: {target.stat().st_size} of {member.size} bytes")
    return 1


def _refuse(path: Path, name: str, kind: str) -> None:
    if kind:
        raise UserError(f"{path}: unsafe archive: {name!r} {kind}; nothing was unpacked from it")
