"""One file over HTTP, with ranges: goes on where it stopped, trusts no answer unseen."""

from __future__ import annotations

import errno
import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

from speechcwcl.errors import UserError
from speechcwcl.files import cannot_write

_BLOCK = 1 << 18
_FINAL = (400, 401, 403, 404, 405, 410, 451)
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
_AGENT = "speechcwcl (corpus download)"
PAUSE = 1.0
"""Seconds before the second attempt; twice as long before each further one, at most 60."""


class _Broken(Exception):
    """The attempt failed, another may succeed."""


class Transfer:
    """Fetches ``url`` into the file ``part``.

    Args:
        url: http or https.
        part: appended to; what it holds already is kept if the server's file is still the same.
        note: JSON file that remembers which version of the server's file ``part`` belongs to.
        size: published size in bytes, if known: a server that says otherwise is refused.
        tries: attempts in a row without new bytes before giving up.
        timeout: seconds without an answer.
    """

    def __init__(
        self,
        url: str,
        part: Path,
        note: Path,
        *,
        size: int | None = None,
        tries: int = 6,
        timeout: float = 60,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"{url}: only http and https addresses are fetched")
        self.url, self.part, self.note = url, part, note
        self.size, self.tries, self.timeout = size, tries, timeout

    def run(self) -> None:
        """Fetch until all is there.

        Raises:
            UserError: a final answer such as 404, a size that is not the published one, no room
                on the disk, or too many failures in a row.
        """
        failures, most = 0, self._have()
        while True:
            try:
                self._attempt()
                return
            except _Broken as error:
                problem = str(error)
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno in _LOCAL:
                    raise UserError(cannot_write(self.part, error)) from error
                problem = str(getattr(error, "reason", "") or error) or type(error).__name__
            # Only more than ever before counts as progress: a server may make us begin again.
            failures = 1 if self._have() > most else failures + 1
            most = max(most, self._have())
            if failures >= self.tries:
                raise UserError(
                    f"{self.url}: {problem} ({failures} attempts in a row brought nothing new, "
                    f"{self._have()} bytes are kept); run the same command again to go on"
                )
            time.sleep(min(60.0, PAUSE * 2 ** (failures - 1)))

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _attempt(self) -> None:
        have, known = self._have(), self._read_note()
        if have and not (known.get("tag") or self.size):
            have = 0  # nothing says that the beginning belongs to the file of today
        if have and self.size == have:
            return
        request = urllib.request.Request(self.url, headers={"User-Agent": _AGENT})
        # A gzip-encoded answer would make lengths and ranges mean something else.
        request.add_header("Accept-Encoding", "identity")
        if have:
            request.add_header("Range", f"bytes={have}-")
            if known.get("tag"):
                request.add_header("If-Range", known["tag"])
        try:
            answer = urllib.request.urlopen(request, timeout=self.timeout)  # noqa: S310
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error, have)
            return
        with answer:
            start, total = self._plan(answer, have, known.get("total"))
            self._write_note(answer, total)
            self._copy(answer, start, total)

    def _refused(self, error: urllib.error.HTTPError, have: int) -> None:
        """An answer of 400 or above: return if all is there, else raise."""
        if error.code == 416 and have:
            total = _star_total(error.headers.get("Content-Range", ""))
            if total == have and self.size in (None, have):
                return
            self.part.unlink(missing_ok=True)
            raise _Broken(f"the server has {total} bytes, {have} were here; starting again")
        words = f"the server answers {error.code} {error.reason}"
        if error.code in _FINAL:
            raise UserError(
                f"{self.url}: {words}; has the corpus moved? fetch it by hand and give the folder "
                "with --data"
            )
        raise _Broken(words)

    def _plan(self, answer: Any, have: int, before: int | None) -> tuple[int, int | None]:
        """Where this answer's bytes belong, and how long the whole file is."""
        if answer.headers.get_content_type() == "text/html":
            raise UserError(
                f"{self.url}: a web page came instead of the file (moved, or behind a sign-in?); "
                "fetch it by hand and give the folder with --data"
            )
        length = answer.headers.get("Content-Length")
        length = int(length) if length and length.isdigit() else None
        start, total = 0, length
        if answer.status == 206:
            match = re.fullmatch(
                r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", "").strip()
            )
            if not match or int(match[1]) != have:
                self.part.unlink(missing_ok=True)
                raise _Broken(f"asked for bytes from {have}, got {match[0] if match else 'others'}")
            start = have
            total = None if match[3] == "*" else int(match[3])
            if None not in (before, total) and before != total:
                self.part.unlink(missing_ok=True)
                raise _Broken(f"the file there has {total} bytes now, it had {before}")
        elif answer.status != 200:
            raise _Broken(f"the server answers {answer.status}")
        if self.size is not None:
            if total is not None and total != self.size:
                raise UserError(
                    f"{self.url}: the server says {total} bytes, published are {self.size}; "
                    "that is another file (a newer release, or a sign-in page?)"
                )
            total = self.size
        if total is not None:
            room_for(self.part, total - start)
        return start, total

    def _copy(self, answer: Any, start: int, total: int | None) -> None:
        with (
            self.part.open("r+b" if start else "wb") as stream,
            tqdm(
                total=total, initial=start, unit="B", unit_scale=True, desc=self.url.split("/")[-1]
            ) as bar,
        ):
            stream.seek(start)
            stream.truncate()
            while block := answer.read(_BLOCK):
                stream.write(block)
                bar.update(len(block))
            have = stream.tell()
        if total is not None and have < total:
            raise _Broken(f"the connection ended after {have} of {total} bytes")
        if total is not None and have > total:
            self.part.unlink()
            raise _Broken(f"{have} bytes came, {total} were announced")

    def _read_note(self) -> dict[str, Any]:
        try:
            known = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) and known.get("url") == self.url else {}

    def _write_note(self, answer: Any, total: int | None) -> None:
        """Remember a strong tag of this version: only with one may a range be asked for later."""
        tag = answer.headers.get("ETag", "")
        if not tag or tag.startswith("W/"):
            tag = answer.headers.get("Last-Modified", "")
        value = {"url": self.url, "tag": tag, "total": total}
        self.note.write_text(json.dumps(value), encoding="utf-8")


def room_for(path: Path, size: int) -> None:
    """Raise a :class:`UserError` unless ``size`` more bytes fit beside ``path``."""
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise UserError(
            f"{path.parent}: {size / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; "
            "make room or choose another folder"
        )


def _star_total(content_range: str) -> int | None:
    match = re.fullmatch(r"bytes \*/(\d+)", content_range.strip())
    return int(match[1]) if match else None
