"""Fetch pretrained weights by name into the cache; say what is there, and check it.

Examples:
  speechcwcl fetch                                     # what there is
  speechcwcl fetch whisper-tiny.en all-MiniLM-L6-v2
  speechcwcl fetch --check whisper-tiny.en             # hash every file again

Further models (Whisper base, Moonshine, all-mpnet-base-v2): python tools/fetch_weights.py
"""

from __future__ import annotations

import argparse

from speechcwcl.errors import UserError, summarise
from speechcwcl.models.weights.sources import SOURCES, check, is_cached, resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's options to `parser`."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{', '.join(SOURCES)}, or a hub id (org/name); without one, list what there is",
    )
    parser.add_argument("--check", action="store_true", help="hash the cached files again")
    parser.add_argument("--offline", action="store_true", help="never use the network")


def run(args: argparse.Namespace) -> int:
    """Fetch; print one line a model: its name and its folder."""
    if not args.names:
        for source in SOURCES.values():
            here = "in the cache" if is_cached(source.name) else "not fetched"
            print(f"{source.name:<18} {source.kind:<7} {source.title} ({source.licence}); {here}")
        return 0
    for name in args.names:
        folder = resolve(name, offline=True if args.offline else None)
        if args.check and name in SOURCES:
            problems = check(name)
            if problems:
                raise UserError(summarise(problems))
        print(f"{name}\t{folder}")
    return 0
