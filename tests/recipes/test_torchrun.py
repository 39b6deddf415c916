"""Two real processes under torchrun (gloo), as --ngpu 2 starts them; then the model they made."""

import json
import subprocess
import sys

import pytest
import yaml

from speechcwcl.cli.main import main
from speechcwcl.corpora.base import write_spoken
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import Utterance, write_datadir
from speechcwcl.models.aligner import Aligner


# the second one saves after every step: more checkpoints than are kept, of both kinds
@pytest.mark.slow
@pytest.mark.parametrize(("interval", "epochs"), [(0, 2), (1, 8)])
def test_two_processes_train_one_model(tmp_path, tiny_speech, tiny_text, interval, epochs):
    words = ["on", "off", "up", "down", "left", "right", "stop", "go", "yes", "no", "one", "two"]
    utterances = []
    for word in words:
        write_spoken(tmp_path / f"{word}.wav", word, seconds=0.4)
        utterances.append(Utterance(word, str(tmp_path / f"{word}.wav"), word, "s"))
    data = write_datadir(tmp_path / "data", utterances, corpus={})
    manifest = tmp_path / "dump/train/manifest.jsonl"
    compile_manifest(data, manifest, progress=False)
    config = {"speech_encoder": str(tiny_speech), "text_encoder": str(tiny_text), "batch_size": 2}
    config |= {"epochs": epochs, "ckpt_interval_steps": interval, "keep_checkpoints": 1}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**config, "threads": 1}))
    exp = tmp_path / "exp"
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            "-m", "speechcwcl.cli.main", "train", str(tmp_path / "c.yaml"), "--train",
            str(manifest), "--valid", "train:retrieval", "--expdir", str(exp), "--dumpdir",
            str(tmp_path / "dump"),
        ],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (exp / "metrics.jsonl").read_text().splitlines()]
    # twelve utterances in batches of two for two ranks: three steps an epoch
    assert [line["step"] for line in lines] == [3 * epoch for epoch in range(1, epochs + 1)]
    assert "destroy_process_group" not in done.stderr  # it was ended in order
    assert main(["average", str(exp), "--best", "1"]) == 0
    assert Aligner.from_pretrained(exp / "model").dim == 24
