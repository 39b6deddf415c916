"""List the files of the engine that a command walks through, in the order it enters them.

Each line: the file, and how many calls went into its functions; imports and class bodies do not
count. What opening a saved model enters is listed apart. CONTRIBUTING.md shows the lists.

With `--batch`, of a training: what its last batch enters, from the loader to the weights.

Example:
    python tools/walk.py classify --model exp/cwcl/model --labels "yes;no" clip.wav
    python tools/walk.py --batch train conf.yaml --train dump/train/manifest.jsonl ...
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

# in these, `load` and `from_pretrained` open a model
OPENING = {"__init__.py", "models/aligner.py", "models/text_side.py"}
PARTS = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}


class Walk:
    """A profile function that counts the calls into each file of the engine.

    Attributes:
        calls: of the command; file -> calls, first entered first.
        opening: below what opens the model and its text encoder.

    Args:
        batch: count only the last batch of a training: what is entered below `BATCH`.
    """

    BATCH = ("__getitem__", "collate", "fit_batch")  # the last one ends a batch

    def __init__(self, batch: bool = False) -> None:
        self.calls: Counter[str] = Counter()
        self.opening: Counter[str] = Counter()
        self._batch, self._depth, self._open = batch, 0, 0
        self._next: Counter[str] = Counter()
        self._names: dict[CodeType, str] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return"):
            return
        if not code.co_flags & FUNCTION or code.co_name in PARTS:
            return
        if code not in self._names:
            path = Path(code.co_filename)
            inside = path.is_relative_to(ROOT)
            self._names[code] = path.relative_to(ROOT).as_posix() if inside else ""
        name = self._names[code]
        if self._batch:
            self._count_batch(name, code.co_name, event)
            return
        if name and event == "call":
            (self.opening if self._open else self.calls)[name] += 1
        if code.co_name in ("load", "from_pretrained") and name in OPENING:
            self._open += 1 if event == "call" else -1

    def _count_batch(self, name: str, function: str, event: str) -> None:
        if name.startswith("training/") and function in self.BATCH:
            self._depth += 1 if event == "call" else -1
            if function == self.BATCH[-1] and not self._depth:
                self.calls, self._next = self._next, Counter()
        if name and event == "call" and self._depth:
            self._next[name] += 1


def walk(words: list[str], batch: bool = False) -> Walk:
    """Run a command line under the profile function."""
    seen = Walk(batch)
    threading.setprofile(seen)
    sys.setprofile(seen)
    try:
        main(words)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return seen


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--batch"]
    found = walk(words, batch=len(words) < len(sys.argv) - 1)
    for title, calls in (("walked", found.calls), ("opening the model", found.opening)):
        lines = (f"{count:>6}  {name}" for name, count in calls.items())
        print(f"\n{title}: {len(calls)} files", *lines, sep="\n")
