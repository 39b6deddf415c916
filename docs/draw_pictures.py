#!/usr/bin/env python3
"""Take the pictures of the README from a report and from the demo page, in headless Chromium.

make demo                       # trains, and writes the report
python docs/draw_pictures.py    # docs/pictures/{similarity,confusion,demo}.png
"""

from __future__ import annotations

import argparse
import base64
import io
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/web"))
from chromium import Page  # noqa: E402

CLIP = ROOT / "examples/hallway_lamp.ogg"
LABELS = "turn on the light\nplay some music\nset an alarm\nwhat time is it"
# What the page shows besides the figures that are wanted goes out of the way first.
TIDY = """(() => {
  const part = [...document.querySelectorAll('section')].find(s =>
    s.querySelector('h2') && s.querySelector('h2').textContent.includes('%s'));
  const panels = [...part.querySelectorAll('.panels')].find(p => p.querySelector('%s'));
  [...panels.children].slice(%d).forEach(one => one.remove());
  panels.querySelectorAll('.list, ol, ul, details, p').forEach(one => one.remove());
  panels.style.cssText = 'display:flex;gap:16px;width:%dpx;background:#fff;padding:12px 14px';
  [...panels.children].forEach(one => one.style.cssText =
    'flex:1;margin:0;min-width:0;overflow:visible');
  panels.querySelectorAll('*').forEach(one => one.style.overflow = 'visible');
  panels.scrollIntoView();
  const box = panels.getBoundingClientRect();
  return [box.left + scrollX, box.top + scrollY, box.width, box.height];
})()"""


def save(page: Page, box: list[float], path: Path, colours: int = 64) -> None:
    """Screenshot a part of the page, with few colours, so that the file is light."""
    x, y, width, height = box
    clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
    shot = page.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
    picture = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    picture.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size // 1024} KiB")


def report_pictures(report: Path, folder: Path, test: str) -> None:
    """The similarity matrices of the first two runs, and the confusions of the first."""
    with tempfile.TemporaryDirectory() as profile, Page(Path(profile), width=1400) as page:
        page.open(report.resolve().as_uri())
        page.wait("document.readyState === 'complete'")
        box = page.js(TIDY % (test, "svg.similarity", 2, 900))
        save(page, box, folder / "similarity.png")
        box = page.js(TIDY % (test, "svg.heat", 1, 560))
        save(page, box, folder / "confusion.png", 32)


def demo_picture(model: str | None, folder: Path) -> None:
    """The demo page with its answer to the clip of the examples."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "speechcwcl.cli.main", "demo", "--port", str(port)]
    words += ["--model", model] if model else []
    server = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        while "The page is at" not in server.stdout.readline():
            assert server.poll() is None, "the demo ended"
        with tempfile.TemporaryDirectory() as profile, Page(Path(profile), width=1100) as page:
            page.open(f"http://127.0.0.1:{port}/")
            page.wait("!!document.querySelector('#cw-labels textarea')")
            page.wait("!!document.querySelector('#cw-audio [aria-label=\"Upload file\"]')")
            page.click('#cw-audio [aria-label="Upload file"]')
            page.type("#cw-labels textarea", LABELS)
            page.wait("!!document.querySelector('#cw-audio input[type=file]')")
            page.upload("#cw-audio input[type=file]", CLIP)
            page.wait("document.querySelector('#cw-answer').innerText.includes('%')", timeout=300)
            time.sleep(2)  # the waveform and the bars settle
            save(page, page.js(
                "[0, 0, document.documentElement.clientWidth, "
                "Math.min(900, document.documentElement.scrollHeight)]"
            ), folder / "demo.png")  # fmt: skip
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Take all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--report", type=Path, default=ROOT / "egs/mini/cwcl1/exp/report.html",
        help="a report of at least two runs (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--test", default="test_words", help="the test that is shown")
    parser.add_argument("--model", help="the model behind the demo; left out: en-tiny")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/pictures")
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True)
    report_pictures(options.report, options.out, options.test)
    demo_picture(options.model, options.out)


if __name__ == "__main__":
    main()
