"""Score speech embeddings: zero-shot under protocols, and speech-text retrieval.

Example:
    speechcwcl evaluate exp/cwcl --evals test_words:mini_words test_sentences:retrieval
    speechcwcl evaluate exp/cwcl --evals test:slurp_intent --probe train
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechcwcl.cli.probing import Prober
from speechcwcl.errors import require
from speechcwcl.evaluation.evals import (
    RETRIEVAL,
    eval_folder,
    manifest_of,
    parse_evals,
    read_protocol,
)
from speechcwcl.evaluation.results import read_embeddings
from speechcwcl.evaluation.retrieval import evaluate_retrieval
from speechcwcl.evaluation.zeroshot import evaluate_zeroshot
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.text_store import FOLDER, stored_encoder


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
    aligner = Aligner.from_pretrained(args.model or args.expdir / "model")
    encode_text = stored_encoder(aligner, args.dumpdir / FOLDER)
    prober = None
    if args.probe:
        prober = Prober(aligner, args.expdir, args.dumpdir, args.probe, encode_text)
    for name, word in parse_evals(args.evals):
        protocol = read_protocol(word)
        utterances = list(manifest_of(args.dumpdir, name))
        folder = eval_folder(args.expdir, name)
        require(
            (folder / "speech.npy").exists(),
            f"{folder / 'speech.npy'}: no embeddings of this "
            "set yet; run `speechcwcl embed-speech` (stage 7)",
        )
        ids, speech = read_embeddings(folder)
        require(
            ids == [u.id for u in utterances],
            f"{folder}: the embeddings are of another manifest; run stage 7 again",
        )
        if protocol is None:
            texts = [u.text for u in utterances]
            out = evaluate_retrieval(speech, texts, encode_text, folder / RETRIEVAL, ids=ids)
            print(f"{name}: speech -> text R@1 {100 * out['speech_to_text']['R@1']:.1f} %")
        else:
            out = evaluate_zeroshot(
                speech, utterances, protocol, encode_text, folder / protocol.name
            )
            print(f"{name}: {protocol.name} top-1 {100 * out['top1']:.1f} %")
            if prober:
                print(prober.run(name, protocol))
    return 0
