#!/usr/bin/env python3
"""Write sets with noise of one strength over every clip, for `speechcwcl evaluate`.

The noise is white, pink, brown or the hum of the mains, drawn clip by clip, as the augmentation of
a training draws it, but by another seed. SET becomes SET_<snr>db in the same folder.

Example (from egs/release/cwcl1):
    ../../../recipes/cwcl/ablation/noisy.py test_commands --snr 10
    speechcwcl embed-speech exp/noisy --model en-tiny --sets test_commands_10db
    speechcwcl evaluate exp/noisy --model en-tiny --evals test_commands_10db:gsc_v1_30
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import soundfile
from tqdm import tqdm

from speechcwcl.data.audio import SAMPLE_RATE
from speechcwcl.data.augment import Augmenter
from speechcwcl.data.manifest import Manifest, manifest_line
from speechcwcl.errors import UserError
from speechcwcl.files import atomic_path, atomic_write

SEED = 2**31


def write(manifest: Manifest, folder: Path, augment: Augmenter) -> None:
    """The set with noise in FOLDER: a FLAC file a clip, then the manifest."""
    lines = []
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    for number, clip in enumerate(tqdm(manifest, desc=folder.name)):
        path = folder.resolve() / "audio" / f"{number:06}.flac"
        with atomic_path(path) as target:  # an older manifest may name it already
            soundfile.write(target, augment(clip.load(), clip.id), SAMPLE_RATE, format="FLAC")
        lines.append(manifest_line(replace(clip, audio=str(path), start=None, end=None)))
    with atomic_write(folder / "manifest.jsonl", "wb") as file:
        file.writelines(lines)


def main() -> int:
    """Write the sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--dump", type=Path, default=Path("dump"), help="default: %(default)s")
    parser.add_argument("--snr", type=float, nargs="+", default=[10.0, 0.0], help="in dB")
    args = parser.parse_args()
    try:
        for snr in args.snr:
            augment = Augmenter({"noise": {"prob": 1.0, "range": [snr, snr]}}, seed=SEED)
            for name in args.sets:
                folder = args.dump / f"{name}_{snr:g}db"
                write(Manifest(args.dump / name / "manifest.jsonl"), folder, augment)
    except UserError as error:
        print(f"noisy: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
