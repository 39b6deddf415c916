"""Which commands run.sh composes: slurm, torchrun, shards, --model; stand-ins note them down."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORPORA = sorted(p.parents[1].name for p in ROOT.glob("egs/*/cwcl1/run.sh"))
# the protocols that a recipe must score: the three zero-shot families; a recipe of yours: anything
FAMILIES = {
    name: {"slurp_intent", "stop_intent", "gsc_v2_35"}
    for name in ("librispeech", "commonvoice", "slurp", "stop", "speechcommands")
} | {"mini": {"mini_words", "mini_intents", "retrieval"}}
# `stage ... -- command` runs the command, as the real one does; anything else is only noted down.
SPEECHCWCL = """#!/bin/sh
if [ "$1" = stage ]; then
    while [ "$1" != -- ]; do shift; done
    shift
    exec "$@"
fi
printf '%s\\n' "speechcwcl $*" >> "$WORDS"
"""
# srun and torchrun note down their words and stop.
NOTE = """#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >> "$WORDS"
"""


@pytest.fixture
def commands(tmp_path):
    """A function that runs a recipe under stand-ins and returns the commands as lists of words."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (
        ("speechcwcl", SPEECHCWCL), ("srun", NOTE), ("torchrun", NOTE), ("python", NOTE),
    ):  # fmt: skip
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    # path.sh puts the repository's own environment first, so recipes run from a copy of them
    copy = tmp_path / "copy" / "egs"
    skip = shutil.ignore_patterns("data", "dump", "exp", "downloads", "corpus")
    shutil.copytree(ROOT / "egs", copy, ignore=skip)
    (copy.parent / "speechcwcl/assets/en-tiny").mkdir(parents=True)

    def run(*words, backend="local", corpus="slurp"):
        noted = tmp_path / "words.txt"
        noted.write_text("")
        environment = dict(
            os.environ, PATH=f"{tools}:{os.environ['PATH']}", WORDS=str(noted), CWCL_BACKEND=backend
        )
        done = subprocess.run(
            [str(copy / corpus / "cwcl1/run.sh"), "--train_config", "conf/x.yaml", *words],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [shlex.split(line) for line in noted.read_text().splitlines()]

    return run


def find(commands, *words):
    """The commands that hold these words one after the other."""
    text = " ".join(words)
    return [c for c in commands if f" {text} " in f" {' '.join(c)} "]


def option(command, name):
    return command[command.index(name) + 1]


def test_one_gpu_trains_without_torchrun(commands):
    (train,) = find(commands("--ngpu", "1"), "train", "conf/x.yaml")
    assert train[0] == "speechcwcl" and option(train, "--device") == "cuda:0"


def test_several_gpus_train_under_torchrun_and_leave_the_device_to_it(commands):
    found = commands("--ngpu", "4", "--train_args", "--lr 1e-4")
    (train,) = find(found, "train", "conf/x.yaml")
    assert train[:7] == [
        "torchrun", "--standalone", "--nproc_per_node", "4", "-m", "speechcwcl.cli.main", "train",
    ]  # fmt: skip
    assert "--device" not in train and option(train, "--lr") == "1e-4"
    assert option(train, "--train") == "dump/train/manifest.jsonl"
    (embed,) = find(found, "embed-speech")
    assert embed[0] == "speechcwcl" and option(embed, "--device") == "cuda:0"


def test_slurm_gets_one_task_with_the_gpus(commands):
    found = commands("--ngpu", "4", "--nj", "6", backend="slurm")
    (train,) = find(found, "train", "conf/x.yaml")
    assert train[0] == "srun" and option(train, "--gres") == "gpu:4"
    assert option(train, "--ntasks") == "1" and option(train, "--cpus-per-task") == "6"
    inner = train[train.index("torchrun") :]
    assert option(inner, "--nproc_per_node") == "4" and "train" in inner
    (embed,) = find(found, "embed-speech")
    assert embed[0] == "srun" and option(embed, "--gres") == "gpu:1"
    (prepare,) = find(found, "prepare", "slurp")
    assert prepare[0] == "srun" and "--gres" not in prepare
    assert all(c[0] == "srun" for c in find(found, "format"))


def test_slurm_without_a_gpu_asks_for_none(commands):
    found = commands(backend="slurm")
    (train,) = find(found, "train", "conf/x.yaml")
    assert train[0] == "srun" and "--gres" not in train
    assert option(train, "--device") == "cpu"


def test_an_unknown_backend_is_refused(commands):
    with pytest.raises(AssertionError, match="none of local, slurm"):
        commands(backend="sge")


def test_shards_stand_between_the_files_and_all_that_reads_them(commands):
    found = commands("--shards", "true", "--nj", "3")
    formats = find(found, "speechcwcl", "format")
    packs = find(found, "speechcwcl", "shards")
    assert len(formats) == len(packs) > 3
    for one, other in zip(formats, packs, strict=True):
        assert one[3] == other[2] and one[3].endswith("/files/manifest.jsonl")
        assert option(other, "--out") == str(Path(one[3]).parents[1])
        assert option(other, "--nj") == "3"
    (train,) = find(found, "train", "conf/x.yaml")
    assert option(train, "--train") == "dump/train/manifest.jsonl"
    assert not find(commands(), "speechcwcl", "shards")


def test_the_boxed_model_stands_beside_the_demos_in_the_report(commands):
    found = commands(corpus="mini")
    models = [option(command, "--model") for command in find(found, "embed-speech")]
    assert Path(models[-1]).name == "en-tiny"
    (report,) = find(found, "speechcwcl", "report")
    assert "exp/en-tiny" in report


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_given_model_is_scored_on_all_three_families(commands, corpus):
    found = commands("--model", "given/model", "--beside", "", corpus=corpus)
    for verb in ("train", "embed-text", "average"):
        assert not find(found, "speechcwcl", verb), verb
    (embed,) = find(found, "embed-speech")
    (score,) = find(found, "speechcwcl", "evaluate")
    (pack,) = find(found, "speechcwcl", "pack")
    assert {option(c, "--model") for c in (embed, score, pack)} == {"given/model"}
    pairs = [word.split(":") for word in score if ":" in word]
    assert pairs and FAMILIES.get(corpus, set()) <= {protocol for _, protocol in pairs}
    sets = {name for name, _ in pairs}
    assert sets == set(embed[embed.index("--sets") + 1 : embed.index("--dumpdir")])
    compiled = {c[2].removeprefix("data/") for c in find(found, "speechcwcl", "format")}
    assert compiled == sets, "no set is prepared that the model is not scored on"
