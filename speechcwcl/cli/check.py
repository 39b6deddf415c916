"""Check data folders: ids, texts, segments and labels; say what is wrong, by file and line."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechcwcl.data.kaldi import check_datadir
from speechcwcl.data.stream import check_stream
from speechcwcl.data.stream_spec import NAME, read_stream


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, help="data folders")
    parser.add_argument("--allow_pipe", action="store_true", help="accept commands in wav.scp")


def run(args: argparse.Namespace) -> int:
    for folder in args.folders:
        if (folder / NAME).exists():
            pieces = check_stream(read_stream(folder / NAME))
            print(f"{folder}: streamed, {pieces} piece(s); the first rows are sound")
            continue
        report = check_datadir(folder, allow_pipe=args.allow_pipe)
        report.problems.raise_if_any()
        print(report)
    return 0
