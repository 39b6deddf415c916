#!/usr/bin/env python3
"""Embed sets with a trained model and score them zero-shot under protocols.

The same as `speechcwcl embed-speech` and `speechcwcl evaluate`, one after the other.

Example:
    python evaluate.py exp/cwcl --evals test:slurp_intent test:retrieval
"""

import sys

from speechcwcl.cli.main import main

if __name__ == "__main__":
    words = sys.argv[1:]
    if not words or words[0].startswith("-"):
        sys.exit(main(["evaluate", *words]))
    pairs = [word for word in words[1:] if ":" in word]
    sets = sorted({pair.split(":")[0] for pair in pairs})
    shared = [name for name in ("--dumpdir", "--model") if name in words]
    options = [word for name in shared for word in words[words.index(name) :][:2]]
    code = main(["embed-speech", words[0], "--sets", *sets, *options])
    sys.exit(code or main(["evaluate", *words]))
