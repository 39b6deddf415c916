#!/usr/bin/env python3
"""Make the sets that the release (egs/release/cwcl1) is trained, chosen and tested on.

DIR is laid out as for tools/make_intent_speech.py, with LibriSpeech, LJSpeech and recordings of
single words and phrases beside the texts. Written as data folders under OUT:
  train          the mini corpus' training set, synthetic speech over SLURP-train, TOPv2-eval,
                 Snips sentences and dictionary words, real sentences of LibriSpeech and LJSpeech,
                 and words, phrases and stretches cut from them
  valid_*        choose: half of the speakers (or files) of each real set, synthetic intents
  test_*         never choose: the other halves, unseen texts by flite, an engine heard nowhere else
Needs flite, espeak-ng, libttspico-utils, rhvoice-english and pip install pocketsphinx
hibari-tts==0.2.1. Finished clips and alignments stay in WORK: run again to go on.

Example:
  tools/make_release_sets.py --data DIR --work WORK --out data
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cut_speech import alignments, cut_phrases, cut_words, sentences, tight
from make_intent_speech import mini_train, speak, utterances
from mini_corpus import UserError as ToolError
from mini_corpus.voices import rng_for
from real_speech import digits, words
from release_speech import WAKE, release_plan

from speechcwcl.corpora.base import write_spoken
from speechcwcl.corpora.mini import Mini
from speechcwcl.data.kaldi import Utterance, write_datadir
from speechcwcl.data.tables import Problems
from speechcwcl.errors import UserError, require
from speechcwcl.zeroshot.protocol import load_protocol

RECIPE = Path(__file__).resolve().parents[1] / "egs/release/cwcl1"
CUT = str(RECIPE / "protocols/cut_words.yaml")
# set -> the protocol that scores it; nothing for training and retrieval
PROTOCOLS = {
    "train": "", "valid_digits": "digits_10", "valid_commands": "gsc_v1_30", "valid_wake": WAKE,
    "valid_cut": CUT, "valid_phrases": "", "valid_read": "", "valid_long": "",
    "valid_intents": "mini_intents_valid", "valid_slurp": "slurp_intent",
    "valid_topv2": "stop_intent", "test_digits": "digits_10", "test_commands": "gsc_v1_30",
    "test_wake": WAKE, "test_cut": CUT, "test_phrases": "", "test_read": "", "test_long": "",
    "test_words": "mini_words", "test_intents": "mini_intents", "test_slurp": "slurp_intent",
    "test_topv2": "stop_intent", "test_retrieval": "",
}  # fmt: skip
FAKE_TEXTS = ("turn on the light", "play some music", "what time is it", "good morning")
LONGEST = 16.5  # seconds; longer read sentences are left out
LONGEST_TRAIN = 10.0  # seconds; of longer ones the training has only what is cut from them
# Half of each real set chooses, the other half tests. Digits and commands go by speaker; the wake
# phrases, whose speakers are not told, by file.
DIGIT_VALID = ("george", "lucas", "theo")


def wake_phrases(data: Path) -> Iterator[Utterance]:
    """Recordings of volunteers."""
    with (data / "wake_phrases/manifest.tsv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
            path = data / row["path"]
            yield Utterance(
                f"{path.parent.name}-{path.stem}", str(path), row["text"],
                f"{path.parent.name}-{path.stem}", labels={"label": row["text"]},
            )  # fmt: skip


def half(key: str) -> str:
    """`valid` or `test`, by a hash of the key."""
    return "valid" if rng_for(0, "half", key).random() < 0.5 else "test"


def halves(
    found: Iterable[Utterance], part: Callable[[Utterance], str], most: int
) -> dict[str, list[Utterance]]:
    """Utterances by part; of one label and part at most `most`."""
    sets: dict[str, list[Utterance]] = {"valid": [], "test": []}
    count: Counter[tuple[str, str]] = Counter()
    for utterance in sorted(found, key=lambda u: rng_for(0, "order", u.id).random()):
        key = part(utterance), utterance.labels["label"]
        count[key] += 1
        if count[key] <= most:
            sets[key[0]].append(utterance)
    return sets


def real_sets(args: argparse.Namespace) -> dict[str, list[Utterance]]:
    """The halves of the real single words and phrases."""
    made: dict[str, list[Utterance]] = {}
    for name, found, part, most in (
        ("digits", digits(args.data), lambda u: _digit_part(u), 30),
        ("commands", words(args.data), lambda u: half(u.speaker), 1000),
        ("wake", wake_phrases(args.data), lambda u: half(u.id), 40),
    ):
        for split, rows in halves(found, part, most).items():
            made[f"{split}_{name}"] = rows
    return made


def _digit_part(utterance: Utterance) -> str:
    return "valid" if utterance.speaker in DIGIT_VALID else "test"


def read_sets(args: argparse.Namespace) -> dict[str, list[Utterance]]:
    """Sentences that were read, and what is cut from them; `train_*` and both halves."""
    found = [u for u in sentences(args.data) if u.duration <= LONGEST]
    if args.sentences:
        held = [u for u in found if u.labels["part"] != "train"]
        rest = sorted((u for u in found if u.labels["part"] == "train"), key=_order)
        found = held + rest[: args.sentences]
    times = alignments(found, args.work)
    parts: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in found:
        if times[utterance.id]:
            parts[utterance.labels["part"]].append(utterance)
    made: dict[str, list[Utterance]] = {}
    for part, some in parts.items():
        made[f"{part}_words_cut"] = cut_words(some, times, args.cut_words if part == "train" else 8)
        made[f"{part}_phrases"] = cut_phrases(some, times, (2, 6), 1.0)
        made[f"{part}_stretches"] = cut_phrases(some, times, (7, 14), 0.5)
        made[f"{part}_read"] = [u for u in some if _kept_whole(u)]
        made[f"{part}_long"] = [u for u in some if u.duration > 5]
    return made


def _kept_whole(utterance: Utterance) -> bool:
    """Training: all that are short enough; held back: LibriSpeech, whose speakers are new."""
    if utterance.labels["part"] == "train":
        return utterance.duration <= LONGEST_TRAIN
    return utterance.speaker != "LJ"


def _order(utterance: Utterance) -> tuple[bool, bool, str]:
    """FLAC before compressed sound, LJSpeech before the rest, then the id."""
    return not utterance.audio.endswith(".flac"), utterance.speaker != "LJ", utterance.id


def with_label(found: list[Utterance], wanted: set[str]) -> list[Utterance]:
    """Cut words that are in the protocol, labelled by their text."""
    kept = [u for u in found if u.text in wanted]
    for utterance in kept:
        utterance.labels = {"label": utterance.text}
    return kept


def unlabelled(found: Iterable[Utterance]) -> list[Utterance]:
    """The same without labels: nothing trains on them."""
    return [Utterance(u.id, u.audio, u.text, u.speaker, u.start, u.end, u.duration) for u in found]


def release_sets(
    made: dict[str, list[Utterance]],
    real: dict[str, list[Utterance]],
    read: dict[str, list[Utterance]],
    own: list[Utterance],
) -> dict[str, list[Utterance]]:
    """All data folders by name."""
    held = {u.text for name, rows in made.items() if "train" not in name for u in rows}
    spoken = [u for name, rows in made.items() if "train" in name for u in rows]
    base = own + spoken + read["train_read"] + read["train_phrases"] + read["train_stretches"]
    words_cut = read["train_words_cut"]
    sets = {"train": base + words_cut + [tight(u) for u in words_cut[::2]]} | real
    sets["train"] = unlabelled(u for u in sets["train"] if u.text not in held)
    wanted = set(load_protocol(CUT).labels)
    for part in ("valid", "test"):
        sets[f"{part}_cut"] = with_label(read[f"{part}_words_cut"], wanted)
        for name, most in (("phrases", 200), ("read", 1000), ("long", 1000)):
            sets[f"{part}_{name}"] = one_a_text(read[f"{part}_{name}"], most)
        for name in ("slurp", "topv2"):
            sets[f"{part}_{name}"] = made[f"{part}_{name}"]
    few = sorted(made["test_slurp"], key=lambda u: rng_for(0, "retrieval", u.id).random())
    sets["test_retrieval"] = few[:800]
    return sets


def one_a_text(found: list[Utterance], most: int) -> list[Utterance]:
    """Each text once, at most so many, in a fixed random order; no labels."""
    chosen = {u.text: u for u in sorted(found, key=lambda u: rng_for(0, "one", u.id).random())}
    return unlabelled(list(chosen.values())[:most])


def own_sets(out: Path) -> dict[str, list[Utterance]]:
    """Validation and test sets of the mini corpus."""
    mini, names = Mini(), ("valid_intents", "test_words", "test_intents")
    return {n: list(mini.utterances(mini.download(out), n, Problems())) for n in names}


def fake_sets(folder: Path, out: Path) -> None:
    """Every set with a few tones, for a quick run of the whole recipe."""
    for name, protocol in PROTOCOLS.items():
        labels = load_protocol(protocol).texts if protocol else dict.fromkeys(FAKE_TEXTS)
        rows = []
        for label, text in list(labels.items())[:4]:
            for voice in ("a", "b"):
                path = folder / name / f"{voice}-{label.replace(' ', '_')}.wav"
                write_spoken(path, text or label, seconds=0.5)
                rows.append(
                    Utterance(path.stem, str(path), text or label, voice, labels={"label": label})
                )
        write_datadir(
            out / name, rows, corpus={"name": name, "synthetic_speech": True, "fake": True}
        )


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="folder with texts and recordings")
    add("--out", type=Path, required=True, help="data folders go here")
    add("--work", type=Path, help="clips and alignments are kept here (default: OUT/work)")
    add("--fake", type=Path, metavar="DIR", help="instead: a few tones, written to DIR")
    add("--sets", nargs="*", help="ignored: all sets are made at once")
    add("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    add("--sentences", type=int, help="read sentences for training; default: all")
    add("--cut_words", type=int, default=12, help="real words of one text (default: %(default)s)")
    add("--slurp", type=int, default=20000, help="SLURP training texts (default: all)")
    add("--topv2", type=int, default=12000, help="TOPv2 training texts (default: %(default)s)")
    add("--snips", type=int, default=9000, help="Snips training texts (default: %(default)s)")
    add("--twice", type=float, default=0.5, help="share in two voices (default: %(default)s)")
    add("--dictionary", type=int, default=15000, help="dictionary words (default: %(default)s)")
    add("--valid", type=int, default=150, help="texts a validation set (default: %(default)s)")
    add("--tests", type=int, default=800, help="texts a synthetic test set (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run; exit code 2 for what the user can put right."""
    args = parse_arguments(argv)
    args.work = args.work or args.out / "work"
    try:
        if args.fake:
            fake_sets(args.fake.resolve(), args.out)
            return 0
        require(args.data is not None, "--data: which folder holds the texts and recordings?")
        plan = release_plan(args)
        clips = speak(plan.clips, args.work, args.jobs)
        made: dict[str, list[Any]] = {}
        for name in dict.fromkeys(clip.set for clip in clips):
            made[name] = list(utterances([c for c in clips if c.set == name], plan.labels, args))
        own, real = mini_train(args.out), real_sets(args) | own_sets(args.out)
        for name, rows in release_sets(made, real, read_sets(args), own).items():
            write_datadir(args.out / name, rows, corpus={"name": name, "licence": "see its parts"})
            print(f"{name:16} {len(rows):6} utterances")
        return 0
    except (UserError, ToolError) as error:
        print(f"make_release_sets: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
