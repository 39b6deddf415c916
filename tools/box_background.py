#!/usr/bin/env python3
"""Embed ordinary speech by a model of the package, and put it into the package beside it.

Keywords are measured against ordinary speech (speechcwcl/zeroshot/keywords.py). Any model hears
some minutes of synthetic speech for that; real speech tells more. DATA is a data folder of real
sentences by people who are in no set that measures keywords, such as `ordinary` of
tools/make_spotting_sets.py. Only vectors are kept, in 8 bits.

Example:
  tools/box_background.py --data data/ordinary
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

import speechcwcl
from speechcwcl.assets import DEFAULT_MODEL
from speechcwcl.data.audio import load_audio
from speechcwcl.data.kaldi import read_datadir
from speechcwcl.errors import UserError, require
from speechcwcl.files import atomic_path
from speechcwcl.zeroshot.enrolment import BACKGROUND, packed_background
from speechcwcl.zeroshot.spotting import embed_stream

WINDOWS = 3000


def main(argv: list[str] | None = None) -> int:
    """Run; exit code 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a data folder of sentences")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        model = speechcwcl.load(args.model, onnx=True, int8=True, threads=1)
        paths = sorted({utterance.audio for utterance in read_datadir(args.data)})
        rows = np.concatenate(
            [embed_stream(model, load_audio(path)) for path in tqdm(paths, unit="file")]
        )
        require(len(rows) >= WINDOWS, f"{args.data}: {len(rows)} windows, fewer than {WINDOWS}")
        rows = rows[np.random.default_rng(0).permutation(len(rows))[:WINDOWS]]
        scale = np.abs(rows).max(axis=1, keepdims=True) / 127
        target = packed_background(model)
        with atomic_path(target) as scratch, scratch.open("wb") as stream:
            np.savez_compressed(
                stream, rows=np.round(rows / scale).astype(np.int8), scale=scale.astype(np.float32)
            )
        for old in set(BACKGROUND.glob("*.npz")) - {target}:  # of a model that was boxed before
            old.unlink()
        print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
        return 0
    except UserError as error:
        print(f"box_background: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
