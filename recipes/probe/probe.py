#!/usr/bin/env python3
"""The supervised reference of a trained model: linear probe and few shots beside zero-shot.

The same as `speechcwcl embed-speech` and `speechcwcl evaluate --probe TRAINSET`.

Example:
    python probe.py exp/cwcl train --evals test:slurp_intent test:slurp_scenario
"""

import runpy
import sys
from pathlib import Path

from speechcwcl.cli.main import main

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1].startswith("-") or sys.argv[2].startswith("-"):
        sys.exit(main(["evaluate", "--help"]))
    script = Path(__file__).parents[1] / "zeroshot" / "evaluate.py"
    sys.argv = [str(script), sys.argv[1], *sys.argv[3:], "--probe", sys.argv[2]]
    runpy.run_path(str(script), run_name="__main__")
