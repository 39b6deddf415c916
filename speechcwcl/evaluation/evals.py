"""``set:protocol`` pairs, as `--evals` and `--valid` take them, and what is done with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import require
from speechcwcl.evaluation.retrieval import retrieval_scores
from speechcwcl.evaluation.zeroshot import accuracy, build_classifier, targets
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.embed import embed_manifest, feature_cache
from speechcwcl.models.text_store import FOLDER, stored_encoder
from speechcwcl.zeroshot.protocol import Protocol, load_protocol

RETRIEVAL = "retrieval"


def parse_evals(pairs: list[str]) -> list[tuple[str, str]]:
    """``["test:mini_words", "test:retrieval"]`` -> ``[("test", "mini_words"), ...]``."""
    found = []
    for pair in pairs:
        name, colon, protocol = pair.partition(":")
        require(
            bool(name and colon and protocol),
            f"{pair!r}: expected SET:PROTOCOL, such as test:mini_words or test:{RETRIEVAL}",
        )
        found.append((name, protocol))
    return found


def read_protocol(name: str) -> Protocol | None:
    """The protocol of that name or file; None for retrieval, which needs none."""
    return None if name == RETRIEVAL else load_protocol(name)


def eval_folder(expdir: Path, name: str) -> Path:
    """Where the results of a set go; a set of another corpus has a slash in its name."""
    return expdir / "eval" / name.replace("/", ".")


def manifest_of(dumpdir: Path, name: str) -> Manifest:
    """The compiled manifest of a set.

    Raises:
        UserError: it was not compiled yet.
    """
    path = dumpdir / name / "manifest.jsonl"
    require(path.exists(), f"{path}: no such manifest; compile it first (stage 2)")
    return Manifest(path)


def make_validator(
    pairs: list[tuple[str, str]], dumpdir: Path
) -> Callable[[Aligner], Callable[[Aligner], dict[str, float]]]:
    """A function that, given the aligner, makes the function that scores it after each epoch.

    Label embeddings and feature caches are made once; an epoch costs only the trained part.
    The mean over the pairs is ``score``: zero-shot top-1 accuracy, or retrieval R@1. Without pairs
    every epoch scores the same.
    """
    protocols = [(name, word, read_protocol(word)) for name, word in pairs]
    manifests = {name: manifest_of(dumpdir, name) for name, _ in pairs}

    def prepare(aligner: Aligner) -> Callable[[Aligner], dict[str, float]]:
        encoder = aligner.speech_encoder
        caches = {
            name: feature_cache(encoder, manifest, dumpdir / name) if encoder.cacheable else None
            for name, manifest in manifests.items()
        }
        encode_text = stored_encoder(aligner, dumpdir / FOLDER)
        prepared = []
        for name, word, protocol in protocols:
            utterances = list(manifests[name])
            if protocol is None:
                prepared.append((name, word, encode_text([u.text for u in utterances]), None))
            else:
                classifier = build_classifier(protocol, encode_text)
                prepared.append((name, word, classifier, targets(utterances, protocol)))

        def validate(model: Aligner) -> dict[str, float]:
            scores: dict[str, float] = {}
            speech = {n: embed_manifest(model, m, caches[n]) for n, m in manifests.items()}
            for name, word, text, wanted in prepared:
                if wanted is None:
                    texts = [u.text for u in manifests[name]]
                    value = retrieval_scores(speech[name], text, texts)["speech_to_text"]["R@1"]
                else:
                    value = accuracy(speech[name], text, wanted)
                scores[f"{name}:{word}"] = value
            return {"score": float(np.mean([*scores.values()] or [0.0])), **scores}

        return validate

    return prepare
