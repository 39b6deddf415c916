"""Two real processes under torchrun (gloo), as --ngpu 2 starts them; then the model they made."""

import json
import subprocess
import sys

import pytest
import yaml

from speechcwcl.cli.main import main
from speechcwcl.corpora._layout import write_spoken
from speechcwcl.data.datadir import Utterance, write_datadir
from speechcwcl.data.manifest import compile_manifest
from speechcwcl.models.aligner import Aligner


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path, tiny_speech, tiny_text):
    words = ["on", "off", "up", "down", "left", "right", "stop", "go", "yes", "no", "one", "two"]
    utterances = []
    for word in words:
        write_spoken(tmp_path / f"{word}.wav", word, seconds=0.4)
        utterances.append(Utterance(word, str(tmp_path / f"{word}.wav"), word, "s"))
    data = write_datadir(tmp_path / "data", utterances, corpus={})
    manifest = tmp_path / "dump/train/manifest.jsonl"
    compile_manifest(data, manifest, progress=False)
    config = {"speech_encoder": str(tiny_speech), "text_encoder": str(tiny_text), "batch_size": 2}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**config, "epochs": 2, "threads": 1}))
    exp = tmp_path / "exp"
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            "-m", "speechcwcl.cli.main", "train", str(tmp_path / "c.yaml"), "--train",
            str(manifest), "--valid", "train:retrieval", "--expdir", str(exp), "--dumpdir",
            str(tmp_path / "dump"),
        ],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    epochs = [json.loads(line) for line in (exp / "metrics.jsonl").read_text().splitlines()]
    # twelve utterances in batches of two for two ranks: three steps an epoch
    assert [epoch["step"] for epoch in epochs] == [3, 6]
    assert main(["average", str(exp), "--best", "1"]) == 0
    assert Aligner.from_pretrained(exp / "model").dim == 24
