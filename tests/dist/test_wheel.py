"""A wheel outside any clone: everything is in it, and it answers."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from speechcwcl.corpora.base import write_spoken
from speechcwcl.errors import UserError
from speechcwcl.models.weights.sources import fetch


def run(*words, where, **options):
    # Neither this clone nor its environment may be found from there.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, words)), cwd=where, env=env, check=True, text=True,
        stdout=subprocess.PIPE, **options,
    ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(repository / name, source)
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(repository / "speechcwcl", source / "speechcwcl", ignore=skip)
    build = ["-m", "pip", "wheel", ".", "--no-deps", "-q", "-w", "dist"]
    if importlib.util.find_spec("wheel"):  # else pip fetches what builds one
        build.append("--no-build-isolation")
    run(sys.executable, *build, where=source)
    [path] = (source / "dist").glob("speechcwcl-*.whl")
    return path


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel(wheel, repository):
    package = repository / "speechcwcl"
    there = {
        path.relative_to(repository).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as bundle:
        packed = {name for name in bundle.namelist() if name.startswith("speechcwcl/")}
    assert there - packed == set()
    assert "speechcwcl/assets/en-tiny/model.safetensors" in packed


@pytest.mark.slow
def test_it_classifies_and_loads_in_a_fresh_environment(wheel, tmp_path):
    try:
        for name in ("whisper-tiny.en", "all-MiniLM-L6-v2"):
            fetch(name)
    except UserError as error:
        pytest.skip(str(error))
    run(sys.executable, "-m", "venv", "--without-pip", "env", where=tmp_path)
    python = tmp_path / "env/bin/python"
    install = ["--python", python, "install", "--no-deps", "--no-index", "-q", wheel]
    run(sys.executable, "-m", "pip", *install, where=tmp_path)
    # What it requires is here already: a path is enough, and nothing is downloaded.
    [own] = (tmp_path / "env/lib").glob("python*/site-packages")
    others = {p for p in sys.path if p.endswith("site-packages")} | {sysconfig.get_path("purelib")}
    (own / "others.pth").write_text("\n".join(sorted(others)))
    write_spoken(tmp_path / "a.wav", "turn on the light", seconds=1.0)
    code = (
        "import speechcwcl; model = speechcwcl.load(); print(speechcwcl.__file__);"
        "print(model.encode_speech(['a.wav']).shape)"
    )
    place, shape = run(python, "-c", code, where=tmp_path).splitlines()
    assert Path(place).is_relative_to(own) and shape == "(1, 384)"
    labels = ["--labels", "turn on the light;play music", "--format", "json"]
    printed = run(tmp_path / "env/bin/speechcwcl", "classify", *labels, "a.wav", where=tmp_path)
    ranking = json.loads(printed)["labels"]
    assert {entry["label"] for entry in ranking} == {"turn on the light", "play music"}
