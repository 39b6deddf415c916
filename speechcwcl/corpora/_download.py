"""Fetching published archives: resumed, checked, safely extracted, marked when it is all there.

State on the disk, in the target folder: ``NAME.part`` (what has come so far), ``NAME.part.json``
(of which version of the server's file), ``.extracting-NAME`` while an archive is being unpacked,
and ``.completed``, a JSON object with one entry for every archive that is wholly there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from speechcwcl.corpora._extract import extract
from speechcwcl.corpora._http import Transfer
from speechcwcl.errors import UserError
from speechcwcl.files import cannot_write, read_json, write_json

COMPLETED = ".completed"
EXTRACTING = ".extracting-"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """One published file.

    Attributes:
        url: http or https.
        size: published size in bytes; None where none is published.
        checksum: ``"sha256:HEX"`` or ``"md5:HEX"``; HEX may be the first digits only, where no more
            is known; ``""`` where nothing is published (then the archive's own check sums count).
        into: folder, below the target, that takes the contents.
        unpack: whether it is an archive (else it is moved to ``into`` as it is).
    """

    url: str
    size: int | None = None
    checksum: str = ""
    into: str = "."
    unpack: bool = True

    @property
    def name(self) -> str:
        """The file's name: the last part of the address."""
        return PurePosixPath(self.url.split("?")[0]).name


def download_all(
    archives: Iterable[Archive], target: str | Path, *, keep: bool = False, tries: int = 6
) -> Path:
    """Fetch and unpack archives; those that ``.completed`` names are not fetched again.

    Args:
        archives: what to fetch.
        target: made when missing.
        keep: keep the archives after unpacking (they take as much room again); one that was put
            there by hand is kept anyway.
        tries: attempts in a row without a single new byte before giving up.

    Returns:
        ``target``.

    Raises:
        UserError: not found, not the published size or checksum, damaged, no room, no network.
    """
    target = Path(target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target / ".download.lock"):
            for archive in archives:
                _one(archive, target, keep, tries)
    except OSError as error:
        raise UserError(cannot_write(target, error)) from error
    return target


def _one(archive: Archive, target: Path, keep: bool, tries: int) -> None:
    if archive.name in completed(target):
        return
    by_hand = (target / archive.name).exists()  # then it is not ours to delete
    path = fetch(archive, target, tries=tries)
    folder = target / archive.into
    digest, size = _hash(path, "sha256"), path.stat().st_size
    count = 1
    if archive.unpack:
        marker = target / f"{EXTRACTING}{archive.name}"
        marker.touch()
        count = extract(path, folder)
        marker.unlink()
        if not (keep or by_hand):
            path.unlink()
    elif folder != target:
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(path, folder / archive.name)
    entry = {"url": archive.url, "bytes": size, "sha256": digest, "files": count}
    write_json(target / COMPLETED, {**completed(target), archive.name: entry})


def completed(target: str | Path) -> dict[str, Any]:
    """What ``.completed`` in a folder names; empty when it is not there."""
    path = Path(target) / COMPLETED
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise UserError(f"{path}:1: must be a JSON object; delete it to fetch everything again")
    return found


def refuse_half_extracted(source: str | Path) -> None:
    """Raise a :class:`UserError` when unpacking of an archive was cut off in this folder."""
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

    Returns:
        Where it is.

    Raises:
        UserError: see :func:`download_all`.
    """
    path = Path(folder) / archive.name
    if path.exists():
        _verify(archive, path, f"delete {path} and run this again, which fetches it anew")
        return path
    part, note = _part(path)
    resumed = part.exists()
    Transfer(archive.url, part, note, size=archive.size, tries=tries).run()
    try:
        _verify(archive, part, "")
    except UserError:
        part.unlink()
        note.unlink(missing_ok=True)
        if not resumed:
            raise
        # The beginning may be of an older or a damaged attempt: once more, from nothing.
        Transfer(archive.url, part, note, size=archive.size, tries=tries).run()
        try:
            _verify(archive, part, "")
        except UserError:
            part.unlink()
            raise
    os.replace(part, path)
    note.unlink(missing_ok=True)
    return path


def _part(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")


def _verify(archive: Archive, path: Path, advice: str) -> None:
    """Compare size and checksum with what is published."""
    tail = f"; {advice}" if advice else "; it was deleted: the file there is not the published one"
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        raise UserError(f"{archive.url}: {size} bytes, published are {archive.size}{tail}")
    if archive.checksum:
        kind, _, wanted = archive.checksum.partition(":")
        found = _hash(path, kind)
        if not found.startswith(wanted.lower()):
            raise UserError(f"{archive.url}: {kind} {found}, published is {wanted}{tail}")


def _hash(path: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
