"""Headless Chromium through its DevTools protocol over a pipe: no driver, no further package."""

from __future__ import annotations

import base64
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
QUIET = [
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


def command(profile: Path, *more: str) -> list[str]:
    """The command line, without a page."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    return [BROWSER, *QUIET, f"--user-data-dir={profile}", *(["--no-sandbox"] * root), *more]


class Page:
    """One tab; `with Page(folder) as page`.

    Args:
        folder: an empty folder for the profile.
        width, height: of the window, in CSS pixels.
        dark: what the system prefers.
        more: further options of the browser.
    """

    def __init__(self, folder: Path, *more: str, width=1280, height=900, dark=False):
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()

        def as_chromium_wants_them():  # it reads file descriptor 3 and writes to 4
            os.dup2(to_browser, 103)
            os.dup2(from_browser, 104)
            os.dup2(103, 3)
            os.dup2(104, 4)

        self._browser = subprocess.Popen(
            command(folder, "--remote-debugging-pipe", *more, "about:blank"),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False,
            preexec_fn=as_chromium_wants_them,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._answers: queue.Queue = queue.Queue()
        self._number = 0
        self._session: str | None = None
        self.events: list[dict] = []
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._attach(width, height, dark)
        except BaseException:
            self.close()
            raise

    def _attach(self, width, height, dark):
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "DOM"):
            self.send(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.resize(width, height)

    def _read(self):
        buffer = b""
        while block := os.read(self._in, 1 << 16):
            *whole, buffer = (buffer + block).split(b"\0")
            for message in map(json.loads, whole):
                (self._answers.put if "id" in message else self.events.append)(message)
        self._answers.put(None)

    def send(self, method: str, timeout: float = 60, **parameters) -> dict:
        """One command of the protocol; its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self._answers.get(timeout=timeout)
        assert answer is not None, "the browser ended"
        assert answer["id"] == self._number and "error" not in answer, answer
        return answer["result"]

    def resize(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=False,
        )  # fmt: skip

    def js(self, expression: str):
        """The value of an expression; promises are awaited."""
        result = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression: str, timeout: float = 120):
        """Ask until the expression is true; its value."""
        end = time.monotonic() + timeout
        while not (value := self.js(expression)):
            assert time.monotonic() < end, f"not within {timeout} s: {expression}\n{self.text()}"
            time.sleep(0.1)
        return value

    def text(self) -> str:
        return self.js("document.body.innerText")

    def open(self, address: str) -> None:
        self.send("Page.navigate", url=address)

    def click(self, selector: str) -> None:
        self.js(f"document.querySelector({json.dumps(selector)}).click()")

    def type(self, selector: str, text: str, timeout: float = 60) -> None:
        """Replace what stands in a text field, until it stays for a second.

        A field of gradio that has just appeared puts its first value back once more.
        """
        field, text = f"document.querySelector({json.dumps(selector)})", json.dumps(text)
        end, kept = time.monotonic() + timeout, 0
        while kept < 10:
            assert time.monotonic() < end, f"{selector} does not keep what is typed"
            kept += 1
            if not self.js(f"{field}.value === {text}") or kept == 1:
                self.js(
                    f"(() => {{ const field = {field}; field.focus(); field.value = {text}; "
                    "field.dispatchEvent(new InputEvent('input', {bubbles: true})); })()"
                )
                kept = 1
            time.sleep(0.1)

    def upload(self, selector: str, path: Path) -> None:
        """Choose a file in a file input."""
        document = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def requests(self) -> list[str]:
        """Every address that was asked for so far, in data and memory excepted."""
        sent = [e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        addresses = [parameters["request"]["url"] for parameters in sent]
        return [a for a in addresses if not a.startswith(("data:", "blob:", "about:"))]

    def screenshot(self, path: Path) -> None:
        """The whole page, also what is below the window, as PNG."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._browser.terminate()
        try:
            self._browser.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._browser.kill()
        os.close(self._out)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_) -> None:
        self.close()
