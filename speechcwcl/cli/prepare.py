"""Turn a corpus into data folders: wav.scp, text, utt2spk, [segments], [utt2label], corpus.json.

Example:
    speechcwcl prepare mini --out data
    speechcwcl prepare slurp --data /corpora/slurp --out data --splits train devel test
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechcwcl.corpora import CORPORA, get_corpus
from speechcwcl.errors import require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("corpus", help=f"one of: {', '.join(sorted(CORPORA))}")
    parser.add_argument("--out", type=Path, default=Path("data"), help="one folder a set goes here")
    parser.add_argument(
        "--data", type=Path, help="a copy that you have already; else it is fetched"
    )
    parser.add_argument(
        "--downloads", type=Path, default=Path("downloads"), help="where to fetch to"
    )
    parser.add_argument("--splits", nargs="*", help="which splits; all when left out")
    parser.add_argument(
        "--skip_bad",
        action="store_true",
        help="leave bad utterances out and list them, instead of stopping",
    )
    parser.add_argument(
        "--fake",
        type=Path,
        metavar="DIR",
        help="make a tiny copy in the corpus' true layout there, and prepare that",
    )


def run(args: argparse.Namespace) -> int:
    corpus = get_corpus(args.corpus)
    splits = args.splits or corpus.splits
    if args.fake:
        source = corpus.fake(args.fake)
    elif args.data:
        require(args.data.exists(), f"--data {args.data}: no such folder")
        source = args.data
    else:
        source = corpus.download(args.downloads / corpus.name, splits)
    for folder in corpus.prepare(source, args.out, splits, skip_bad=args.skip_bad):
        print(f"wrote {folder}")
    return 0
