"""Generated pages are as their generator makes them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_recipes_is_up_to_date():
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools/make_recipes_table.py")],
        capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert made.stdout == (ROOT / "recipes/README.md").read_text(encoding="utf-8")
