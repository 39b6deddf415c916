"""What a model folder may not do to who opens it: memory, time, links, tracebacks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speechcwcl.errors import UserError
from speechcwcl.files import sha256_file
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.folders import packed_protocols


@pytest.fixture(scope="module")
def saved(tiny_speech, tiny_text, tmp_path_factory):
    """A folder with towers."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved") / "model"
    protocols = {"p": {"labels": [["a", ["yes"]]], "templates": ["{}"]}}
    aligner = Aligner.build(tiny_speech, tiny_text)
    aligner.save_pretrained(folder, with_towers=True, protocols=protocols)
    return folder


@pytest.fixture(scope="module")
def light(tiny_speech, tiny_text, tmp_path_factory):
    """A folder without."""
    folder = tmp_path_factory.mktemp("light") / "model"
    Aligner.build(tiny_speech, tiny_text, freeze=1).save_pretrained(folder)
    return folder


def listed(folder, name):
    """Put a file into config.json as its owner would, so that its hash does not give it away."""
    config = json.loads((folder / "config.json").read_text())
    path = folder / name
    config["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    (folder / "config.json").write_text(json.dumps(config))


def changed(source, folder, name, keys, value):
    """A copy of a saved aligner with one value of one of its JSON files changed."""
    shutil.copytree(source, folder)
    content = json.loads((folder / name).read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (folder / name).write_text(json.dumps(content))
    if name != "config.json":
        listed(folder, name)
    return folder


HUGE = [
    ("config.json", ["projection"], {"hidden": [9_000_000]}),
    ("config.json", ["projection"], {"hidden": [10**12]}),
    ("config.json", ["projection"], {"hidden": [9_000_000] * 5}),
    ("config.json", ["pooling_options"], {"hidden": 9_000_000}),
    ("config.json", ["text", "dim"], 9_000_000),
    ("config.json", ["text", "dim"], 10**15),
    ("config.json", ["speech", "options", "lora"], {"r": 9_000_000}),
    ("config.json", ["speech", "options", "layers"], list(range(100_000))),
    ("speech/config.json", ["d_model"], 9_000_000),
    ("speech/config.json", ["encoder_layers"], 1_000_000),
    ("speech/config.json", ["encoder_ffn_dim"], 9_000_000),
    ("speech/config.json", ["num_mel_bins"], 9_000_000),
    ("speech/config.json", ["max_source_positions"], 9_000_000),
    ("speech/config.json", ["encoder_attention_heads"], 9_000_000),
    ("text/config.json", ["hidden_size"], 9_000_000),
    ("text/config.json", ["vocab_size"], 9_000_000),
    ("text/config.json", ["intermediate_size"], 9_000_000),
    ("text/config.json", ["num_hidden_layers"], 1_000_000),
]
OPEN = """
import resource, sys
from speechcwcl.errors import UserError
from speechcwcl.models.aligner import Aligner
Aligner.from_pretrained(sys.argv[1]).encode_text(["yes"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for folder in sys.argv[2:]:
    try:
        Aligner.from_pretrained(folder).encode_text(["yes"])
        print("opened", folder)
    except UserError as error:
        print("refused", str(error).replace(chr(10), "|"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_follows_the_weights_and_not_the_configuration(saved, light, tmp_path):
    """A config.json of 2 kB took 2.7 GB and half a minute."""
    folders = [
        changed(saved, tmp_path / str(number), *spoilt) for number, spoilt in enumerate(HUGE)
    ]
    for number, spoilt in enumerate(HUGE[:8]):
        folders.append(changed(light, tmp_path / f"light{number}", *spoilt))
    command = [sys.executable, "-c", OPEN, str(saved), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, grown = done.stdout.splitlines()
    for folder, line in zip(folders, lines, strict=True):
        assert line.startswith("refused") and str(folder) in line and "|" not in line, line
    assert int(grown) < 200_000, f"{grown} kB"


@pytest.mark.parametrize("name", ["text/vocab.txt", "text", "speech/config.json", "extra", "out"])
def test_a_link_is_refused(saved, tmp_path, name):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    place = folder / name
    if place.is_dir() or place.exists():
        shutil.move(place, tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.symlink_to("/" if name == "out" else "/etc/hostname")
    with pytest.raises(UserError, match=f"{place}: a link"):
        Aligner.from_pretrained(folder)


def test_a_snapshot_of_the_hubs_cache_is_links_and_opens(saved, tmp_path):
    folder = tmp_path / "models--me--rooms" / "snapshots" / "abc"
    blobs = tmp_path / "models--me--rooms" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(p for p in sorted(saved.rglob("*")) if p.is_file()):
        shutil.copyfile(path, blobs / str(number))
        link = folder / path.relative_to(saved)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    Aligner.from_pretrained(folder)
    (folder / "labels.json").unlink()
    (folder / "labels.json").symlink_to(saved / "labels.json")
    with pytest.raises(UserError, match="a link"):
        Aligner.from_pretrained(folder)


VALUES = [
    None, True, -1, 0, 1.5, "x", [[]], {"a": {}}, 2**63, float("nan"), "\0", "../../etc",
]  # fmt: skip
KEYS = [
    ("config.json", [key])
    for key in ("version", "dim", "speech", "text", "pooling", "pooling_options", "projection",
                "towers", "files", "speechcwcl", "model_type")
]  # fmt: skip
KEYS += [("config.json", ["speech", key]) for key in ("source", "hash", "options")]
KEYS += [("config.json", ["speech", "options", key]) for key in ("layers", "silence", "lora")]
KEYS += [("config.json", ["text", key]) for key in ("dim", "pooling", "max_tokens", "lower")]
KEYS += [("config.json", ["files", key]) for key in ("model.safetensors", "../x", "speech")]
KEYS += [("speech/config.json", [key]) for key in ("model_type", "d_model", "encoder_layers")]
KEYS += [("speech/preprocessor_config.json", [key]) for key in ("do_normalize", "feature_size")]
KEYS += [("labels.json", ["p"]), ("labels.json", ["p", "labels"]), ("labels.json", ["p", "x"])]


@pytest.mark.parametrize(("name", "keys"), KEYS, ids=lambda v: "".join(v))
def test_whatever_stands_in_a_configuration_is_one_line_or_opens(saved, tmp_path, name, keys):
    for number, value in enumerate(VALUES):
        folder = changed(saved, tmp_path / str(number), name, keys, value)
        try:
            Aligner.from_pretrained(folder)
            packed_protocols(folder)
        except UserError as error:
            assert "\n" not in str(error)
        shutil.rmtree(folder)


@pytest.mark.parametrize("text", ["[" * 3000, "9" * 5000, "[]", "null", '{"a": NaN}', "", "\xff"])
@pytest.mark.parametrize("name", ["config.json", "speech/config.json", "labels.json"])
def test_json_that_is_none_is_one_line(saved, tmp_path, name, text):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    (folder / name).write_text(text, encoding="latin-1")
    if name != "config.json":
        listed(folder, name)
    with pytest.raises(UserError) as caught:
        Aligner.from_pretrained(folder)
        packed_protocols(folder)
    assert "\n" not in str(caught.value)


def test_a_nul_in_the_path_is_one_line():
    with pytest.raises(UserError):
        Aligner.from_pretrained(str(Path("a\0b")))
