"""The command `speechcwcl demo`: what it refuses, and its temporary folder; no browser."""

from __future__ import annotations

import os
import socket
import stat
import sys
import time

import pytest

from speechcwcl.apps.demo.serve import private_folder, sweep
from speechcwcl.cli.main import main


def demo(*words):
    return main(["demo", "--model", "nowhere", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "0"], "--port 0: give a number from 1 to 65535"),
        (["--host", "no.such.host.invalid"], "no such host"),
        (["--max_labels", "0"], "max_labels: 0 is not above 0"),
        (["--far", "2"], "--far 2.0: not between 0 and 1"),
    ],
)
def test_wrong_options_are_one_line(capsys, words, message):
    assert demo(*words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_port_in_use_is_one_line(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert demo("--port", str(port)) == 2
    error = capsys.readouterr().err
    assert f"127.0.0.1:{port}: Address already in use; choose another --port" in error
    assert error.count("\n") == 1


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_without_gradio_one_line_says_what_to_install(capsys, monkeypatch):
    import speechcwcl.apps.demo

    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "speechcwcl.apps.demo.page", raising=False)
    monkeypatch.delattr(speechcwcl.apps.demo, "page", raising=False)
    assert demo("--port", str(free_port())) == 2
    error = capsys.readouterr().err
    assert "the page needs gradio: pip install speechcwcl[web]" in error
    assert error.count("\n") == 1


def test_the_temporary_folder_is_private_swept_and_goes():
    with private_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for name, age in (("old", 100), ("new", 0)):
            (folder / name).mkdir()
            path = folder / name / "clip.wav"
            path.write_bytes(b"x")
            for thing in (path, path.parent):
                os.utime(thing, (time.time() - age,) * 2)
        sweep(folder, 60)
        assert [p.parent.name for p in folder.rglob("*") if p.is_file()] == ["new"]
        sweep(folder, 0)
        assert not list(folder.iterdir())
        (folder / "left.wav").write_bytes(b"x")
    assert not folder.exists()
