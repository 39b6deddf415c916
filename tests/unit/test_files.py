"""The one store: whole or not at all, the umask's mode, kills swept, JSON of strangers read."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from speechcwcl import files
from speechcwcl.cache.embed import TextStore
from speechcwcl.cache.features import FeatureCache
from speechcwcl.errors import UserError
from speechcwcl.files import atomic_path, atomic_write, lock, read_json, replace_folder, write_json


@pytest.fixture(params=[0o022, 0o027, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder):
    """Name -> mode of every file and folder below, locks aside."""
    return {
        p.relative_to(folder).as_posix(): stat.S_IMODE(p.stat().st_mode)
        for p in folder.rglob("*")
        if "lock" not in p.name
    }


def test_everything_written_has_the_umasks_mode(umask, tmp_path, tiny_speech, tiny_text):
    """Feature files, text store, model folder with and without towers, data folder, shards."""
    from speechcwcl.corpora.base import write_spoken
    from speechcwcl.data.compiling import compile_manifest
    from speechcwcl.data.kaldi import write_datadir
    from speechcwcl.data.shards import write_shards
    from speechcwcl.data.utterance import Utterance
    from speechcwcl.models.aligner import Aligner

    torch.manual_seed(0)
    aligner = Aligner.build(tiny_speech, tiny_text)
    aligner.save_pretrained(tmp_path / "model", with_towers=True, card="# Card")
    store = TextStore.open(tmp_path / "text", aligner.text.hash)
    store.add(["yes"], aligner.text_encoder)
    write_spoken(tmp_path / "a.wav", "yes", seed=0)
    write_datadir(tmp_path / "data", [Utterance("u", str(tmp_path / "a.wav"), "yes")], corpus={})
    compile_manifest(tmp_path / "data", tmp_path / "dump/manifest.jsonl", progress=False)
    write_shards(tmp_path / "dump/manifest.jsonl", tmp_path / "shards", progress=False)

    class Manifest(list):
        durations, hash = np.ones(1), "m"

    FeatureCache.build(
        tmp_path / "feats",
        Manifest(["u"]),
        lambda us, _: [np.zeros((2, 3)) for _ in us],
        "key",
        progress=False,
    )
    found = modes(tmp_path)
    assert len(found) > 25
    wrong = {
        name: oct(mode)
        for name, mode in found.items()
        if mode != ((0o777 if (tmp_path / name).is_dir() else 0o666) & ~umask)
    }
    assert not wrong


def test_a_fetched_model_and_an_onnx_folder_too(umask, tmp_path, monkeypatch, tiny_speech):
    from speechcwcl.export import onnx, onnx_model
    from speechcwcl.models.weights import sources
    from speechcwcl.models.weights.catalogue import Source

    def build(found, folder):
        os.close(os.open(folder / "model.safetensors", os.O_CREAT | os.O_WRONLY, 0o600))

    source = Source("tiny", "speech", "t", "MIT", "a/tiny", (), build=build)
    monkeypatch.setitem(sources.SOURCES, "tiny", source)
    monkeypatch.setattr(sources, "collect", lambda *_: {})
    monkeypatch.setenv("SPEECHCWCL_CACHE", str(tmp_path))
    sources.fetch("tiny", offline=False)
    with replace_folder(tmp_path / "onnx", onnx.ours) as made:
        os.close(os.open(made / onnx_model.MODEL, os.O_CREAT | os.O_WRONLY, 0o600))
    assert {mode for name, mode in modes(tmp_path).items() if (tmp_path / name).is_file()} == {
        0o666 & ~umask
    }


KILLED = """
import os, signal, sys
from pathlib import Path
from speechcwcl.files import atomic_write, replace_folder
place = Path(sys.argv[1])
if sys.argv[2] == "file":
    with atomic_write(place / "hparams.json") as stream:
        stream.write("half")
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
with replace_folder(place / "model", lambda _: {"a"}) as made:
    (made / "a").write_text("new")
    if sys.argv[2] == "folder":
        os.kill(os.getpid(), signal.SIGKILL)
    rename = os.rename
    def dies(*names):
        rename(*names)
        os.kill(os.getpid(), signal.SIGKILL)
    os.rename = dies
