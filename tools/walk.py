"""List the files of the engine that a command walks through, in the order it enters them.

Each line: the file, and how many calls went into its functions; imports and class bodies do not
count. CONTRIBUTING.md shows the lists of `classify` and of a batch in training.

Example:
    python tools/walk.py classify --model exp/cwcl/model --labels "yes;no" clip.wav
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import speechcwcl
from speechcwcl.cli.main import main

ROOT = Path(speechcwcl.__file__).parent
FUNCTION = 0x1  # CO_OPTIMIZED: set in functions, not in modules and class bodies

PARTS = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}


class Walk:
    """A profile function that counts the calls into each file of the engine."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._names: dict[CodeType, str] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_flags & FUNCTION or code.co_name in PARTS:
            return
        if code not in self._names:
            path = Path(code.co_filename)
            inside = path.is_relative_to(ROOT)
            self._names[code] = path.relative_to(ROOT).as_posix() if inside else ""
        if self._names[code]:
            self.calls[self._names[code]] += 1


def walk(words: list[str]) -> Counter[str]:
    """Run a command line; the files it entered, first entered first, with the calls into each."""
    seen = Walk()
    threading.setprofile(seen)
    sys.setprofile(seen)
    try:
        main(words)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return seen.calls


if __name__ == "__main__":
    found = walk(sys.argv[1:])
    print(f"\n{len(found)} files", *(f"{n:>6}  {name}" for name, n in found.items()), sep="\n")
