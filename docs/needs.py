#!/usr/bin/env python3
"""Print what the site needs: the extra `docs` of setup.py, without the package's own requirements.

The reference is read from the source, so building the site takes no PyTorch.
"""

from __future__ import annotations

import ast
from pathlib import Path

SETUP = Path(__file__).resolve().parents[1] / "setup.py"


def needs(extra: str = "docs") -> list[str]:
    """The lines of an extra, as pip takes them."""
    for node in ast.parse(SETUP.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXTRAS":
            return ast.literal_eval(node.value)[extra]
    raise SystemExit(f"{SETUP}: no EXTRAS")


if __name__ == "__main__":
    print("\n".join(needs()))
