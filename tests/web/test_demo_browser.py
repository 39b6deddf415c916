"""`speechcwcl demo` from outside: a process of its own, used by Chromium and by gradio's client."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import soundfile
import torch
from chromium import BROWSER, Page

from speechcwcl.data.audio import load_audio
from speechcwcl.models.aligner import Aligner

pytest.importorskip("gradio", reason="gradio is not installed: pip install speechcwcl[web]")
LABELS = ["turn on the light", "stop", "zz top"]
ANSWER = "document.querySelector('#cw-answer')"


class Server:
    """The running command; its temporary, working and cache folders are below `folder`."""

    def __init__(self, folder, models, repository):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.models = models
        self.address = f"http://127.0.0.1:{port}/"
        self.temporary, self.cwd = folder / "tmp", folder / "cwd"
        self.temporary.mkdir()
        self.cwd.mkdir()
        words = [sys.executable, "-m", "speechcwcl.cli.main", "demo", "--port", str(port)]
        words += [word for model in models for word in ("--model", str(model))]
        words += ["--max_seconds", "2", "--max_megabytes", "0.5"]
        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        environment["PYTHONPATH"] = os.fspath(repository)
        environment["SPEECHCWCL_CACHE"] = os.fspath(folder / "cache")
        self.trap = socket.create_server(("127.0.0.1", 0))  # whoever calls out, calls here
        self.trap.setblocking(False)
        proxy = f"http://127.0.0.1:{self.trap.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            environment |= {name: proxy, name.upper(): proxy}
        for name in ("no_proxy", "NO_PROXY"):
            environment.pop(name, None)
        log = folder / "log"
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                words, cwd=self.cwd, env=environment, stdout=stream, stderr=stream
            )
        end = time.monotonic() + 300
        while "The page is at" not in log.read_text():
            assert self.process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_speech, tiny_text, repository):
    models = []
    for seed, name in enumerate(("cwcl", "clip")):
        torch.manual_seed(seed)
        models.append(tmp_path_factory.mktemp("exp") / name / "model")
        aligner = Aligner.build(tiny_speech, tiny_text, projection={"hidden": [16]})
        aligner.save_pretrained(models[-1], with_towers=True)
    running = Server(tmp_path_factory.mktemp("server"), models, repository)
    yield running
    running.process.kill()
    running.process.wait()
    running.trap.close()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A sound recording, one that is too long, and one that is none."""
    folder = tmp_path_factory.mktemp("clips")
    wave = 0.3 * np.sin(2 * np.pi * 330 * np.arange(40000) / 16000)
    soundfile.write(folder / "good.wav", wave[:12000], 16000)
    soundfile.write(folder / "long.wav", wave, 16000)
    (folder / "text.wav").write_text("not audio at all")
    return folder


@pytest.fixture
def page(tmp_path, server):
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    with Page(tmp_path) as opened:
        opened.open(server.address)
        opened.wait("!!document.querySelector('#cw-go')")
        opened.wait("!!document.querySelector('#cw-audio [aria-label=\"Upload file\"]')")
        opened.click('#cw-audio [aria-label="Upload file"]')
        opened.wait("!!document.querySelector('#cw-audio input[type=file]')")
        yield opened


def upload(page, path):
    page.wait("!!document.querySelector('#cw-audio input[type=file]')")
    page.upload("#cw-audio input[type=file]", path)


def clear(page):
    """Empty the recorder, for the next upload."""
    page.click('#cw-audio [aria-label="Clear"]')


def answers(page):
    """The first label of each model."""
    return page.js(
        "[...document.querySelectorAll('.cw-label [data-testid=label-output-value]')]"
        ".map(e => e.innerText)"
    )


def test_a_visitor_gets_an_answer(page, server, clips):
    page.type("#cw-labels textarea", f"{LABELS[0]}\n{LABELS[1]}; {LABELS[2]}")
    upload(page, clips / "good.wav")
    page.wait(f"{ANSWER}.innerText.includes('The models')")
    assert "good.wav, 0.8 s" in page.js(f"{ANSWER}.innerText")
    page.wait("document.querySelectorAll('.cw-label [data-testid=label-output-value]').length == 2")
    assert set(answers(page)) <= set(LABELS)
    names = page.js("[...document.querySelectorAll('.cw-label label')].map(e => e.innerText)")
    assert [name.split("/")[-2:] for name in names] == [["cwcl", "model"], ["clip", "model"]]
    page.wait(f"{ANSWER}.innerText.includes('please')")  # a template of the first label set

    # other templates, the same recording
    page.click(".label-wrap")  # opens "Templates"
    page.wait("!!document.querySelector('#cw-templates textarea')")
    page.type("#cw-templates textarea", "{}")
    page.click("#cw-go")
    page.wait(f"!{ANSWER}.innerText.includes('please')")
    aligners = [Aligner.from_pretrained(model) for model in server.models]
    wanted = [a.classify([clips / "good.wav"], LABELS)[0][0]["label"] for a in aligners]
    assert answers(page) == wanted


