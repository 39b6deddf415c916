"""Packing and sharing: the folder, its card, the hub; what is refused on opening."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from speechcwcl.cli.main import main
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.evaluation.results import write_embeddings
from speechcwcl.evaluation.scores import evaluate_zeroshot
from speechcwcl.files import sha256_file, write_json
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.folders import packed_protocols
from speechcwcl.zeroshot.protocol import Protocol

WAVE = np.sin(np.arange(8000) / 20).astype(np.float32)
ROOMS = Protocol(
    "rooms", {"k": ("the kitchen",), "b": ("the bath", "the bathroom")}, ("{}", "in {}")
)


@pytest.fixture(scope="module")
def expdir(tiny_speech, tiny_text, tmp_path_factory):
    """An experiment folder as stages 5 to 8 leave it, with encoders that can be taken away."""
    torch.manual_seed(0)
    top = tmp_path_factory.mktemp("run")
    for name, source in (("speech", tiny_speech), ("text", tiny_text)):
        shutil.copytree(source, top / name)
    aligner = Aligner.build(top / "speech", top / "text").eval()
    folder = top / "exp" / "rooms_run"
    aligner.save_pretrained(folder / "model")
    card = {"name": "mycorpus", "version": "3", "licence": "CC-BY-4.0", "synthetic_speech": False}
    for name in ("train", "test"):
        write_json(top / "dump" / name / "corpus.json", card | {"split": name})
    command = ["speechcwcl", "train", str(top / "conf.yaml"), "--train"]
    command += ["dump/train/manifest.jsonl", "--valid", "dev:rooms", "--expdir", "exp"]
    write_json(folder / "env.json", {"command": command, "versions": {"torch": "2.11.0"}})
    write_json(folder / "hparams.json", {"loss": {"cwcl": 1, "cl": 1}, "seed": 5})
    utterances = [
        Utterance(f"u{n}", "a.wav", "in the bath", "s", labels={"label": "kb"[n % 2]})
        for n in range(8)
    ]
    speech = np.random.default_rng(0).standard_normal((8, aligner.dim)).astype(np.float32)
    write_embeddings(folder / "eval/test", [u.id for u in utterances], speech, card)
    out = folder / "eval/test/rooms"
    evaluate_zeroshot(speech, utterances, ROOMS, aligner.encode_text, out)
    return folder


def pack(expdir, *words):
    dumpdir = expdir.parents[1] / "dump"
    return main(["pack", str(expdir), "--dumpdir", str(dumpdir), *map(str, words)])


def test_the_card_tells_how_it_was_made(expdir, tmp_path):
    assert pack(expdir, "--out", tmp_path / "out", "--licence", "cc-by-4.0") == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    header = card.split("---")[1]
    assert "license: cc-by-4.0" in header and "zero-shot-audio-classification" in header
    assert '{"cl": 1, "cwcl": 1}' in card and "| seed | 5 |" in card
    assert "--train dump/train/manifest.jsonl" in card
    assert str(expdir.parents[1]) not in card  # paths of this machine are nobody's business
    assert "| train | training | mycorpus | 3 | CC-BY-4.0 | recorded speech |" in card
    assert "| dev | choosing the epoch | unknown |" in card
    assert "test: rooms" in card and "50.0 %" in card and "2309.14580" in card
    assert "fetched by name" in card
    scores = json.loads((expdir / "eval/test/rooms/scores.json").read_text())
    assert f"{100 * scores['top1']:.1f} %" in card


def test_given_results_replace_the_runs_own(expdir, tmp_path):
    (tmp_path / "R.md").write_text("# All runs\n\n| a |\n|---|\n| 1 |\n")
    assert pack(expdir, "--out", tmp_path / "out", "--results", tmp_path / "R.md") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## All runs\n" in card and "test: rooms" not in card


def test_label_texts_go_along_and_classify_finds_them(expdir, tmp_path, capsys):
    import soundfile

    assert pack(expdir, "--out", tmp_path / "out") == 0
    found = packed_protocols(tmp_path / "out")
    assert found == {"rooms": (ROOMS.labels, ROOMS.templates)}
    soundfile.write(tmp_path / "a.wav", WAVE, 16000)
    words = ["classify", "--model", str(tmp_path / "out"), "--protocol", "rooms"]
    assert main([*words, "--format", "json", str(tmp_path / "a.wav")]) == 0
    out = capsys.readouterr().out.splitlines()[-1]
    ranked = json.loads(out)["labels"]
    model = Aligner.from_pretrained(tmp_path / "out")
    rows = model.encode_labels([["the kitchen"], ["the bath", "the bathroom"]], ["{}", "in {}"])
    cosine = model.encode_speech([tmp_path / "a.wav"]) @ rows.T
    expected = dict(zip("kb", cosine[0].tolist(), strict=True))
    assert {e["label"]: e["cosine"] for e in ranked} == pytest.approx(expected, abs=1e-6)


def test_a_run_that_was_not_scored_says_so(expdir, tmp_path):
    shutil.copytree(expdir, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    assert pack(tmp_path / "run", "--dumpdir", tmp_path) == 0
    card = (tmp_path / "run/packed/README.md").read_text()
    assert "Nothing was scored" in card
    assert not (tmp_path / "run/packed/labels.json").exists()


def test_with_towers_opens_alone(expdir, tmp_path, monkeypatch):
    """No cache, no network, no encoders: everything is inside."""
    expected = Aligner.from_pretrained(expdir / "model").classify([WAVE], ["yes", "no"])
    assert pack(expdir, "--out", tmp_path / "whole", "--with_towers") == 0
    assert pack(expdir, "--out", tmp_path / "light") == 0
    assert "fetched by name" not in (tmp_path / "whole/README.md").read_text()
    names = ("speech", "text")
    monkeypatch.setenv("SPEECHCWCL_CACHE", str(tmp_path / "empty"))

    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    top = expdir.parents[1]
    for name in names:
        (top / name).rename(top / f"away_{name}")
    try:
        model = Aligner.from_pretrained(tmp_path / "whole")
        assert model.classify([WAVE], ["yes", "no"]) == expected
        with pytest.raises(UserError, match="no such folder"):
            Aligner.from_pretrained(tmp_path / "light")
    finally:
        for name in names:
            (top / f"away_{name}").rename(top / name)
    assert not (tmp_path / "empty").exists()


def test_nothing_trained_yet(tmp_path, capsys):
    assert pack(tmp_path / "exp" / "run", "--out", tmp_path / "out") == 2
    assert "no model there; train and average first" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "NOWHERE"], "no such folder"),
        (["--results", "NOWHERE"], "cannot read"),
        (["--out", "MODEL"], "would overwrite the model"),
    ],
)
def test_wrong_words(expdir, tmp_path, capsys, words, message):
    known = {"NOWHERE": str(tmp_path / "nowhere"), "MODEL": str(expdir / "model")}
    assert pack(expdir, *(known.get(word, word) for word in words)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    Aligner.from_pretrained(expdir / "model")


# -- what is refused ------------------------------------------------------------------------------


class _Boom:
    def __reduce__(self):
        return (os._exit, (99,))


def listed(folder, name):
    """Put a file into config.json as its owner would, so that its hash does not give it away."""
    config = json.loads((folder / "config.json").read_text())
    path = folder / name
    config["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    (folder / "config.json").write_text(json.dumps(config))


def _pickled_weights(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps(_Boom()))
    listed(folder, "model.safetensors")


def _zipped_weights(folder):
    with zipfile.ZipFile(folder / "model.safetensors", "w") as bundle:
        bundle.writestr("archive/data.pkl", pickle.dumps(_Boom()))
    listed(folder, "model.safetensors")


def _garbage_weights(folder):
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    listed(folder, "model.safetensors")


def _text_weights_pickled(folder):
    (folder / "text/model.safetensors").write_bytes(pickle.dumps(_Boom()))
    listed(folder, "text/model.safetensors")


def _bin_beside(folder):
    (folder / "text/pytorch_model.bin").write_bytes(pickle.dumps(_Boom()))
    listed(folder, "text/pytorch_model.bin")


def _adapter(folder):
    config = {"peft_type": "LORA", "base_model_name_or_path": "someone/else"}
    (folder / "text/adapter_config.json").write_text(json.dumps(config))
    listed(folder, "text/adapter_config.json")


def _unlisted(folder):
    (folder / "text/vocab.txt").write_text("x")


def _truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _tampered(folder):
    path = folder / "labels.json"
    path.write_text(path.read_text().replace("kitchen", "kitchem"))


def _newer(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"version": 7}))


def _remote_code(folder):
    config = json.loads((folder / "text/config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}
    config["model_type"] = "evil"
    (folder / "text/config.json").write_text(json.dumps(config))
    listed(folder, "text/config.json")


@pytest.fixture(scope="module")
def packed(expdir, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "whole"
    assert pack(expdir, "--out", out, "--with_towers") == 0
    return out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_pickled_weights, "a pickle or zip under the name of safetensors"),
        (_zipped_weights, "a pickle or zip under the name of safetensors"),
        (_garbage_weights, "model.safetensors: broken"),
        (_text_weights_pickled, "text/model.safetensors: a pickle or zip"),
        (_bin_beside, "can run code"),
        (_adapter, "adapter_config.json: no file of a saved aligner"),
        (_unlisted, "vocab.txt: no file of a saved aligner"),
        (_truncated, "truncated or changed"),
        (_tampered, "labels.json: its sha256 is not"),
        (_newer, "format version 7"),
        (_remote_code, "cannot load the text encoder|not the one"),
    ],
)
def test_spoilt_folders_are_refused_in_one_line(packed, tmp_path, spoil, message):
    folder = tmp_path / "copy"
    shutil.copytree(packed, folder)
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        Aligner.from_pretrained(folder).encode_text(["yes"])
    assert "\n" not in str(caught.value)


# -- the hub --------------------------------------------------------------------------------------


class _Hub(BaseHTTPRequestHandler):
    """As much of a model hub as an upload needs: it keeps what it is sent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server, path = self.server, self.path.split("?")[0]
        server.asked.append((path, self.headers.get("Authorization", "")))
        if server.refuse:
            return self._reply(server.refuse, {"error": "no permission here"})
        if path == "/api/repos/create":
            name = json.loads(body)["name"]
            return self._reply(200, {"url": f"{server.url}/me/{name}", "name": f"me/{name}"})
        if path == "/api/validate-yaml":
            return self._reply(200, {"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            files = [
                {"path": entry["path"], "uploadMode": "regular", "shouldIgnore": False}
                for entry in json.loads(body)["files"]
            ]
            return self._reply(200, {"files": files})
        if path.endswith("/commit/main"):
            server.commit = [json.loads(line) for line in body.decode().splitlines()]
            url = f"{server.url}/me/rooms/commit/1234"
            return self._reply(200, {"success": True, "commitOid": "1234", "commitUrl": url})
        return self._reply(404, {"error": f"unknown {path}"})

    def do_GET(self):
        self._reply(200, {"id": "me/rooms", "sha": "0" * 40, "siblings": [], "private": False})

    def _reply(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.asked, server.commit, server.refuse = [], None, None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


UPLOADS = """
import sys
from speechcwcl.report.markdown import push
from speechcwcl.errors import UserError
for repo in sys.argv[2:]:
    try:
        print("done", push(sys.argv[1], repo))
    except UserError as error:
        print("error", error)
"""


def upload(url, folder, tmp_path, *repos):
    """In a process of its own: huggingface_hub reads its address when it is imported."""
    env = {**os.environ, "HF_ENDPOINT": url, "HF_TOKEN": "hf_secret", "HF_HOME": str(tmp_path)}
    env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", UPLOADS, str(folder), *repos],
        env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("done", "error"))]


