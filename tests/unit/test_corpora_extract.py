"""Unpacking archives of strangers: nothing outside, no links, no devices, nothing half."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import pytest
from test_corpora_download import tar_bytes

from speechcwcl.corpora import _download
from speechcwcl.corpora._download import extract
from speechcwcl.errors import UserError

NOISE = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(8000))


BODY = tar_bytes({"corpus/a.txt": b"first", "corpus/deep/b.bin": NOISE})


def write_tar(path: Path, *infos: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for info in infos:
            made.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 1):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    "info",
    [
        member("../out.txt"),
        member("a/../../out.txt"),
        member("/tmp/out.txt"),
        member("a\\..\\out.txt"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("inner", tarfile.SYMTYPE, "other"),
        member("hard", tarfile.LNKTYPE, "../out.txt"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_unsafe_members_are_refused(tmp_path, info):
    path = write_tar(tmp_path / "bad.tar.gz", member("good.txt"), info)
    inside = tmp_path / "one" / "two"
    with pytest.raises(UserError, match="unsafe archive"):
        extract(path, inside)
    assert not (tmp_path / "one" / "out.txt").exists()
    assert [p.name for p in inside.iterdir()] == ["good.txt"]


def test_nothing_is_written_through_a_link_that_is_there(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "way").symlink_to(outside)
    path = write_tar(tmp_path / "bad.tar.gz", member("way/x.txt"))
    with pytest.raises(UserError, match="through a link"):
        extract(path, inside)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("keep", [10, 1000, len(BODY) // 2, len(BODY) - 4])
def test_cut_off_archives_are_noticed(tmp_path, keep):
    path = tmp_path / "cut.tar.gz"
    path.write_bytes(BODY[:keep])
    with pytest.raises(UserError, match="damaged or cut off"):
        extract(path, tmp_path / "out")


def test_a_flipped_bit_is_noticed(tmp_path):
    raw = bytearray(gzip.decompress(BODY))
    raw[3000] ^= 1  # in the contents of b.bin: only the check sum can tell
    whole = gzip.compress(bytes(raw))
    path = tmp_path / "flipped.tar.gz"
    path.write_bytes(whole[:-8] + BODY[-8:])  # ... of the true contents
    with pytest.raises(UserError, match="damaged or cut off"):
        extract(path, tmp_path / "out")


def test_what_is_no_archive_is_named(tmp_path):
    path = tmp_path / "page.tar.gz"
    path.write_bytes(b"<html>moved</html>" * 100)
    with pytest.raises(UserError, match="page.tar.gz: damaged"):
        extract(path, tmp_path / "out")


def sparse(path: Path, size: int) -> Path:
    """A tar of one file of so many bytes, all of them a hole (GNU's old format)."""
    info = member("hole.bin")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (size, 0)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + b"\0" * 1024)
    return path


@pytest.mark.parametrize("size", [1 << 20, 1 << 33])
def test_a_file_with_holes_does_not_fill_the_disk(tmp_path, size):
    with pytest.raises(UserError, match="'hole.bin' is a file with holes, which may be any size"):
        extract(sparse(tmp_path / "a.tar", size), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_contents_and_headers_are_bounded_by_the_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(_download, "_ROOM", 1000)
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz") as made:
        info = member("zeros.bin", size=10_000_000)
        made.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(UserError, match="'zeros.bin' makes the contents more than 200 times the"):
        extract(tmp_path / "bomb.tar.gz", tmp_path / "out")
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as made:
        made.addfile(member("a"), io.BytesIO(b"x"))
    with gzip.open(tmp_path / "tail.tar.gz", "wb") as stream:
        stream.write(raw.getvalue() + bytes(10_000_000))
    with pytest.raises(UserError, match="its end' is over 200 times as long"):
        extract(tmp_path / "tail.tar.gz", tmp_path / "out")
    with tarfile.open(tmp_path / "name.tar", "w", format=tarfile.GNU_FORMAT) as made:
        made.addfile(member("x" * 2_000_000), io.BytesIO(b"x"))
    with pytest.raises(UserError, match="damaged .*a header of 2000001 bytes"):
        extract(tmp_path / "name.tar", tmp_path / "out")


def test_what_the_disk_has_no_room_for_is_not_begun(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(_download.shutil, "disk_usage", lambda path: usage)
    (tmp_path / "a.tar.gz").write_bytes(BODY)
    with pytest.raises(UserError, match="b.bin has 256000 bytes, 10 are free"):
        extract(tmp_path / "a.tar.gz", tmp_path / "out")
