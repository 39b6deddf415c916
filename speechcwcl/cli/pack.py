"""Put a trained model into one folder to share: safetensors, plain JSON, label texts, model card.

Opening the folder runs no code from it. The label texts are those of the
protocols that the run was scored under; `speechcwcl classify --protocol NAME` finds them in the
folder. The card is made from the run: results, corpora with their licences, command, versions,
citation.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("expdir", type=Path, help="experiment folder")
    parser.add_argument("--out", type=Path, help="the folder to write; left out: EXPDIR/packed")
    parser.add_argument("--model", type=Path, help="a model folder; left out: EXPDIR/model")
    parser.add_argument(
        "--results", type=Path, help="a RESULTS.md for the card; left out: the run's own scores"
    )
    parser.add_argument(
        "--dumpdir", type=Path, default=Path("dump"), help="where the sets' corpus.json are"
    )
    parser.add_argument(
        "--licence", default="other", help="licence of the trained weights, as model hubs write it"
    )
    parser.add_argument("--push_to_hub", metavar="REPO", help="upload the folder to this hub repo")
    parser.add_argument(
        "--with_towers",
        action="store_true",
        help="put the frozen encoders in too, so that nothing is fetched",
    )


def run(args: argparse.Namespace) -> int:
    from speechcwcl.report.card import Sharing, pack, push

    out = args.out or args.expdir / "packed"
    sharing = Sharing(args.licence, args.push_to_hub, args.with_towers, args.results)
    size = pack(args.expdir, out, args.dumpdir, sharing, args.model)
    print(f"packed: {out} ({size / 1e6:.1f} MB)")
    if args.push_to_hub:
        print(f"uploaded: {push(out, args.push_to_hub)}")
    return 0
