"""Write RESULTS.md and report.html from experiment folders, and print the table of results."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("expdirs", nargs="+", type=Path, help="experiment folders, side by side")
    parser.add_argument("--out", type=Path, default=Path("exp"), help="the two files go here")
    parser.add_argument("--dumpdir", type=Path, default=Path("dump"), help="manifests and caches")
    parser.add_argument("--title", default="Zero-shot speech classification", help="the heading")


def run(args: argparse.Namespace) -> int:
    from speechcwcl.report import build_report
    from speechcwcl.report.markdown import results_table

    build_report(args.expdirs, args.out, dumpdir=args.dumpdir, title=args.title)
    print(results_table(args.expdirs))
    print(f"\nreport: {(args.out / 'report.html').resolve()}")
    return 0
