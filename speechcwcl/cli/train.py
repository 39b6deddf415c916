"""Train the speech side against the frozen text embeddings. An interrupted training resumes.

Any key of the YAML can be overridden: `--lr 1e-4 --loss clip`.

A set that does not fit on the disk is streamed: `speechcwcl prepare huggingface --stream SET` and
`speechcwcl shards --stream` write its stream.json.

Example:
    speechcwcl train conf/cwcl.yaml --train dump/train/manifest.jsonl \\
        --valid valid_words:mini_words_valid --expdir exp/cwcl
    speechcwcl train conf/cwcl.yaml --train data/train/stream.json --steps_per_epoch 1000 \\
        --valid validation:retrieval --expdir exp/streamed
"""

from __future__ import annotations

import argparse
from pathlib import Path

TAKES_KEYS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="training YAML")
    parser.add_argument(
        "--train",
        type=Path,
        required=True,
        help="the training set: a manifest.jsonl, or a stream.json that is read as training "
        "goes (needs --steps_per_epoch N)",
    )
    parser.add_argument(
        "--valid",
        nargs="+",
        required=True,
        metavar="SET:PROTOCOL",
        help="what chooses the checkpoints; PROTOCOL may be `retrieval`",
    )
    parser.add_argument("--expdir", type=Path, required=True, help="experiment folder")
    parser.add_argument("--dumpdir", type=Path, default=Path("dump"), help="manifests and caches")
    parser.add_argument("--device", help="cpu, cuda:0, ...; left out: a GPU when there is one")


def run(args: argparse.Namespace) -> int:
    from speechcwcl.training.config import load_config, parse_overrides
    from speechcwcl.training.run import train

    train(
        load_config(args.config, parse_overrides(args.rest)),
        train=args.train,
        valid=args.valid,
        expdir=args.expdir,
        dumpdir=args.dumpdir,
        device=args.device,
    )
    return 0
