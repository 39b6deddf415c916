"""Embed the utterances of sets with a trained model: `expdir/eval/<set>/speech.npy`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("expdir", type=Path, help="experiment folder; the results go here")
    parser.add_argument("--sets", nargs="+", required=True, help="names of sets under --dumpdir")
    parser.add_argument("--dumpdir", type=Path, default=Path("dump"), help="manifests and caches")
    parser.add_argument("--model", help="a model folder; left out: EXPDIR/model")
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, ...")


def run(args: argparse.Namespace) -> int:
    from speechcwcl.evaluation.evals import embed_set, eval_folder
    from speechcwcl.models.aligner import Aligner

    aligner = Aligner.from_pretrained(args.model or args.expdir / "model", device=args.device)
    for name in args.sets:
        speech = embed_set(aligner, args.expdir, args.dumpdir, name)
        print(f"{eval_folder(args.expdir, name) / 'speech.npy'}: {len(speech)} utterances")
    return 0