def test_examples_are_kept_and_forgotten(page, server, clips):
    page.type("#cw-labels textarea", "; ".join(LABELS))
    page.click(".label-wrap")  # the templates of the first label set go
    page.wait("!!document.querySelector('#cw-templates textarea')")
    page.type("#cw-templates textarea", "{}")
    upload(page, clips / "good.wav")
    page.wait(f"{ANSWER}.innerText.includes('The models')")
    page.wait("document.querySelectorAll('.cw-label [data-testid=label-output-value]').length == 2")
    first = answers(page)
    other = next(label for label in LABELS if label not in first)
    page.click("#cw-own .label-wrap")
    field = "#cw-example textarea, #cw-example input"
    page.wait(f"!!document.querySelector({field!r})")
    kept = "document.querySelector('#cw-kept').innerText"
    page.type(field, other + "x")
    page.click("#cw-keep")
    page.wait(f"{kept}.includes('There is no label')")
    page.type(field, other)
    page.click("#cw-keep")
    page.wait(f"{kept}.includes('Examples: {other} 1')")
    page.wait(f"document.querySelector('.cw-label').innerText.includes({other!r})")
    wave = load_audio(clips / "good.wav")
    wanted = []
    for model in map(Aligner.from_pretrained, server.models):
        keywords = model.enrol(LABELS, {other: [wave]})
        wanted.append(model.classify([wave], keywords)[0][0]["label"])
    assert wanted == [other] * 2, "the recording is the example"
    shown = "[...document.querySelectorAll('.cw-label [data-testid=label-output-value]')]"
    page.wait(f"{shown}.every(e => e.innerText == {other!r})")
    page.click("#cw-forget")
    page.wait(f"!{kept}.includes('Examples')")
    page.wait(f"{shown}.every(e => e.innerText != {other!r})")
    assert answers(page) == first


def test_errors_stand_in_the_page(page, server, clips):
    page.click("#cw-go")
    page.wait(f"{ANSWER}.innerText.includes('There is no recording')")
    for name, message in (
        ("text.wav", "text.wav: not audio that can be read"),
        ("long.wav", "long.wav lasts 2.5 s; at most 2 s are allowed"),
    ):
        upload(page, clips / name)
        page.wait(f"{ANSWER}.innerText.includes({message!r})")
        clear(page)
    upload(page, clips / "good.wav")
    page.wait(f"{ANSWER}.innerText.includes('The models')")
    for typed, message in (("", "There are no labels"), ("on\nON", "is given twice")):
        page.type("#cw-labels textarea", typed)
        page.click("#cw-go")
        page.wait(f"{ANSWER}.innerText.includes({message!r})")


def test_it_fits_a_telephone_and_asks_nobody_else(page, server, clips):
    page.resize(375, 812)
    upload(page, clips / "good.wav")
    page.wait(f"{ANSWER}.innerText.includes('The models')")
    page.wait("document.querySelectorAll('.cw-label, .cw-table').length == 4")
    assert page.js("document.documentElement.scrollWidth") <= 375
    boxes = page.js(
        "[...document.querySelectorAll('.cw-label, .cw-table, #cw-audio, #cw-head, #cw-go')]"
        ".map(e => [e.getBoundingClientRect().left, e.getBoundingClientRect().right])"
    )
    assert len(boxes) == 7 and all(0 <= left < right <= 375 for left, right in boxes)
    page.js("[...document.querySelectorAll('footer button')][0].click()")  # "Use via API"
    page.wait("document.body.innerText.includes('/classify')")
    requests = page.requests()
    assert len(requests) > 10
    assert [url for url in requests if not url.startswith(server.address)] == []
    with pytest.raises(BlockingIOError):  # nor did the server call anyone
        server.trap.accept()
    assert list(server.cwd.iterdir()) == []


def test_other_programs_may_ask(server, clips):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(server.address, verbose=False, analytics_enabled=False, download_files=False)
    answer = client.predict(
        handle_file(clips / "good.wav"), "\n".join(LABELS), "{}", 0, api_name="/classify"
    )
    for model, said in zip(server.models, answer["models"], strict=True):
        wanted = Aligner.from_pretrained(model).classify([clips / "good.wav"], LABELS)[0]
        assert said["answer"] == wanted[0]["label"]
        assert [row["label"] for row in said["labels"]] == [row["label"] for row in wanted]
    with pytest.raises(AppError, match="given twice"):
        client.predict(handle_file(clips / "good.wav"), "a;A", "{}", 0, api_name="/classify")
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(named) == ["/classify"]
    with urllib.request.urlopen(server.address) as page:
        assert "default-src 'self'" in page.headers["content-security-policy"]


def test_the_same_recording_from_many_visitors_at_once(server, clips):
    from concurrent.futures import ThreadPoolExecutor

    from gradio_client import Client, handle_file

    client = Client(server.address, verbose=False, analytics_enabled=False, download_files=False)

    def ask(_):
        recording = handle_file(clips / "good.wav")
        return client.predict(recording, "\n".join(LABELS), "{}", 0, api_name="/classify")["name"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(24))) == ["good.wav"] * 24


def test_a_signal_ends_it_and_leaves_nothing(server):
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
    assert list(server.temporary.glob("speechcwcl-demo-*")) == []