def test_an_upload_sends_every_file(hub, packed, tmp_path):
    import base64

    lines = upload(hub.url, packed, tmp_path, "me/rooms", "not a name")
    assert lines[0].startswith("done") and "commit/1234" in lines[0]
    assert "error not a name: not the name of a hub repository" in lines[1]
    sent = {e["value"]["path"]: e["value"]["content"] for e in hub.commit if e["key"] == "file"}
    there = {p.relative_to(packed).as_posix() for p in packed.rglob("*") if p.is_file()}
    assert set(sent) == there
    weights = base64.b64decode(sent["model.safetensors"])
    assert weights == (packed / "model.safetensors").read_bytes()
    assert {token for _, token in hub.asked} == {"Bearer hf_secret"}


def test_a_hub_that_refuses_and_one_that_is_not_there(hub, packed, tmp_path):
    hub.refuse = 403
    (line,) = upload(hub.url, packed, tmp_path, "me/rooms")
    assert line.startswith("error me/rooms: cannot upload") and "hf auth login" in line
    hub.shutdown()
    hub.server_close()
    (line,) = upload(hub.url, packed, tmp_path, "me/rooms")
    assert line.startswith("error me/rooms: cannot upload") and "network" in line


def test_the_flag_reaches_the_upload(expdir, tmp_path, monkeypatch, capsys):
    sent = []
    monkeypatch.setattr(
        "speechcwcl.report.markdown.push", lambda *words: sent.append(words) or "URL"
    )
    assert pack(expdir, "--out", tmp_path / "o", "--push_to_hub", "me/rooms") == 0
    assert sent == [(tmp_path / "o", "me/rooms")] and "uploaded: URL" in capsys.readouterr().out
    assert 'from_pretrained("me/rooms")' in (tmp_path / "o/README.md").read_text()
