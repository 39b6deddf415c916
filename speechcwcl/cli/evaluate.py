"""Score speech embeddings: zero-shot under protocols, and speech-text retrieval.

Example:
    speechcwcl evaluate exp/cwcl --evals test_words:mini_words test_sentences:retrieval
    speechcwcl evaluate exp/cwcl --evals test:slurp_intent --probe train
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("expdir", type=Path, help="experiment folder")
    parser.add_argument(
        "--evals",
        nargs="+",
        required=True,
        metavar="SET:PROTOCOL",
        help="PROTOCOL: a name, a YAML file, or `retrieval`",
    )
    parser.add_argument("--dumpdir", type=Path, default=Path("dump"), help="manifests and caches")
    parser.add_argument("--model", help="a model folder; left out: EXPDIR/model")
    parser.add_argument(
        "--probe",
        metavar="SET",
        help="also a linear probe and few shots, with the labels of this set",
    )


def run(args: argparse.Namespace) -> int:
    from speechcwcl.evaluation.evals import evaluate_sets, parse_evals

    evals = parse_evals(args.evals)
    for line in evaluate_sets(args.expdir, evals, args.dumpdir, model=args.model, probe=args.probe):
        print(line)
    return 0
