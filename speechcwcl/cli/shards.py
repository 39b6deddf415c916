"""Pack a set's audio into WebDataset tar shards, and write the manifest that reads from them.

OUT/shards/shard-000000.tar ... and OUT/manifest.jsonl, which serves wherever a manifest does. The
audio is stored as it is; segments of longer recordings are cut out as FLAC. Interrupted, the same
command goes on. Given a folder of shards (yours, copied to another place, or anybody's
WebDataset), only the manifest is written.

Example:
    speechcwcl shards dump/train/files/manifest.jsonl --out dump/train --nj 8
    speechcwcl shards /scratch/train/shards --out dump/train
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechcwcl.data.shards import write_manifest, write_shards
from speechcwcl.errors import require
from speechcwcl.files import read_json, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="a manifest.jsonl, or a folder of shards")
    parser.add_argument("--out", type=Path, required=True, help="the set's folder")
    parser.add_argument("--per_shard", type=int, default=1000, help="utterances in a shard")
    parser.add_argument("--nj", type=int, default=1, help="processes")


def run(args: argparse.Namespace) -> int:
    out = args.out / "manifest.jsonl"
    folder = args.source
    if not args.source.is_dir():
        require(args.source.exists(), f"{args.source}: no such manifest or folder of shards")
        require(
            not out.exists() or not out.samefile(args.source),
            f"{out}: the manifest of the shards would replace the one they are made from; "
            "choose another --out",
        )
        folder = args.out / "shards"
        made = write_shards(args.source, folder, per_shard=args.per_shard, nj=args.nj)
        size = sum(shard["bytes"] for shard in made)
        print(f"{folder}: {len(made)} shards, {size / 1e6:.1f} MB")
    summary = write_manifest(folder, out)
    card = args.source.parent / "corpus.json"
    if card.exists():
        write_json(args.out / "corpus.json", read_json(card))
    print(summary)
    return 0
