"""Embed the utterances of sets with a trained model: ``expdir/eval/<set>/speech.npy``."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechcwcl.evaluation.evals import eval_folder, manifest_of
from speechcwcl.evaluation.results import write_embeddings
from speechcwcl.files import read_json
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.embed import embed_manifest, feature_cache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("expdir", type=Path, help="experiment folder; the results go here")
    parser.add_argument("--sets", nargs="+", required=True, help="names of sets under --dumpdir")
    parser.add_argument("--dumpdir", type=Path, default=Path("dump"), help="manifests and caches")
    parser.add_argument("--model", help="a model folder; left out: EXPDIR/model")
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, ...")


def run(args: argparse.Namespace) -> int:
    aligner = Aligner.from_pretrained(args.model or args.expdir / "model").to(args.device)
    for name in args.sets:
        manifest = manifest_of(args.dumpdir, name)
        encoder = aligner.speech_encoder
        cache = feature_cache(encoder, manifest, args.dumpdir / name) if encoder.cacheable else None
        speech = embed_manifest(aligner, manifest, cache, progress=f"embed {name}")
        folder = eval_folder(args.expdir, name)
        card = args.dumpdir / name / "corpus.json"
        corpus = read_json(card) if card.exists() else None
        write_embeddings(folder, manifest.ids, speech, corpus=corpus)
        print(f"{folder / 'speech.npy'}: {len(speech)} utterances")
    return 0
