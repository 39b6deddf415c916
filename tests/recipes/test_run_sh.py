"""Every run.sh, stages 1 to 10, on a fake of its corpus with tiny towers; then again, skipping."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import yaml
from test_cluster import FAMILIES

from speechcwcl.corpora import get_corpus

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.parent for path in ROOT.glob("egs/*/cwcl1/run.sh"))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The script of a `speechcwcl` that is imported once for all tests of this file.

    Beside it lies a copy of the recipes: those here would take the command of this checkout.
    """
    folder = tmp_path_factory.mktemp("quick")
    made = shutil.ignore_patterns("exp", "dump", "data", "downloads")
    shutil.copytree(ROOT / "egs", folder / "repo/egs", symlinks=True, ignore=made)
    for name in ("speechcwcl", "recipes", "tools"):
        (folder / "repo" / name).symlink_to(ROOT / name)
    with forked.speechcwcl(folder) as script:
        yield script


def command(recipe, root, *words, tool=None):
    """The words and the environment that run a recipe with all its output under `root`."""
    tools = root / "bin"
    tools.mkdir(exist_ok=True)
    script = tools / "speechcwcl"
    if tool:
        recipe = tool.parent / "repo" / recipe.relative_to(ROOT)
        script.unlink(missing_ok=True)
        script.symlink_to(tool)
        # that of a recipe's own local/data.sh, which path.sh finds in a checkout with a .venv
        (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (tools / "python").chmod(0o755)
    else:
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m speechcwcl.cli.main "$@"\n')
        script.chmod(0o755)
    environment = dict(os.environ, PATH=f"{tools}:{os.environ['PATH']}")
    words = [
        str(recipe / "run.sh"), "--datadir", str(root / "data"), "--dumpdir", str(root / "dump"),
        "--expdir", str(root / "exp"), "--beside", "", *words,
    ]  # fmt: skip
    return words, environment


def run(recipe, root, *words, tool=None, timeout=600):
    """Run a recipe with all its output under `root`."""
    words, environment = command(recipe, root, *words, tool=tool)
    return subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=timeout, cwd=root
    )


@pytest.fixture
def tiny_config(tmp_path, tiny_speech, tiny_text):
    """A training YAML for the tiny towers."""
    path = tmp_path / "conf" / "tiny.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({
        "speech_encoder": str(tiny_speech), "text_encoder": str(tiny_text), "frame_stride": 2,
        "projection": {"hidden": [16]}, "batch_size": 8, "epochs": 2, "threads": 1,
    }), encoding="utf-8")  # fmt: skip
    return path


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_stages_1_to_10_and_then_nothing_to_do(recipe, tmp_path, tiny_config, quick):
    options = [
        "--train_config", str(tiny_config), "--data_args", f"--fake {tmp_path / 'fake'}",
        "--nj", "1", "--min_duration", "0.05",
    ]  # fmt: skip
    first = run(recipe, tmp_path, *options, tool=quick)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    exp = tmp_path / "exp"
    for name in ("report.html", "RESULTS.md", "tiny/packed/README.md", "tiny/metrics.jsonl"):
        assert (exp / name).stat().st_size > 100, name
    scored = {path.parent.name for path in exp.glob("tiny/eval/*/*/scores.json")}
    assert scored and FAMILIES.get(recipe.parent.name, set()) <= scored
    assert "top-1" in first.stdout or "R@1" in first.stdout

    again = run(recipe, tmp_path, *options, tool=quick)
    assert again.returncode == 0, again.stderr
    stages = [line for line in again.stdout.splitlines() if line.startswith("stage ")]
    assert len(stages) >= 8
    assert all("nothing changed; skipped" in line for line in stages), again.stdout


def test_a_streamed_training_set_goes_through_all_stages(tmp_path, tiny_config, quick):
    options = [
        "--train_config", str(tiny_config), "--nj", "1", "--train_args", "--steps_per_epoch 3",
        "--data_args", f"--fake {tmp_path / 'fake'} --stream train",
    ]  # fmt: skip
    first = run(ROOT / "egs/huggingface/cwcl1", tmp_path, *options, tool=quick)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert "stage 2: format train: nothing to do" in first.stdout
    assert "--train " + str(tmp_path / "data/train/stream.json") in first.stdout
    card = (tmp_path / "exp/tiny/packed/README.md").read_text()
    assert "| train | training | huggingface |" in card
    assert (
        not list(tmp_path.glob("data/audio/train"))
        and not (tmp_path / "dump/train/manifest.jsonl").exists()
    )
    again = run(ROOT / "egs/huggingface/cwcl1", tmp_path, *options, tool=quick)
    stages = [line for line in again.stdout.splitlines() if line.startswith("stage ")]
    assert all("skipped" in line or "nothing to do" in line for line in stages), again.stdout


