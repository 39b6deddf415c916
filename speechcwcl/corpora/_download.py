"""Fetching published archives: resumed, checked, safely extracted, marked when it is all there.

State on the disk, in the target folder: `NAME.part` (what has come so far), `NAME.part.json`
(of which version of the server's file), `.extracting-NAME` while an archive is being unpacked,
and `.completed`, a JSON object with one entry for every archive that is wholly there.
"""

from __future__ import annotations

import errno
import gzip
import http.client
import os
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm import tqdm

from speechcwcl.errors import UserError, require
from speechcwcl.files import cannot_write, lock, read_json, sha256_file, write_json, writing

COMPLETED = ".completed"
EXTRACTING = ".extracting-"
PAUSE = 1.0
"""Seconds before the second attempt; twice as long before each further one, at most 60."""
_BLOCK = 1 << 18
_TIMEOUT = 60.0
_FINAL = (400, 401, 403, 404, 405, 410, 451)
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
# A gzip-encoded answer would make lengths and ranges mean something else.
_HEADERS = {"User-Agent": "speechcwcl (corpus download)", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Archive:
    """One published file."""

    url: str  # http or https
    size: int | None = None  # published size in bytes; None where none is published
    # `"sha256:HEX"` or `"md5:HEX"`; HEX may be the first digits only, where no more is known; `""`
    # where nothing is published (then the archive's own check sums count)
    checksum: str = ""
    into: str = "."  # folder, below the target, that takes the contents
    unpack: bool = True  # whether it is an archive (else it is moved to `into` as it is)

    @property
    def name(self) -> str:
        """The file's name: the last part of the address."""
        return PurePosixPath(self.url.split("?")[0]).name


def download_all(archives: Iterable[Archive], target: str | Path, *, tries: int = 6) -> Path:
    """Fetch and unpack archives; those that `.completed` names are not fetched again.

    Args:
        archives: what to fetch; one that was put into `target` by hand is checked, used and kept.
        tries: attempts in a row without a single new byte before giving up.

    Raises:
        UserError: not found, not the published size or checksum, damaged, no room, no network.
    """
    target = Path(target)
    with lock(target / ".download.lock"), writing(target):
        for archive in archives:
            if archive.name not in completed(target):
                _one(archive, target, tries)
    return target


def _one(archive: Archive, target: Path, tries: int) -> None:
    by_hand = (target / archive.name).exists()  # then it is not ours to delete
    path = fetch(archive, target, tries=tries)
    folder = target / archive.into
    entry = {"url": archive.url, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
    entry["files"] = 1
    if archive.unpack:
        marker = target / f"{EXTRACTING}{archive.name}"
        marker.touch()
        entry["files"] = extract(path, folder)
        marker.unlink()
        if not by_hand:
            path.unlink()
    elif folder != target:
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(path, folder / archive.name)
    write_json(target / COMPLETED, {**completed(target), archive.name: entry})


def completed(target: str | Path) -> dict[str, Any]:
    """What `.completed` in a folder names; empty when it is not there."""
    path = Path(target) / COMPLETED
    found = read_json(path) if path.exists() else {}
    require(
        isinstance(found, dict),
        f"{path}:1: must be a JSON object; delete it to fetch everything again",
    )
    return found


def refuse_half_extracted(source: str | Path) -> None:
    """Raise a `UserError` when unpacking of an archive was cut off in this folder."""
    for folder in (Path(source), Path(source).parent):
        left = sorted(folder.glob(f"{EXTRACTING}*"))
        if left:
            name = left[0].name.removeprefix(EXTRACTING)
            raise UserError(
                f"{folder}: {name} is only half extracted; run the same download again, which "
                f"extracts it anew (or delete {left[0].name} if you completed it by hand)"
            )


def fetch(archive: Archive, folder: str | Path, *, tries: int = 6) -> Path:
    """Fetch one file into a folder, going on from what is there.

    A file of that name that is there already (fetched by hand, say) is checked, not fetched.
    """
    path = Path(folder) / archive.name
    if path.exists():
        _verify(archive, path, f"delete {path} and run this again, which fetches it anew")
        return path
    part = path.with_name(path.name + ".part")
    note = path.with_name(path.name + ".part.json")
    # A beginning may be of an older or a damaged attempt: then once more, from nothing.
    for last in (False, True) if part.exists() else (True,):
        _transfer(archive, part, note, tries)
        try:
            _verify(archive, part, "it was deleted: the file there is not the published one")
            break
        except UserError:
            part.unlink()
            note.unlink(missing_ok=True)
            if last:
                raise
    os.replace(part, path)
    note.unlink(missing_ok=True)
    return path


def _verify(archive: Archive, path: Path, advice: str) -> None:
    """Compare size and checksum with what is published."""
    size = path.stat().st_size
    if archive.size not in (None, size):
        raise UserError(
            f"{archive.url}: {size} bytes instead of the published {archive.size}; {advice}"
        )
    kind, _, wanted = archive.checksum.partition(":")
    if wanted and not (found := sha256_file(path, kind)).startswith(wanted.lower()):
        raise UserError(
            f"{archive.url}: {kind} {found} instead of the published {wanted}; {advice}"
        )


class _Broken(Exception):
    """The attempt failed, another may succeed."""


def _transfer(archive: Archive, part: Path, note: Path, tries: int) -> None:
    """Fetch until all is in `part`, or until nothing new comes any more."""
    require(
        archive.url.startswith(("http://", "https://")),
        f"{archive.url}: only http and https addresses are fetched",
    )
    failures, most = 0, _size(part)
    while True:
        try:
            return _attempt(archive, part, note)
        except (_Broken, OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in _LOCAL:
                raise UserError(cannot_write(part, error)) from error
            problem = str(getattr(error, "reason", "") or error) or type(error).__name__
        # Only more than ever before counts as progress: a server may make us begin again.
        failures = 1 if _size(part) > most else failures + 1
        most = max(most, _size(part))
        if failures >= tries:
            raise UserError(
                f"{archive.url}: {problem} ({failures} attempts in a row brought nothing new, "
                f"{_size(part)} bytes are kept); run the same command again to go on"
            )
        time.sleep(min(60.0, PAUSE * 2 ** (failures - 1)))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _attempt(archive: Archive, part: Path, note: Path) -> None:
    """Ask for what is missing, and write what comes."""
    have, tag = _size(part), _tag(archive, note)
    if not (tag or archive.size):
        have = 0  # nothing says that the beginning belongs to the file of today
    if have and have == archive.size:
        return
    headers = dict(_HEADERS)
    if have:
        headers |= {"Range": f"bytes={have}-", **({"If-Range": tag} if tag else {})}
    request = urllib.request.Request(archive.url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        with error:
            _refused(archive, part, have, error)
        return
    with answer:
        start, total = _plan(archive, answer, part, have)
        free = shutil.disk_usage(part.parent).free
        require(
            (total or 0) - start <= free,
            f"{part.parent}: {((total or 0) - start) / 1e9:.1f} GB are needed and "
            f"{free / 1e9:.1f} GB are free; make room or choose another folder",
        )
        # Only with a strong tag of this version may a range be asked for later.
        tag = answer.headers.get("ETag", "")
        tag = answer.headers.get("Last-Modified", "") if tag[:2] in ("", "W/") else tag
        write_json(note, {"url": archive.url, "tag": tag})
        _copy(answer, part, start, total)


def _tag(archive: Archive, note: Path) -> str:
    """The version of the server's file that the part belongs to, if that is known."""
    try:
        known = read_json(note)
        return str(known["tag"]) if known["url"] == archive.url else ""
    except (UserError, KeyError, TypeError):
        return ""


def _refused(archive: Archive, part: Path, have: int, error: urllib.error.HTTPError) -> None:
    """An answer of 400 or above: return if all is there, else raise."""
    if error.code == 416 and have:
        if error.headers.get("Content-Range", "").strip() == f"bytes */{have}" and (
            archive.size in (None, have)
        ):
            return
        part.unlink(missing_ok=True)
        raise _Broken(f"the server has not the {have} bytes that were here; starting again")
    words = f"the server answers {error.code} {error.reason}"
    if error.code in _FINAL:
        raise UserError(
            f"{archive.url}: {words}; has the corpus moved? fetch it by hand and give the folder "
            "with --data"
        )
    raise _Broken(words)


def _plan(archive: Archive, answer: Any, part: Path, have: int) -> tuple[int, int | None]:
    """Where this answer's bytes belong, and how long the whole file is."""
    if answer.headers.get_content_type() == "text/html":
        raise UserError(
            f"{archive.url}: a web page came instead of the file (moved, or behind a sign-in?); "
            "fetch it by hand and give the folder with --data"
        )
    if answer.status == 206:
        said = answer.headers.get("Content-Range", "").strip()
        match = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)", said)
        if not match or int(match[1]) != have:
            part.unlink(missing_ok=True)
            raise _Broken(f"asked for bytes from {have}, got {said or 'others'}")
        start, length = have, match[2]
    elif answer.status == 200:
        start, length = 0, answer.headers.get("Content-Length") or ""
    else:
        raise _Broken(f"the server answers {answer.status}")
    total = int(length) if re.fullmatch(r"\d{1,18}", length) else archive.size
    if archive.size not in (None, total):
        raise UserError(
            f"{archive.url}: the server has {total} bytes instead of the published "
            f"{archive.size}; that is another file (a newer release, or a sign-in page?)"
        )
    return start, total


def _copy(answer: Any, part: Path, start: int, total: int | None) -> None:
    name = part.name.removesuffix(".part")
    with (
        part.open("r+b" if start else "wb") as stream,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name) as bar,
    ):
        stream.seek(start)
        stream.truncate()
        while block := answer.read(_BLOCK):
            stream.write(block)
            bar.update(len(block))
            if total is not None and stream.tell() > total:
                stream.truncate(0)
                raise _Broken(f"more bytes came than the {total} that were announced")
        have = stream.tell()
    if total is not None and have < total:
        raise _Broken(f"the connection ended after {have} of {total} bytes")


# -- unpacking: plain files and folders, inside the target, nothing else -------------------------

MOST = 200
"""Bytes that a byte of an archive may become: no corpus packs as well as that, bombs do."""
_ROOM = 1 << 26  # and this on top
_HEADER = 1 << 20  # the longest name or header of a member
_LONG = (*tarfile.GNU_TYPES, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


class _Member(tarfile.TarInfo):  # names and headers are read into memory: how large are they?
    def _proc_member(self, archive: Any) -> Any:
        if self.type in _LONG and self.type != tarfile.GNUTYPE_SPARSE and self.size > _HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def extract(path: str | Path, folder: str | Path) -> int:
    """Unpack a `.tar.gz`, `.tgz` or `.tar` file; how many files it held.

    Refused: names that lead out of the folder (`..`, absolute), links of any kind, devices, files
    with holes, writing through a link that lies in the folder, and contents that are `MOST`
    times the archive or more than the disk has room for. Permissions, owners and times are not
    taken over; files that are there are replaced. The gzip check sum at the very end is read, so
    that a cut-off or damaged archive is noticed.

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
    require(count > 0, f"{path}: no file in this archive; fetch it again")
    return count


def _unpack(
    path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, left: int
) -> int:
    """Write one member, if it is a file; how many files that makes."""
    name = PurePosixPath(member.name)
    target, kind = root.joinpath(*name.parts), ""
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
    elif not target.parent.resolve().is_relative_to(root):
        kind = "leads out of the folder through a link that is there"
    elif target.is_symlink():
        kind = "would be written through a link that is there"
    _refuse(path, member.name, kind)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return 0
    free = shutil.disk_usage(root).free
    require(member.size <= free, f"{root}: {member.name} has {member.size} bytes, {free} are free")
    target.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None  # regular files always have contents
    with target.open("wb") as stream:
        shutil.copyfileobj(source, stream)
    if target.stat().st_size != member.size:
        raise EOFError(f"{member.name}: {target.stat().st_size} of {member.size} bytes")
    return 1


def _refuse(path: Path, name: str, kind: str) -> None:
    if kind:
        raise UserError(f"{path}: unsafe archive: {name!r} {kind}; nothing was unpacked from it")
