"""Pack a set's audio into WebDataset tar shards, and write the manifest that reads from them.

It writes OUT/shards/shard-000000.tar ... and OUT/manifest.jsonl, which serves wherever a manifest
does. The audio is stored as it is; segments of longer recordings are cut out as FLAC. The same
command resumes after an interruption. From a folder of shards (yours, copied to another place, or
anybody's WebDataset), only the manifest is written. With --stream the shards stay where they are,
on the disk or the web (http, https and hf URLs): OUT/stream.json is written, and `speechcwcl train
--train OUT/stream.json` reads them as it goes.

Example:
    speechcwcl shards dump/train/files/manifest.jsonl --out dump/train --nj 8
    speechcwcl shards /scratch/train/shards --out dump/train
    speechcwcl shards --stream "https://host/train-{000000..000999}.tar" --out data/train
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechcwcl.data.shards import write_manifest, write_shards
from speechcwcl.data.stream import write_streamed
from speechcwcl.data.stream_spec import NAME, StreamSpec
from speechcwcl.errors import require
from speechcwcl.files import read_json, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="+",
        help="a manifest.jsonl, or a folder of shards; with --stream a folder, or paths and URLs",
    )
    parser.add_argument("--out", type=Path, required=True, help="the set's folder")
    parser.add_argument("--per_shard", type=int, default=1000, help="utterances in a shard")
    parser.add_argument("--nj", type=int, default=1, help="number of processes")
    parser.add_argument(
        "--stream", action="store_true", help="write OUT/stream.json for training, copy nothing"
    )
    parser.add_argument(
        "--shuffle",
        type=int,
        default=StreamSpec().shuffle,
        help="with --stream: clips that each rank holds in memory and mixes",
    )


def run(args: argparse.Namespace) -> int:
    if args.stream:
        return stream(args)
    require(
        len(args.source) == 1,
        f"{args.source[-1]}: one source at a time; several with --stream only",
    )
    source = Path(args.source[0])
    out = args.out / "manifest.jsonl"
    folder = source
    if not source.is_dir():
        require(source.exists(), f"{source}: no such manifest or folder of shards")
        require(
            not out.exists() or not out.samefile(source),
            f"{out}: the manifest of the shards would replace the one they are made from; "
            "choose another --out",
        )
        folder = args.out / "shards"
        made = write_shards(source, folder, per_shard=args.per_shard, nj=args.nj)
        size = sum(shard["bytes"] for shard in made)
        print(f"{folder}: {len(made)} shards, {size / 1e6:.1f} MB")
    summary = write_manifest(folder, out)
    card = source.parent / "corpus.json"
    if card.exists():
        write_json(args.out / "corpus.json", read_json(card))
    print(summary)
    return 0


def stream(args: argparse.Namespace) -> int:
    """Write the set's `stream.json`."""
    for word in args.source:
        require(
            not word.endswith(".jsonl"),
            f"{word}: a manifest; pack it first (the same command without --stream), then stream "
            "the folder of shards",
        )
    shards = [word if "://" in word else str(Path(word).resolve()) for word in args.source]
    spec = StreamSpec(shards=shards, shuffle=args.shuffle)
    folder = write_streamed(args.out, spec, {"name": args.out.name, "title": args.source[0]})
    print(f"wrote {folder / NAME}: train --train {folder / NAME} --steps_per_epoch N")
    return 0
