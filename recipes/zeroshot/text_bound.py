#!/usr/bin/env python3
"""Measure the text upper bound of protocols: the true words, classified by the frozen text encoder.

No speech is involved: what is wrong here is the label wording (or the corpus' labels), never the
alignment. Prints rows of a Markdown table. Sets are given as

    slurp:FILE.jsonl       sentences of SLURP's annotations
    slurp_rec:FILE.jsonl   the same, one row a recording
    topv2:FOLDER:SPLIT     sentences of TOPv2, which STOP reads aloud
    words:LIST.txt         a list of Speech Commands
    data:FOLDER            a data folder with text

Example:
    python recipes/zeroshot/text_bound.py --encoder all-MiniLM-L6-v2 --protocol slurp_intent \
        --set slurp:devel.jsonl --wording names first all --store exp/text
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from speechcwcl.cache.embed import TextStore
from speechcwcl.corpora.slurp import read_sentences
from speechcwcl.corpora.stop import read_topv2
from speechcwcl.data.kaldi import read_datadir
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, require
from speechcwcl.evaluation.scores import score_zeroshot
from speechcwcl.models.text_side import TextEncoder
from speechcwcl.zeroshot.protocol import Protocol, load_protocol, load_templates

WORDINGS = {
    "names": "the label ids as words",
    "first": "the first text of each class",
    "all": "all texts of each class",
}


def read_set(spec: str) -> list[Utterance]:
    """The utterances (text and labels, no audio) that a `--set` names."""
    kind, _, place = spec.partition(":")
    if kind in ("slurp", "slurp_rec"):
        problems, found = Problems(), []
        for number, entry in read_sentences(Path(place), problems):
            scenario, action = entry["scenario"], entry["action"]
            labels = {"label": f"{scenario}_{action}", "scenario": scenario, "action": action}
            for copy in range(len(entry["recordings"]) if kind == "slurp_rec" else 1):
                key = f"{number}-{copy}"
                found.append(Utterance(key, "", entry["sentence"], labels=labels))
        problems.raise_if_any()
        return found
    if kind == "topv2":
        folder, _, split = place.rpartition(":")
        rows = enumerate(read_topv2(Path(folder), split))
        return [
            Utterance(str(i), "", text, labels={"label": intent, "domain": domain})
            for i, (domain, text, intent) in rows
        ]
    if kind == "words":
        words = [line.split("/")[0] for line in Path(place).read_text().split()]
        return [Utterance(str(i), "", w, labels={"label": w}) for i, w in enumerate(words)]
    require(kind == "data", f"--set {spec}: begin with slurp:, slurp_rec:, topv2:, words: or data:")
    return read_datadir(place)


def drawn(utterances: list[Utterance], limit: int) -> list[Utterance]:
    """`limit` of them, the same whatever their order: those whose text hashes lowest."""
    ranked = sorted(utterances, key=lambda u: (sha256(u.text.encode()).digest(), u.id))
    return ranked[:limit] if limit else utterances


def worded(protocol: Protocol, wording: str) -> Protocol:
    """The protocol with the label texts of a wording."""
    if wording == "all":
        return protocol
    texts = {
        label: (label.strip("_").replace("_", " ").lower() if wording == "names" else texts[0],)
        for label, texts in protocol.labels.items()
    }
    return replace(protocol, labels=texts)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", nargs="+", default=["all-MiniLM-L6-v2"])
    parser.add_argument("--protocol", nargs="+", required=True, help="names or YAML files")
    parser.add_argument("--set", nargs="+", required=True, dest="sets", metavar="KIND:PLACE")
    parser.add_argument("--wording", nargs="+", default=["all"], choices=WORDINGS)
    parser.add_argument("--templates", help="name or file; the protocol's own when left out")
    parser.add_argument("--limit", type=int, default=0, help="only so many sentences of a set")
    parser.add_argument("--store", type=Path, default=Path("exp/text"), help="embeddings kept here")
    args = parser.parse_args()
    print("| protocol | set | n | encoder | wording | top-1 | 95 % | macro-F1 | protocol hash |")
    print("|---|---|---|---|---|---|---|---|---|")
    for source in args.encoder:
        encoder = TextEncoder.from_pretrained(source)
        store = TextStore.open(args.store, encoder.hash)

        def encode(texts: list[str], store=store, encoder=encoder) -> np.ndarray:
            store.add(texts, encoder)
            return store.lookup(texts)

        for spec in args.sets:
            utterances = drawn(read_set(spec), args.limit)
            speech = encode([u.text for u in utterances])
            for name in args.protocol:
                for wording in args.wording:
                    protocol = worded(load_protocol(name), wording)
                    if args.templates:
                        protocol = replace(protocol, templates=load_templates(args.templates))
                    scores = score_zeroshot(speech, utterances, protocol, encode).scores
                    low, high = scores["top1_interval"]
                    kind, _, place = spec.partition(":")
                    print(
                        f"| {name} | {kind} {Path(place).name} | {scores['n']:,} | {source} |"
                        f" {wording} | {scores['top1']:.1%} | {low:.1%} to {high:.1%} |"
                        f" {scores['macro_f1']:.1%} | {protocol.hash[:12]} |",
                        flush=True,
                    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
