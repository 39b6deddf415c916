"""Embed every unique transcript with the frozen text encoder, once, into a store on the disk."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechcwcl.data.manifest import Manifest
from speechcwcl.training.config import load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifests", nargs="+", type=Path, help="manifest.jsonl files")
    parser.add_argument(
        "--config", type=Path, required=True, help="training YAML that names the encoder"
    )
    parser.add_argument("--store", type=Path, default=Path("dump/text"), help="folder of the store")


def run(args: argparse.Namespace) -> int:
    from speechcwcl.cache.text_store import TextStore
    from speechcwcl.models.text_side import TextEncoder

    config = load_config(args.config)
    texts = {u.text for path in args.manifests for u in Manifest(path) if u.text}
    encoder = TextEncoder.from_pretrained(config.text_encoder, pooling=config.text_pooling)
    store = TextStore.open(args.store, encoder.hash)
    new = store.missing(sorted(texts))
    store.add(new, encoder, progress=True)
    print(f"{len(texts)} unique texts, {len(new)} of them new, in {args.store}")
    return 0
