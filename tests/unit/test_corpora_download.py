"""Downloads against a local server that tells the truth, stops half-way, or lies."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import re
import tarfile
import threading
from pathlib import Path

import pytest

from speechcwcl.corpora import _download
from speechcwcl.corpora._download import (
    Archive,
    completed,
    download_all,
    fetch,
    refuse_half_extracted,
)
from speechcwcl.errors import UserError


def tar_bytes(members: dict[str, bytes]) -> bytes:
    """A .tar.gz of these files; incompressible, so that lengths mean something."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return raw.getvalue()


NOISE = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(8000))
MEMBERS = {"corpus/a.txt": b"first", "corpus/deep/b.bin": NOISE}
BODY = tar_bytes(MEMBERS)


class Server:
    """Serves BODY; `mode` chooses how, `log` has (path, Range header, bytes sent)."""

    def __init__(self) -> None:
        self.body, self.mode, self.etag = BODY, "good", '"v1"'
        self.cut: list[int] = []  # stop the next answers after so many bytes
        self.log: list[tuple[str, str | None, int]] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                server.answer(self)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(
            target=lambda: self.http.serve_forever(poll_interval=0.02), daemon=True
        )
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/corpus.tar.gz"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        status, start, body = 200, 0, self.body
        tag = request.headers.get("If-Range")
        match = re.fullmatch(r"bytes=(\d+)-", asked or "")
        same = tag in (None, self.etag)
        if match and self.mode != "no_ranges" and same:
            status, start = 206, int(match[1])
        headers = {"ETag": self.etag, "Content-Type": "application/gzip"}
        if self.mode in ("404", "503"):
            return self.send(request, int(self.mode), {}, b"no", asked)
        if self.mode == "html":
            return self.send(request, 200, {"Content-Type": "text/html"}, b"<p>sign in", asked)
        if self.mode == "no_tag":
            del headers["ETag"]
        if status == 206 and start >= len(body):
            return self.send(request, 416, {"Content-Range": f"bytes */{len(body)}"}, b"", asked)
        part = body[start:]
        if status == 206:
            first = 7 if self.mode == "wrong_range" else start
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        return self.send(request, status, headers, part, asked)

    def send(
        self,
        request: http.server.BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes,
        asked: str | None,
    ) -> None:
        cut = self.cut.pop(0) if self.cut else None
        sent = body if cut is None else body[:cut]
        self.log.append((request.path, asked, len(sent)))  # before the client can be done
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        length = len(body) + (100 if self.mode == "short" else 0)
        if self.mode != "no_length":
            request.send_header("Content-Length", str(length))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(sent)
        request.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(_download, "PAUSE", 0.0)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def archive(server: Server, **changes) -> Archive:
    given = {"size": len(BODY), "checksum": sha(BODY)} | changes
    return Archive(server.url, **given)


