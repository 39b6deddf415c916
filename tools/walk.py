"""List the files of the engine that a command walks through, in the order it enters them.

Each line: the file, and how many calls went into its functions; imports and class bodies do not
count. What opening a saved model enters is listed apart. CONTRIBUTING.md shows the lists.

With `--within NAME`, only what is entered below a function of that name counts, wherever it
stands; SpeechBrain's `_fit_train` is an epoch's batches from the loader on.

Example:
    python tools/walk.py classify --model exp/cwcl/model --labels "yes;no" clip.wav
    python tools/walk.py --within _fit_train train conf.yaml --train dump/train/manifest.jsonl ...
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
    """A profile function that counts the calls into each file of the engine.

    Attributes:
        calls: of the command; file -> calls, first entered first.
        opening: of `Aligner.from_pretrained`, below it.

    Args:
        within: count only below a function of this name; None: everything.
    """

    def __init__(self, within: str | None = None) -> None:
        self.within = within
        self._depth = 0 if within else 1
        self.calls: Counter[str] = Counter()
        self.opening: Counter[str] = Counter()
        self._open = 0
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
        if code.co_name == self.within:
            self._depth += 1 if event == "call" else -1
        if name and event == "call" and self._depth:
            (self.opening if self._open else self.calls)[name] += 1
        if name == "models/aligner.py" and code.co_name == "from_pretrained":
            self._open += 1 if event == "call" else -1


def walk(words: list[str], within: str | None = None) -> Walk:
    """Run a command line under the profile function."""
    seen = Walk(within)
    threading.setprofile(seen)
    sys.setprofile(seen)
    try:
        main(words)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return seen


if __name__ == "__main__":
    words, within = sys.argv[1:], None
    if words[:1] == ["--within"]:
        within, words = words[1], words[2:]
    found = walk(words, within)
    for title, calls in (("walked", found.calls), ("opening the model", found.opening)):
        lines = (f"{count:>6}  {name}" for name, count in calls.items())
        print(f"\n{title}: {len(calls)} files", *lines, sep="\n")
