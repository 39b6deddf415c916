"""speechcwcl doctor on broken installations: named, with what to type, never a traceback."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from speechcwcl.apps import doctor
from speechcwcl.cli.main import main
from speechcwcl.errors import UserError
from speechcwcl.models.weights.catalogue import Source

SOUND = {
    "numpy": "__version__ = '2.0'",
    "soundfile": "__version__ = '0.13.1'",
    "torch": """
__version__ = '2.11.0+cpu'
class version: cuda = None
class cuda:
    is_available = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 0)
""",
    "torchaudio": "__version__ = '2.11.0'",
    "transformers": "print('hello, I am a module that greets')\n__version__ = '5.23.0'",
    "speechbrain": "__version__ = '1.1.2'",
    "datasets": "__version__ = '5.2.0'",
}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Puts modules before the real ones, for the other process alone."""
    folder = tmp_path / "modules"
    folder.mkdir()

    def put(**changed):
        for name, text in {**SOUND, **changed}.items():
            (folder / f"{name}.py").write_text(text)

    put()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return put


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty cache, no hub, a working directory of its own."""
    monkeypatch.setenv("SPEECHCWCL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_a_sound_installation(modules, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_TRIED", ())
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    found = {finding["name"]: finding for finding in answer["findings"]}
    assert answer["ok"] is True
    assert found["import torch"]["found"] == "2.11.0+cpu"
    assert found["torch and torchaudio"]["status"] == "ok"
    assert found["decoders"]["found"] == "wav flac ogg opus mp3"
    assert found["GPU"]["found"] == "none; the CPU is used"
    assert found["hub"]["found"] == "not asked: HF_HUB_OFFLINE is set"
    assert found["cached models"]["status"] == "warn" and "fetch" in found["cached models"]["todo"]
    assert all(bool(f["todo"]) != (f["status"] == "ok") for f in answer["findings"])


def test_a_torchaudio_of_another_torch_is_reported_not_raised(modules, capsys):
    error = "OSError('libtorchaudio.so: undefined symbol: _ZN2at4_ops')"
    modules(torchaudio=f"raise {error}", speechbrain="import torchaudio")
    assert main(["doctor"]) == 2
    out, err = capsys.readouterr()
    assert "fail  import torchaudio" in out and "undefined symbol" in out
    assert "fail  import speechbrain" in out and "ok    import datasets" in out
    assert "-> pip install --force-reinstall 'torch>=2.11,<2.12'" in out
    assert "Traceback" not in out + err


def test_torch_and_torchaudio_that_do_not_match(modules):
    modules(torch=SOUND["torch"].replace("2.11.0", "2.13.0"))
    found = by_name(doctor.check_imports())
    assert found["torch and torchaudio"].status == "fail"
    assert found["torch and torchaudio"].found == "2.13.0+cpu and 2.11.0"


def test_a_module_that_kills_the_interpreter(modules):
    modules(transformers="import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    found = by_name(doctor.check_imports())
    assert found["import transformers"].status == "fail"
    assert "died" in found["import transformers"].found
    assert found["import torchaudio"].status == found["import speechbrain"].status == "ok"


def test_gpus(modules, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert by_name(doctor.check_imports())["GPU"].status == "warn"  # a card, torch for CPUs
    card = SOUND["torch"].replace("lambda: False", "lambda: True").replace("lambda: 0", "lambda: 1")
    modules(torch=card + "    get_device_name = staticmethod(lambda i: 'H100')\n")
    gpu = by_name(doctor.check_imports())["GPU"]
    assert (gpu.status, gpu.found) == ("ok", "H100")


def test_requirements_that_are_not_met(monkeypatch):
    lines = ["soundfile>=99", "no-such-package>=1 ; extra == 'web'", "nowhere-to-be-found"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    found = by_name(doctor.check_packages())
    assert found["soundfile>=99"].status == "fail" and "installed" in found["soundfile>=99"].found
    assert found["nowhere-to-be-found"].found == "not installed"
    extras = by_name(doctor.check_extras(deep=False))
    assert extras["extra web"].status == "warn"
    assert extras["extra web"].todo == "pip install 'speechcwcl[web]'"
    assert "speechcwcl demo" in extras["extra web"].found
    assert extras["extra onnx"].status == "ok"  # asks for nothing in these lines


def test_a_clone_that_was_not_installed(monkeypatch):
    def nothing(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", nothing)
    assert by_name(doctor.check_packages())["speechcwcl"].todo == "pip install -e ."
    assert list(doctor.check_extras(deep=False)) == []


def test_every_extra_is_one_of_setup_py(repository):
    text = (repository / "setup.py").read_text(encoding="utf-8")
    assert [name for name in doctor.UNLOCKS if f'    "{name}": [' not in text] == []


def test_an_extra_whose_library_is_missing(modules, monkeypatch):
    modules(sounddevice="raise OSError('PortAudio library not found')")
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor, "_unmet", lambda line: "")
    monkeypatch.setattr(
        doctor.metadata, "requires", lambda name: ["sounddevice>=0.5; extra == 'mic'"]
    )
    mic = by_name(doctor.check_extras(deep=False))["extra mic"]
    assert mic.status == "warn" and "PortAudio" in mic.found and "libportaudio2" in mic.todo


def test_decoders_that_fail(monkeypatch):
    from speechcwcl.data import audio as decode

    encode = decode.encode_audio

    def no_mp3(wav, suffix):
        if suffix == ".mp3":
            raise UserError("this build has no MP3")
        return encode(wav[::2] if suffix == ".opus" else wav, suffix)  # decodes to another tone

    monkeypatch.setattr(decode, "encode_audio", no_mp3)
    found = by_name(doctor.check_decoding())
    assert set(found) == {"decoder mp3", "decoder opus"}
    assert found["decoder mp3"].status == "fail" and "MP3" in found["decoder mp3"].found
    assert "decodes wrongly" in found["decoder opus"].found


def test_places_one_may_not_write_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SPEECHCWCL_CACHE", str(tmp_path / "file" / "cache"))
    found = by_name(doctor.check_places())
    assert found["write: cache"].status == "fail"
    assert found["write: cache"].todo == "export SPEECHCWCL_CACHE=FOLDER"

    def refuse(dir):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    found = by_name(doctor.check_places())
    assert "Read-only file system" in found["write: temporary"].found
    assert (
        found["write: temporary"].status == "fail" and found["write: this folder"].status == "warn"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir(mode=0o500)
    monkeypatch.setenv("SPEECHCWCL_CACHE", str(tmp_path / "locked"))
    assert by_name(doctor.check_places())["write: cache"].status == "fail"


@pytest.mark.parametrize(("free", "status"), [(1e8, "fail"), (1e9, "warn"), (1e11, "ok")])
def test_disk_space(monkeypatch, free, status):
    usage = type("usage", (), {"free": free})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert {finding.status for finding in doctor.check_places()} == {status}


def test_the_cache_is_hashed_when_asked(tmp_path, monkeypatch):
    from speechcwcl.files import sha256_file, write_json

    source = Source("tiny", "text", "t", "MIT", "a/b", members=())
    monkeypatch.setattr("speechcwcl.models.weights.sources.SOURCES", {"tiny": source})
    folder = tmp_path / "cache/models/tiny"
    folder.mkdir(parents=True)
    assert by_name(doctor.check_cache(False))["model tiny"].todo == "speechcwcl fetch tiny"
    (folder / "config.json").write_text("{}")
    entry = {"bytes": 2, "sha256": sha256_file(folder / "config.json")}
    write_json(folder / "source.json", {"taken_from": [], "files": {"config.json": entry}})
    assert by_name(doctor.check_cache(True))["cached models"].found.startswith("tiny (hashed")
    (folder / "config.json").write_text("[]")  # as long as before
    assert by_name(doctor.check_cache(False))["cached models"].status == "ok"
    spoilt = by_name(doctor.check_cache(True))["model tiny"]
    assert spoilt.status == "fail" and spoilt.todo.endswith("speechcwcl fetch tiny")


class _Answer(BaseHTTPRequestHandler):
    code = 200

    def do_HEAD(self):
        self.send_response(self.code)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("code", "status"), [(200, "ok"), (404, "ok"), (503, "warn")])
def test_the_hub(monkeypatch, code, status):
    server = HTTPServer(("127.0.0.1", 0), type("A", (_Answer,), {"code": code}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", url)
    found = doctor.check_hub(2.0)
    assert found.status == status and url in found.found and str(code) in found.found
    server.shutdown()
    server.server_close()
    gone = doctor.check_hub(2.0)
    assert gone.status == "warn" and "out of reach" in gone.found and "OFFLINE" in gone.todo
