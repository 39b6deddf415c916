#!/usr/bin/env python3
"""Score a trained model on real recordings: spoken digits, Speech Commands, LibriSpeech retrieval.

The recordings are not in this repository. --data is a folder that holds any of
  fsdd/*.wav                          Free Spoken Digit Dataset (DIGIT_SPEAKER_NUMBER.wav)
  gsc_v1_mini/<word>/*.wav            Speech Commands, folders of words
  librispeech_tc5_subset/manifest.tsv LibriSpeech utterances (path, text, speaker, seconds, split)
Nothing of them is used for training. Prints a markdown table and writes the usual result files.

Example:
    python tools/real_speech.py --data DIR --model egs/mini/cwcl1/exp/cwcl/model --out exp/real
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from speechcwcl.cache.embed import embed_manifest
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import Utterance, write_datadir
from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import UserError, require
from speechcwcl.evaluation.retrieval import evaluate_retrieval
from speechcwcl.evaluation.scores import evaluate_zeroshot
from speechcwcl.files import atomic_write
from speechcwcl.models.aligner import Aligner
from speechcwcl.zeroshot.protocol import load_protocol

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def digits(folder: Path) -> Iterator[Utterance]:
    """Free Spoken Digit Dataset."""
    for path in sorted((folder / "fsdd").glob("*.wav")):
        digit, speaker, _ = path.stem.split("_")
        word = DIGITS[int(digit)]
        yield Utterance(f"{speaker}-{path.stem}", str(path), word, speaker, labels={"label": word})


def words(folder: Path) -> Iterator[Utterance]:
    """Speech Commands in folders of words."""
    for path in sorted((folder / "gsc_v1_mini").glob("*/*.wav")):
        word, speaker = path.parent.name, path.stem.split("_")[0]
        name = f"{speaker}-{word}-{path.stem}"
        yield Utterance(name, str(path), word, speaker, labels={"label": word})


def sentences(folder: Path) -> Iterator[Utterance]:
    """LibriSpeech utterances of the speakers marked `valid`."""
    with (folder / "librispeech_tc5_subset/manifest.tsv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            if row["split"] == "valid":
                path = folder / row["path"]
                yield Utterance(path.stem, str(path), row["text"], row["speaker"])


SETS = {
    "digits": (digits, "fsdd", "digits_10"),
    "words": (words, "gsc_v1_mini", "gsc_v1_30"),
    "sentences": (sentences, "librispeech_tc5_subset", None),
}


def score(model: Aligner, data: Path, out: Path, name: str) -> str:
    """Score one set; one row of the table."""
    read, _, protocol_name = SETS[name]
    folder = write_datadir(out / "data" / name, read(data), corpus={"name": name})
    path = out / "data" / name / "manifest.jsonl"
    compile_manifest(folder, path)
    manifest = Manifest(path)
    utterances = list(manifest)
    speech = embed_manifest(model, manifest, progress=f"embed {name}")
    if protocol_name is None:
        texts = [u.text or "" for u in utterances]
        found = evaluate_retrieval(speech, texts, model.encode_text, out / name)
        recall = found["speech_to_text"]
        return (
            f"| {name}: speech-text retrieval, LibriSpeech | {len(utterances)} | "
            f"{len(set(texts))} texts | R@1 {100 * recall['R@1']:.1f} %, "
            f"R@5 {100 * recall['R@5']:.1f} % | |"
        )
    protocol = load_protocol(protocol_name)
    found = evaluate_zeroshot(speech, utterances, protocol, model.encode_text, out / name)
    low, high = found["top1_interval"]
    return (
        f"| {name}: {protocol.description} | {found['n']} | {found['classes']} classes | "
        f"{100 * found['top1']:.1f} % | {100 * low:.1f} to {100 * high:.1f} % |"
    )


def main() -> int:
    """Run; exit code 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with real recordings")
    parser.add_argument("--model", type=Path, required=True, help="a model folder")
    parser.add_argument("--out", type=Path, required=True, help="where the results go")
    parser.add_argument("--sets", nargs="*", choices=list(SETS), help="default: those in --data")
    args = parser.parse_args()
    try:
        wanted = args.sets or [
            name for name, (_, sub, _) in SETS.items() if (args.data / sub).is_dir()
        ]
        require(bool(wanted), f"{args.data}: none of {', '.join(s for _, s, _ in SETS.values())}")
        model = Aligner.from_pretrained(args.model)
        rows = [score(model, args.data, args.out, name) for name in wanted]
        table = "\n".join(["| real speech | n | of | top-1 | 95 % interval |",
                           "|---|---|---|---|---|", *rows])  # fmt: skip
        with atomic_write(args.out / "RESULTS.md") as stream:
            stream.write(table + "\n")
        print(table)
        return 0
    except UserError as error:
        print(f"real_speech: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