"""


@pytest.mark.parametrize("kind", ["file", "folder", "between the renames"])
def test_what_a_kill_leaves_is_swept_by_the_next_run(kind, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), kind])
    assert done.returncode == -signal.SIGKILL
    left = [name for name in os.listdir(tmp_path) if name != "model"]
    assert len(left) == 1 and left[0].endswith(".cwcl-tmp")
    files._swept.discard(tmp_path)  # as in another process
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["model"]
    assert (tmp_path / "model" / "a").read_text() == "old"


def test_what_somebody_is_still_writing_is_not_swept(tmp_path, monkeypatch):
    code = (
        "import sys; from speechcwcl import files; files.sweep(sys.argv[1])\n"
        "with files.atomic_write(sys.argv[1] + '/other') as s: s.write('x')\n"
    )
    with (
        atomic_write(tmp_path / "one") as stream,
        replace_folder(tmp_path / "two", lambda _: ()) as made,
    ):
        stream.write("1")
        (made / "a").write_text("2")
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert (tmp_path / "one").read_text() == "1" and (tmp_path / "two/a").read_text() == "2"
    assert sorted(os.listdir(tmp_path)) == ["one", "other", "two"]


def test_a_file_of_the_users_that_looks_alike_stays(tmp_path):
    names = [".model.abcdefgh", ".packed.x1", "notes.tmp", ".hparams.json.12345678"]
    for name in names:
        (tmp_path / name).write_text("mine")
    write_json(tmp_path / "a.json", 1)
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "a.json"])


def test_many_writers_of_one_folder_leave_one_whole(tmp_path):
    def write(number):
        with replace_folder(tmp_path / "D", lambda _: {"a", "b"}) as made:
            for name in "ab":
                (made / name).write_text(str(number))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["D"]
    assert (tmp_path / "D/a").read_text() == (tmp_path / "D/b").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to play a full disk")
def test_a_full_disk_is_one_line_with_path_and_advice(tmp_path):
    import torch
    from safetensors.torch import save_file

    def python():
        with Path("/dev/full").open("w") as stream:
            stream.write("x")

    def saved_by_torch():
        torch.save({"a": torch.zeros(9)}, "/dev/full")

    def safetensors():
        save_file({"a": torch.zeros(9)}, "/no/such/folder/model.safetensors")

    for write in (python, saved_by_torch, safetensors):
        with pytest.raises(UserError) as caught, files.writing(tmp_path / "exp"):
            write()
        line = str(caught.value)
        assert line.startswith(f"{tmp_path / 'exp'}: cannot write: ") and "\n" not in line
        assert "free some space" in line


def test_errors_that_are_not_of_writing_pass(tmp_path):
    for error in (OSError("the source went away"), RuntimeError("shape"), ValueError("x")):
        with pytest.raises(type(error), match=str(error)), atomic_write(tmp_path / "a"):
            raise error
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        Path("/no/such/source").read_bytes()
    assert not os.listdir(tmp_path)


def test_a_name_that_is_no_text_and_one_that_is_too_long(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        write_json(tmp_path / "a\0b", 1)
    with pytest.raises(UserError, match="cannot write"), atomic_write(tmp_path / "a") as stream:
        stream.write("\udc80")
    long = "é" * 125
    write_json(tmp_path / f"{long}", 1)
    assert os.listdir(tmp_path) == [long]
    with pytest.raises(UserError, match="cannot write"):
        write_json(tmp_path / ("x" * 300), 1)


def test_a_lock_is_waited_for_once_and_goes_with_its_process(tmp_path):
    said = []
    code = (
        "import sys, time; from speechcwcl.files import lock\n"
        "with lock(sys.argv[1]): print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "l")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"

        def waiting():
            said.append("waiting")
            other.kill()

        with lock(tmp_path / "l", waiting):
            pass
    assert said == ["waiting"]

    def gives_up():
        raise UserError("busy")

    with lock(tmp_path / "l"), pytest.raises(UserError, match="busy"):
        subprocess_lock(tmp_path / "l", gives_up)


def subprocess_lock(path, waiting):
    """Another handle of the same process counts as another holder too, in a thread."""
    caught = []

    def run():
        try:
            with lock(path, waiting):
                pass
        except UserError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if caught:
        raise caught[0]


def test_a_lock_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), lock(tmp_path / "file" / "l"):
        pass


STRANGE = {
    "nested": "[" * 3000 + "]" * 3000,
    "objects": '{"a":' * 3000 + "1" + "}" * 3000,
    "long integer": "1" * 5000,
    "integer of 70 bits": "1180591620717411303424",
    "NaN": '{"a": NaN}',
    "infinity": "-Infinity",
    "overflow": "1e999",
    "half a character": '"\\ud800"',
    "cut": '{"a": [1',
    "empty": "",
    "words": "yes",
}


@pytest.mark.parametrize("name", STRANGE)
def test_json_of_strangers_is_one_line(tmp_path, name):
    path = tmp_path / "x.json"
    path.write_text(STRANGE[name])
    with pytest.raises(UserError, match="not valid JSON") as caught:
        read_json(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200 + len(str(path))


@pytest.mark.parametrize(
    ("kind", "text", "what"),
    [
        (dict, "[]", "holds a list, not a dict"),
        (list, "{}", "holds a dict, not a list"),
        (dict[str, int], '{"a": "b"}', "a: "),
        (dict[str, int], '{"a": true}', "a: "),
        (dict[str, list[str]], '{"a": ["b", 1]}', "a.1: "),
    ],
)
def test_json_of_another_shape_is_named(tmp_path, kind, text, what):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_json(path, kind)
    assert str(caught.value).startswith(f"{path}: {what}")


def test_json_that_is_sound_comes_back(tmp_path):
    path = tmp_path / "x.json"
    value = {"é\U0001f600": [1, -(2**63), 2**64 - 1, 1.5, None, True, {"b": []}]}
    write_json(path, value)
    assert read_json(path) == value == read_json(path, dict[str, list])
    path.write_text("\ufeff" + json.dumps(value))  # Notepad; and 😀 as a pair of escapes
    assert read_json(path) == value


def test_a_text_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "a").write_bytes(b"x\n\xff")
    (tmp_path / "big").write_bytes(b"x" * 101)
    for path, what in (("a", ":2: not UTF-8"), ("a\0", "cannot read"), ("", "cannot read")):
        with pytest.raises(UserError, match=what):
            files.read_text(tmp_path / path)
    with pytest.raises(UserError, match="larger than"):
        files.read_text(tmp_path / "big", limit=100)


def test_a_path_to_write_into(tmp_path):
    with atomic_path(tmp_path / "new" / "a") as temporary:
        temporary.write_text("x")
        assert not (tmp_path / "new" / "a").exists()
    assert (tmp_path / "new" / "a").read_text() == "x"
    assert os.listdir(tmp_path / "new") == ["a"]
