"""Average the weights of the best checkpoints and write the model folder `expdir/model`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("expdir", type=Path, help="experiment folder of a finished training")
    parser.add_argument(
        "--best", type=int, default=1, help="how many of the best checkpoints are averaged"
    )


def run(args: argparse.Namespace) -> int:
    from speechcwcl.training.run import average_run

    print(average_run(args.expdir, args.best))
    return 0
