"""Compile a data folder to `manifest.jsonl`, the only thing that training and evaluation read.

Durations are measured in `--nj` processes. Utterances shorter or longer than the limits are left
out, counted and listed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechcwcl.data.compiling import compile_manifest
from speechcwcl.files import read_json, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("datadir", type=Path, help="data folder")
    parser.add_argument("out", type=Path, help="the manifest to write")
    parser.add_argument("--nj", type=int, default=1, help="number of processes")
    parser.add_argument("--min_duration", type=float, default=0.1, help="least seconds")
    parser.add_argument("--max_duration", type=float, default=30.0, help="most seconds")
    parser.add_argument(
        "--skip_bad",
        action="store_true",
        help="leave unreadable audio out and list it, instead of stopping",
    )
    parser.add_argument(
        "--allow_pipe",
        action="store_true",
        help="run the commands in wav.scp, without a shell, and keep their audio beside OUT",
    )


def run(args: argparse.Namespace) -> int:
    summary = compile_manifest(
        args.datadir,
        args.out,
        nj=args.nj,
        min_duration=args.min_duration,
        max_duration=args.max_duration,
        skip_bad=args.skip_bad,
        allow_pipe=args.allow_pipe,
        bad_list=args.out.with_name("left_out.tsv"),
    )
    card = args.datadir / "corpus.json"
    if card.exists():  # travels with the manifest, so that reports can say what was heard
        write_json(args.out.with_name("corpus.json"), read_json(card))
    print(summary)
    return 0