def test_a_given_model_is_evaluated_from_shards_without_training(tmp_path, tiny_config, quick):
    recipe = ROOT / "egs/mini/cwcl1"
    options = ["--train_config", str(tiny_config), "--data_args", f"--fake {tmp_path / 'fake'}"]
    done = run(recipe, tmp_path, *options, "--stop_stage", "6", tool=quick)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    model = tmp_path / "exp/tiny/model"
    options += ["--model", str(model), "--expdir", str(tmp_path / "e2"), "--shards", "true"]
    done = run(recipe, tmp_path, *options, tool=quick)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "stage 5" not in done.stdout
    assert (tmp_path / "e2/report.html").exists()
    assert "shard-000000.tar::" in (tmp_path / "dump/test_words/manifest.jsonl").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stages", "3"], "no option --stages"),
        (["--stage"], "--stage needs a value"),
        (["3"], "what is '3'?"),
    ],
)
def test_wrong_options_are_refused(tmp_path, words, message):
    done = run(ROOT / "egs/mini/cwcl1", tmp_path, *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_help_shows_every_option_with_its_default(tmp_path):
    done = run(ROOT / "egs/mini/cwcl1", tmp_path, "--help")
    assert done.returncode == 0
    assert "--stop_stage 10" in done.stdout and "--train_config" in done.stdout


def test_a_value_is_never_evaluated(tmp_path):
    done = run(ROOT / "egs/mini/cwcl1", tmp_path, "--tag", "$(touch pwned)", "--stage", "12")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "pwned").exists()


def test_bad_data_stops_with_one_line_and_code_2(tmp_path, tiny_config):
    broken = tmp_path / "broken"
    (broken / "audio").mkdir(parents=True)
    (broken / "segments.tsv").write_text("id\tfile\n")
    done = run(ROOT / "egs/mini/cwcl1", tmp_path, "--data_args", f"--data {broken}")
    assert done.returncode == 2
    assert "segments.tsv:1: no column 'start'; it has id, file" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "data/train").exists()


def ran(done):
    """The names of the stages that ran, not those that were skipped."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("stage ")]
    return {line for line in lines if "skipped" not in line and "nothing to do" not in line}


def test_what_is_lost_or_edited_is_made_again_and_nothing_else(tmp_path, tiny_config, quick):
    """Outputs that are gone or cut, and an edit in the user's own copy of the corpus."""
    get_corpus("mini").fake(tmp_path / "mine")
    own = tmp_path / "own.yaml"
    own.write_text((ROOT / "speechcwcl/zeroshot/protocols/mini_words.yaml").read_text())
    options = [
        "--train_config", str(tiny_config), "--data_args", f"--data {tmp_path / 'mine'}", "--nj",
        "1", "--stop_stage", "8", "--valid_evals", "valid_words:retrieval", "--test_evals",
        f"test_words:{own}",
    ]  # fmt: skip
    recipe, exp = ROOT / "egs/mini/cwcl1", tmp_path / "exp/tiny"
    first = run(recipe, tmp_path, *options, tool=quick)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]

    (exp / "eval/test_words/speech.npy").unlink()
    model = exp / "model/model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    (tmp_path / "data/test_words/text").unlink()
    again = run(recipe, tmp_path, *options, tool=quick)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    # embeddings and scores come out as they were, so nothing that reads them runs
    assert ran(again) == {"stage 1: data mini", "stage 6: average", "stage 7: embed speech"}
    own.write_text(own.read_text().replace('stop: "stop"', 'stop: "halt"'))
    assert ran(run(recipe, tmp_path, *options, tool=quick)) == {"stage 8: score"}

    table = tmp_path / "mine/segments.tsv"
    rows = table.read_text().splitlines()
    rows.remove(next(row for row in rows if "\ttrain\t" in row))
    table.write_text("\n".join(rows) + "\n")
    edited = run(recipe, tmp_path, *options, tool=quick)
    assert {"stage 1: data mini", "stage 5: train"} <= ran(edited) and edited.returncode == 2
    assert "training set" in edited.stdout and "whose content is another one now" in edited.stdout
