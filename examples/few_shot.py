#!/usr/bin/env python3
"""A few labelled clips a class beside zero-shot, on a folder with one folder of clips a class.

  python examples/few_shot.py commands/                # commands/yes/1.wav, commands/no/1.wav, ...

Half of the clips of each class may serve as examples, the other half is the test. The name of a
folder, blanks for its underscores, is the text of the class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import speechcwcl
from speechcwcl.data.audio.recordings import find_recordings
from speechcwcl.evaluation.probe import few_shot


def compare(folder: Path, model: str = "en-tiny", draws: int = 20) -> dict[str, float]:
    """Accuracies in per cent: zero-shot, and with examples, by the number of them and the method.

    Methods: `centroid` is the nearest mean of the examples, `logistic` a regression on them,
    `text+shots` the label text and the examples together.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    opened = speechcwcl.load(model)
    examples, tests, of_examples, of_tests = [], [], [], []
    for number, path in enumerate(classes):
        clips = [Path(clip) for clip in find_recordings([path])]
        examples += clips[::2]
        tests += clips[1::2]
        of_examples += [number] * len(clips[::2])
        of_tests += [number] * len(clips[1::2])
    texts = opened.encode_labels([path.name.replace("_", " ") for path in classes])
    vectors, answers = opened.encode_speech(tests), np.array(of_tests)
    found = few_shot(
        opened.encode_speech(examples), np.array(of_examples), vectors, answers, len(classes),
        text=texts, draws=draws,
    )  # fmt: skip
    right = np.argmax(vectors @ texts.T, axis=1) == answers
    most = max(of_examples.count(number) for number in range(len(classes)))
    return {"zero-shot": 100 * float(right.mean())} | {
        f"{shots} examples, {method}": 100 * figures["mean"]
        for shots, methods in found.items()
        if int(shots) <= most  # more than there are would be the same examples again
        for method, figures in methods.items()
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="en-tiny", help="(default: %(default)s)")
    options = parser.parse_args()
    for name, accuracy in compare(options.folder, options.model).items():
        print(f"{name:30} {accuracy:5.1f} %")


if __name__ == "__main__":
    main()
