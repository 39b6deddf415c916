"""Check the installation; say what to type where something is missing.

Looks at the packages and whether they fit each other, the GPU, the audio decoders, disk and
permissions, the cache of fetched models, the model hub, and the optional extras. The exit code is
0 when nothing fails (warnings may remain), else 2.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--deep", action="store_true", help="also hash the cached models and import every extra"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for the hub")


def run(args: argparse.Namespace) -> int:
    from speechcwcl.apps.doctor import FAIL, OK, WARN, examine

    findings = []
    for finding in examine(args.deep, args.timeout):
        findings.append(finding)
        if not args.json:
            print(f"{finding.status:<4}  {finding.name:<22}  {finding.found}", flush=True)
            if finding.status != OK:
                print(f"{'':<30}-> {finding.todo}", flush=True)
    counts = Counter(finding.status for finding in findings)
    if args.json:
        shown = [
            asdict(finding) | ({"todo": ""} if finding.status == OK else {}) for finding in findings
        ]
        print(json.dumps({"ok": not counts[FAIL], "findings": shown}, indent=2))
    else:
        print(f"{counts[OK]} ok, {counts[WARN]} warnings, {counts[FAIL]} failures")
    return 2 if counts[FAIL] else 0