def read(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name[0] != ".")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_download_unpacks_checks_and_marks(server, tmp_path):
    download_all([archive(server, into="here")], tmp_path)
    assert read(tmp_path / "here") == MEMBERS
    entry = completed(tmp_path)["corpus.tar.gz"]
    assert entry["bytes"] == len(BODY) and entry["files"] == 2
    assert entry["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert not (tmp_path / "corpus.tar.gz").exists()
    download_all([archive(server, into="here")], tmp_path)
    assert len(server.log) == 1, "what .completed names is not fetched again"


def test_dropped_connections_are_resumed_by_range(server, tmp_path):
    server.cut = [100_000, 50_000]
    fetch(archive(server), tmp_path)
    assert [asked for _, asked, _ in server.log] == [None, "bytes=100000-", "bytes=150000-"]
    assert (tmp_path / "corpus.tar.gz").read_bytes() == BODY
    assert not list(tmp_path.glob("*.part*"))


def test_a_killed_run_goes_on_in_the_next(server, tmp_path):
    server.cut = [70_000] + [0] * 5
    with pytest.raises(UserError, match="70000 bytes are kept.*run the same command again"):
        fetch(archive(server), tmp_path, tries=3)
    server.cut = []
    fetch(archive(server), tmp_path)
    assert server.log[-1][1:] == ("bytes=70000-", len(BODY) - 70_000)


def test_200_instead_of_206_starts_over(server, tmp_path):
    server.cut = [60_000]
    server.mode = "no_ranges"
    path = fetch(archive(server), tmp_path)
    assert path.read_bytes() == BODY
    assert server.log[-1][1:] == ("bytes=60000-", len(BODY))


def test_a_changed_file_is_not_glued_to_the_old_beginning(server, tmp_path):
    server.cut = [60_000, 0]
    with pytest.raises(UserError):
        fetch(Archive(server.url), tmp_path, tries=1)
    server.cut, server.etag = [], '"v2"'
    server.body = tar_bytes({"other.bin": NOISE[::-1]})
    assert fetch(Archive(server.url), tmp_path).read_bytes() == server.body


def test_a_beginning_of_unknown_origin_is_dropped(server, tmp_path):
    (tmp_path / "corpus.tar.gz.part").write_bytes(b"x" * 1000)
    assert fetch(Archive(server.url), tmp_path).read_bytes() == BODY
    assert server.log[0][1] is None


def test_a_rotten_part_is_fetched_anew_once(server, tmp_path):
    (tmp_path / "corpus.tar.gz.part").write_bytes(b"x" * 1000)
    assert fetch(archive(server), tmp_path).read_bytes() == BODY
    assert [asked for _, asked, _ in server.log] == ["bytes=1000-", None]


def test_a_part_that_is_whole_needs_no_request(server, tmp_path):
    (tmp_path / "corpus.tar.gz.part").write_bytes(BODY)
    assert fetch(archive(server), tmp_path).read_bytes() == BODY
    assert server.log == []


def test_a_lying_range_is_noticed(server, tmp_path):
    server.cut, server.mode = [60_000], "wrong_range"
    assert fetch(archive(server), tmp_path).read_bytes() == BODY
    assert [asked for _, asked, _ in server.log] == [None, "bytes=60000-", None]


@pytest.mark.parametrize(
    ("mode", "changes", "words"),
    [
        ("404", {}, "404.*fetch it by hand.*--data"),
        ("503", {}, "503.*3 attempts"),
        ("html", {}, "web page came instead"),
        ("good", {"size": len(BODY) + 1}, "instead of the published"),
        ("good", {"checksum": "md5:" + "0" * 32}, "published 0000"),
        ("no_length", {"size": len(BODY) + 1}, "attempts in a row"),
    ],
)
def test_broken_and_lying_answers(server, tmp_path, mode, changes, words):
    server.mode = mode
    with pytest.raises(UserError, match=words):
        download_all([archive(server, **changes)], tmp_path, tries=3)
    assert not (tmp_path / ".completed").exists()
    assert not (tmp_path / "corpus.tar.gz").exists()


def test_a_length_that_promises_too_much_is_asked_about_again(server, tmp_path):
    server.mode = "short"
    assert fetch(archive(server, size=None), tmp_path).read_bytes() == BODY
    assert [asked for _, asked, _ in server.log] == [None, f"bytes={len(BODY)}-"]


def test_a_wrong_checksum_deletes_what_came(server, tmp_path):
    with pytest.raises(UserError, match="sha256 .* instead of the published"):
        fetch(archive(server, checksum="sha256:" + "0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_first_digits_of_a_checksum_count(server, tmp_path):
    first = hashlib.md5(BODY).hexdigest()[:12]
    assert fetch(archive(server, checksum=f"md5:{first}"), tmp_path).exists()


def test_a_file_fetched_by_hand_is_checked(server, tmp_path):
    (tmp_path / "corpus.tar.gz").write_bytes(BODY[:-1])
    with pytest.raises(UserError, match="instead of the published"):
        fetch(archive(server), tmp_path)
    (tmp_path / "corpus.tar.gz").write_bytes(BODY)
    download_all([archive(server)], tmp_path)
    assert server.log == [] and (tmp_path / "corpus.tar.gz").exists()
    assert (tmp_path / "corpus" / "a.txt").read_bytes() == b"first"


def test_no_length_and_no_checksum_rely_on_the_archive_itself(server, tmp_path):
    server.mode, server.cut = "no_length", [len(BODY) // 2]
    with pytest.raises(UserError, match="damaged or cut off"):
        download_all([Archive(server.url)], tmp_path)
    assert (tmp_path / ".extracting-corpus.tar.gz").exists()
    assert not (tmp_path / ".completed").exists()
    with pytest.raises(UserError, match="half extracted"):
        refuse_half_extracted(tmp_path)


def test_no_room_is_said_before_anything_is_fetched(server, tmp_path, monkeypatch):
    usage = _download.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(_download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="GB are free"):
        fetch(archive(server), tmp_path)
    assert not list(tmp_path.glob("*.tar.gz"))


def test_only_http_is_fetched(tmp_path):
    with pytest.raises(UserError, match="only http and https"):
        fetch(Archive("file:///etc/passwd"), tmp_path)


def test_no_server_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(_download, "PAUSE", 0.0)
    with pytest.raises(UserError, match="attempts in a row") as caught:
        fetch(Archive("http://127.0.0.1:9/x.tar.gz"), tmp_path, tries=2)
    assert "\n" not in str(caught.value)


def test_extraction_resumes_after_half(server, tmp_path):
    (tmp_path / ".extracting-corpus.tar.gz").touch()
    download_all([archive(server)], tmp_path)
    refuse_half_extracted(tmp_path)
    assert read(tmp_path) == MEMBERS


def test_published_addresses_are_complete():
    from speechcwcl.corpora import get_corpus

    count = 0
    for name in ("librispeech", "slurp", "stop", "speech_commands"):
        for one in get_corpus(name).archives():
            assert one.url.startswith(("https://", "http://download.tensorflow.org/"))
            kind, _, digits = one.checksum.partition(":")
            if one.checksum:
                assert kind in ("md5", "sha256") and re.fullmatch(r"[0-9a-f]{12,64}", digits)
            count += 1
    assert count == 9 + 7 + 1 + 2


def test_corpora_download_through_their_own_tables(server, tmp_path, monkeypatch):
    """The real download code of a corpus, its addresses pointed at the local server."""
    from speechcwcl.corpora import librispeech

    source = librispeech.LibriSpeech().fake(tmp_path / "fake")
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as made:
        for path in sorted((source / "LibriSpeech" / "dev-clean").rglob("*")):
            made.add(path, path.relative_to(source).as_posix(), recursive=False)
    server.body, server.cut = raw.getvalue(), [5000]
    address = server.url.replace("corpus.tar.gz", "{0}/{1}.tar.gz")
    monkeypatch.setattr(librispeech, "_URL", address)
    digest = hashlib.md5(server.body).hexdigest()
    monkeypatch.setitem(librispeech._MD5, "dev-clean", (12, digest))
    corpus = librispeech.LibriSpeech()
    folder = corpus.download(tmp_path / "got", ["dev-clean"])
    assert [log[1] for log in server.log] == [None, "bytes=5000-"]
    (made_dir,) = corpus.prepare(folder, tmp_path / "data", ["dev-clean"])
    assert len((made_dir / "text").read_text().splitlines()) == 6
    assert json.loads((folder / ".completed").read_text())["dev-clean.tar.gz"]["files"] == 8
