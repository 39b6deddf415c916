#!/usr/bin/env python3
"""What is a threshold for "unknown" worth? Measured on single words, some of them labels.

--words is a folder of folders, <word>/<speaker>_*.wav, such as Speech Commands. In each draw ten
words are labels, the others are not, and half of the speakers calibrate for the other half. Prints
how well each statistic tells said labels from other words (area under the ROC curve), and what each
kind of negatives does to the false accept rate (section "Unknown" of tools/benchmarks/README.md).

Example:
    python tools/unknown_threshold.py --model egs/mini/cwcl1/exp/cwcl/model --words DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from speechcwcl.data.audio import load_audio
from speechcwcl.errors import require
from speechcwcl.models.aligner import Aligner
from speechcwcl.zeroshot.threshold import Threshold, backwards, noise_clips


def area(said: np.ndarray, other: np.ndarray) -> float:
    """Area under the ROC curve."""
    order = np.concatenate([said, other]).argsort(kind="stable").argsort(kind="stable") + 1
    n = len(said)
    return float((order[:n].sum() - n * (n + 1) / 2) / (n * len(other)))


def statistics(cosine: np.ndarray, scale: float) -> dict[str, np.ndarray]:
    """(clips, labels) cosines -> what could tell a said label from another word, (clips,) each."""
    ranked = np.sort(cosine, axis=1)
    weights = np.exp(scale * (cosine - ranked[:, -1:]))
    return {
        "cosine": ranked[:, -1],
        "softmax score": 1 / weights.sum(axis=1),
        "lead over the second": ranked[:, -1] - ranked[:, -2],
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--words", type=Path, required=True)
    parser.add_argument("--labels", type=int, default=10, help="words that are labels in a draw")
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--far", type=float, default=0.05)
    args = parser.parse_args()
    paths = sorted(args.words.glob("*/*.wav"))
    words = np.array([path.parent.name for path in paths])
    require(len(set(words)) > args.labels, f"{args.words}: more than {args.labels} words needed")
    speakers = np.array([path.name.split("_")[0] for path in paths])
    model = Aligner.from_pretrained(args.model)
    wavs = [load_audio(path) for path in paths]
    speech, noise = model.encode_speech(wavs), model.encode_speech(noise_clips())
    turned = model.encode_speech(backwards(wavs))
    rng = np.random.default_rng(1)
    areas: dict[str, list[float]] = {}
    rates: dict[str, list[tuple[float, float]]] = {}
    for _ in range(args.draws):
        labels = list(rng.permutation(sorted(set(words)))[: args.labels])
        rows = model.encode_labels(labels)
        calibrating = np.isin(speakers, rng.permutation(sorted(set(speakers)))[::2])
        said, cosine = np.isin(words, labels), speech @ rows.T
        for name, values in statistics(cosine, float(model.logit_scale)).items():
            areas.setdefault(name, []).append(area(values[said], values[~said]))
        best = cosine.max(axis=1)
        noises = {"noise": (noise @ rows.T).max(axis=1)}
        reverse = {"backwards": (turned[: len(wavs)][said & calibrating] @ rows.T).max(axis=1)}
        for name, negatives in {
            "of one's own": {"own": best[~said & calibrating]},
            "made: noises and speech backwards": noises | reverse,
            "noises alone": noises,
        }.items():
            made = Threshold.fit(model, labels, rows, ["{}"], negatives, args.far)
            accepted = best >= made.cosine
            share = [float(accepted[kind & ~calibrating].mean()) for kind in (~said, said)]
            rates.setdefault(name, []).append((share[0], share[1]))
    print("| statistic | area under the ROC curve |\n|---|---|")
    for name, values in areas.items():
        print(f"| {name} | {np.mean(values):.3f} |")
    print("\n| negatives | other words accepted | labels accepted |\n|---|---|---|")
    for name, pairs in rates.items():
        other, right = np.mean(pairs, axis=0)
        print(f"| {name} | {100 * other:.1f} % | {100 * right:.1f} % |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
