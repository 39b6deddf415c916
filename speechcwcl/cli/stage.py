"""Run one stage of a recipe, once.

The command follows `--`. The stamp holds a hash of the command and of its inputs, and the
state of the outputs. When all that still holds, the stage is skipped and says so; else the command
runs, its output goes to the terminal and to the log, and the stamp is written only when it
succeeded.

Example:
    speechcwcl stage --name "stage 2: format train" --stamp exp/a/stamps/2.train \\
        --log exp/a/logs/2.train.log --inputs data/train --outputs dump/train/manifest.jsonl \\
        -- speechcwcl format data/train dump/train
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechcwcl.stages import run_stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="what to print before the command")
    parser.add_argument("--stamp", required=True, type=Path, help="the stamp file")
    parser.add_argument("--log", required=True, type=Path, help="where the output is kept")
    parser.add_argument("--inputs", nargs="*", default=[], help="files and folders read")
    parser.add_argument("--outputs", nargs="*", default=[], help="files and folders written")


def run(args: argparse.Namespace) -> int:
    return run_stage(
        args.name,
        args.rest,
        stamp=args.stamp,
        log=args.log,
        inputs=args.inputs,
        outputs=args.outputs,
    )
