#!/usr/bin/env python3
"""Train from Python on a csv with the columns audio,text; then classify with what was trained.

python examples/train.py corpus/train.csv --work work --labels "turn on the light" "play music"
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import speechcwcl
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import write_datadir
from speechcwcl.data.utterance import Utterance

# Any key of a training YAML may stand here: speechcwcl/training/config.py lists them.
CONFIG = {
    "speech_encoder": "whisper-tiny.en",
    "freeze": "all",  # its output is computed once and cached; a head is trained on it
    "text_encoder": "all-MiniLM-L6-v2",
    "loss": "cwcl_matched",
    "batch_size": 256,
    "epochs": 8,
    "lr": 2e-3,
}


def manifest_of(table: Path, work: Path) -> Path:
    """The csv as a manifest: every recording is opened and measured."""
    with table.open(encoding="utf-8", newline="") as stream:
        utterances = [
            Utterance(f"{number:06d}", str((table.parent / row["audio"]).resolve()), row["text"])
            for number, row in enumerate(csv.DictReader(stream))
        ]
    data = write_datadir(work / "data/train", utterances, corpus={})
    manifest = work / "dump/train/manifest.jsonl"
    compile_manifest(data, manifest)
    return manifest


def train(table: Path, work: Path, labels: Sequence[str], **config: object) -> list[list[dict]]:
    """Train on the csv, then classify its first recordings by the labels."""
    manifest = manifest_of(table, work)
    run = speechcwcl.train(CONFIG | config, train=manifest, expdir=work / "exp")
    for epoch in run.metrics:
        print(f"epoch {epoch['epoch']}: loss {epoch['train']['loss']:.3f}")
    model = run.model()  # the best checkpoint, written to work/exp/model
    with table.open(encoding="utf-8", newline="") as stream:
        first = [table.parent / row["audio"] for row in csv.DictReader(stream)][:3]
    return model.classify(first, list(labels))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="csv with the columns audio,text")
    parser.add_argument("--work", type=Path, default=Path("work"), help="everything goes here")
    parser.add_argument("--labels", nargs="+", required=True)
    options = parser.parse_args()
    for answer in train(options.table, options.work, options.labels):
        print(answer[0]["label"], round(answer[0]["score"], 2))


if __name__ == "__main__":
    main()
