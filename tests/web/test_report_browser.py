"""report.html in headless Chromium: no network, both themes, 375 pixels, tooltips, players."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from chromium import BROWSER, command
from report_runs import make_run

from speechcwcl.report.page import build_report

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

# Runs inside the page, in a frame as wide as a telephone; tells what it finds to the page around.
PROBE = """
<script>addEventListener("load", async () => {
  const players = [...document.querySelectorAll("audio")];
  for (let i = 0; i < 150 && !players.every((a) => a.readyState); i++) {
    await new Promise((done) => setTimeout(done, 100));
  }
  const colour = () => getComputedStyle(document.body).backgroundColor;
  const outside = [...document.querySelectorAll("body *")].filter((e) =>
    !e.closest(".scroll, .hidden, svg, .skip")
    && e.getBoundingClientRect().right > innerWidth + 1);
  const cell = document.querySelector("svg.heat rect.miss");
  cell.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: 9, clientY: 99}));
  const found = {
    width: innerWidth,
    needed: document.documentElement.scrollWidth,
    outside: outside.map((e) => e.tagName + "." + e.className),
    tip: document.getElementById("tip").hidden ? "" : document.getElementById("tip").textContent,
    fetched: performance.getEntriesByType("resource")
      .map((r) => r.name).filter((n) => !n.startsWith("data:")),
    seconds: players.map((a) => a.duration),
    bars: [...document.querySelectorAll(".bars .fill")].map((e) => e.offsetWidth),
    before: colour(),
  };
  document.getElementById("theme").click();
  found.after = colour();
  parent.postMessage(JSON.stringify(found), "*");
})</script></body>"""
AROUND = """<body style="margin:0">
<iframe src="page.html" style="border:0;width:WIDTHpx;height:900px"></iframe>
<pre id="found"></pre><script>addEventListener("message", (event) => {
  document.getElementById("found").textContent = event.data; });</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    exp = tmp_path_factory.mktemp("exp")
    runs = [make_run(exp, "cwcl", noise=2.0, each=4), make_run(exp, "clip", noise=2.5, each=4)]
    return build_report(runs, exp / "out")[1].read_text(encoding="utf-8")


def probe(page: str, folder, width: int, *, dark: bool) -> dict:
    (folder / "page.html").write_text(page.replace("</body>", PROBE), encoding="utf-8")
    (folder / "around.html").write_text(AROUND.replace("WIDTH", str(width)), encoding="utf-8")
    options = ["--virtual-time-budget=20000", "--window-size=1400,1000", "--dump-dom"]
    options += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    called = command(folder / "profile", *options, (folder / "around.html").as_uri())
    done = subprocess.run(called, capture_output=True, text=True, timeout=300, check=False)
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))


@pytest.mark.parametrize(("width", "dark"), [(375, False), (1300, True)])
def test_page(page, tmp_path, width, dark):
    found = probe(page, tmp_path, width, dark=dark)
    assert found["width"] == width
    assert found["needed"] <= width, found["outside"]
    assert found["outside"] == []
    assert found["fetched"] == []
    assert re.fullmatch(r".+ → .+: \d+ of \d+ \(\d+ %\)", found["tip"])
    assert found["seconds"]
    assert all(seconds == pytest.approx(0.5, abs=0.01) for seconds in found["seconds"])
    assert min(found["bars"]) > 0.03 * width
    light, black = ((251, 250, 247), (21, 23, 27))
    before = tuple(map(int, re.findall(r"\d+", found["before"])))[:3]
    after = tuple(map(int, re.findall(r"\d+", found["after"])))[:3]
    assert (before, after) == ((black, light) if dark else (light, black))
