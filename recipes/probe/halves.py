#!/usr/bin/env python3
"""Split a data folder in two halves of its speakers: one to learn labels from, one to test on.

Writes OUT/<name>_a and OUT/<name>_b. Which speaker goes where is decided by hash.

Example:
    python halves.py data/digits --out data
"""

import argparse
import sys
from hashlib import sha256
from pathlib import Path

from speechcwcl.data.kaldi import iter_datadir, read_corpus, write_datadir
from speechcwcl.errors import UserError, require


def main() -> int:
    """Split; exit code 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a data folder")
    parser.add_argument("--out", type=Path, default=Path("data"), help="where the halves go")
    args = parser.parse_args()
    try:
        speakers = {u.speaker for u in iter_datadir(args.folder)}
        require(len(speakers) > 1, f"{args.folder}: one speaker only; there must be two")
        order = sorted(speakers, key=lambda name: sha256(name.encode()).digest())
        first = set(order[: len(order) // 2])
        facts = read_corpus(args.folder)
        for half in ("a", "b"):
            chosen = (u for u in iter_datadir(args.folder) if (u.speaker in first) == (half == "a"))
            name = f"{args.folder.resolve().name}_{half}"
            print(write_datadir(args.out / name, chosen, corpus={**facts, "split": name}))
    except UserError as error:
        print(f"halves: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
