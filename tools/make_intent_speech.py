#!/usr/bin/env python3
"""Make the training and test sets of the ablation: synthetic speech over real intent texts.

Everything spoken here is synthetic; the texts are real. DIR holds text/slurp (jsonl), text/topv2
(tsv), text/snips and, if it is there, librispeech_tc5_subset (real speech). Sets, as data folders
under OUT/data with FLAC files under OUT/audio:
  intents_train  SLURP-train, TOPv2-eval and Snips-train sentences by hibari and espeak-ng, with
                 --kokoro some of them by Kokoro's training voices as well
  train          the mini corpus' training set, LibriSpeech's training utterances, intents_train
  valid_slurp, valid_topv2   SLURP-devel and held-out TOPv2-eval sentences, Kokoro's valid voices
  test_slurp, test_topv2     SLURP-test and TOPv2-test sentences by flite, an engine that is
                             heard nowhere else
  test_retrieval             800 of test_slurp
  digits, words, sentences   real recordings, as in tools/real_speech.py
  train_grid                 a part of train, for many runs: mini, some of LibriSpeech and intents
No sentence of a valid or test set is in training. Finished clips stay in WORK: run again to go on.
Needs flite and espeak-ng (apt-get install flite espeak-ng) and pip install -e ".[voices]" onnx.

Example:
  tools/make_intent_speech.py --data DIR --work WORK --out exp/intents
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import soundfile
from mini_corpus import UserError as ToolError
from mini_corpus.fetch import check_hibari, check_voices
from mini_corpus.plan import SPLIT_OF_SET, Clip
from mini_corpus.programs import check_programs
from mini_corpus.synth import cached, load_clip, synthesize, was_given_up
from mini_corpus.voices import (
    HIBARI_VOICES,
    TRAIN_VOICES,
    VALID_VOICES,
    blended_voices,
    rng_for,
)
from real_speech import SETS as REAL
from tqdm import tqdm

from speechcwcl.corpora.mini import Mini
from speechcwcl.corpora.slurp import read_sentences
from speechcwcl.corpora.stop import read_topv2
from speechcwcl.data.kaldi import Utterance, write_datadir
from speechcwcl.data.tables import Problems
from speechcwcl.errors import UserError

SPEEDS = (0.85, 1.2)
FLITE_VOICES = ("flite_slt", "flite_rms", "flite_awb")
ESPEAK_VOICES = tuple(
    f"espeak_{accent}+{variant}"
    for accent in ("en-us", "en-gb", "en-gb-scotland")
    for variant in ("m1", "m3", "m5", "m7", "f1", "f2", "f4", "klatt4")
)
NATURAL_VOICES = tuple(
    f"{voice}_p{pitch}"
    for voice in (
        "rhvoice_alan", "rhvoice_bdl", "rhvoice_clb", "rhvoice_evgeniy-eng", "rhvoice_lyubov",
        "pico_en-US", "pico_en-GB", "pico_en-US", "pico_en-GB",  # Pico is six times as fast
    )
    for pitch in ("086", "093", "100", "108")
)  # fmt: skip
# Left out: those of which Whisper tiny.en gets more than four of five words wrong (af1, fr4, pl1).
ACCENT_VOICES = (
    *(f"espeak_mb-{name}-en" for name in (
        "nl2", "fr1", "de1", "de2", "de3", "de4", "de5", "de6", "gr2", "hu1", "ro1", "sw1", "sw2",
    )),
    *(f"espeak_mb-{name}" for name in ("us1", "us2", "us3", "en1")),
)  # fmt: skip
Row = tuple[str, dict[str, str]]  # text, labels


def spoken_form(text: str) -> str | None:
    """Lower case, no marks, as in SLURP and STOP; None where it holds digits or other signs."""
    text = " ".join(re.sub(r"[.,?!;]", " ", text.lower().replace("’", "'")).split())
    return text if re.fullmatch(r"[a-z' ]+", text) and 1 <= len(text.split()) <= 20 else None


def slurp_rows(path: Path) -> list[Row]:
    """Sentences of a SLURP annotation file with label, scenario and action; each text once.

    The reconstructed training file has no scenario and action of its own; its `intent` will do,
    since nothing trains on labels.
    """
    problems = Problems()
    found: dict[str, dict[str, str]] = {}
    if "train" in path.name:
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            found.setdefault(entry["sentence"], {"label": entry["intent"]})
    else:
        for _, entry in read_sentences(path, problems):
            label = f"{entry['scenario']}_{entry['action']}"
            labels = {"label": label, "scenario": entry["scenario"], "action": entry["action"]}
            found.setdefault(entry["sentence"], labels)
    return clean(found.items())


def clean(rows: Iterable[Row]) -> list[Row]:
    """Spoken forms, each once."""
    found: dict[str, dict[str, str]] = {}
    for text, labels in rows:
        spoken = spoken_form(text)
        if spoken:
            found.setdefault(spoken, labels)
    return list(found.items())


def topv2_rows(folder: Path, split: str) -> list[Row]:
    """Sentences of TOPv2 with intent and domain."""
    return clean((t, {"label": i, "domain": d}) for d, t, i in read_topv2(folder, split))


def sampled(rows: list[Row], count: int, *purpose: object) -> list[Row]:
    """`count` rows drawn from the seed."""
    rows = sorted(rows)
    rng_for(0, *purpose).shuffle(rows)
    return rows[:count]


@dataclass
class Plan:
    """What is to be spoken.

    Attributes:
        clips: all of it.
        labels: those of each clip, by id.
    """

    clips: list[Clip] = field(default_factory=list)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    sum_of: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, voices: Sequence[str], row: Row, rng: Random) -> None:
        """One more clip of the set `name`, by one of the voices."""
        voice = rng.choice(voices)
        number = self.sum_of[name] = self.sum_of[name] + 1
        speed = round(rng_for(0, name, voice, row[0]).uniform(*SPEEDS), 3)
        key = f"{voice}-{name}-{number:05d}"
        kind = "word" if "word" in row[1] else "intent"
        self.clips.append(Clip(key, name, voice, kind, "-", row[0], speed))
        self.labels[key] = row[1]


def train_rows(args: argparse.Namespace, taken: set[str]) -> tuple[list[Row], list[Row]]:
    """Training sentences, none of them in `taken`: the chosen ones, and the rest."""
    text = args.data / "text"
    snips = (text / "snips/train/seq.in").read_text(encoding="utf-8").splitlines()
    chosen = [row for row in slurp_rows(text / "slurp/train_reconstructed.jsonl")
              if row[0] not in taken]  # fmt: skip
    rest: list[Row] = []
    known = taken | {t for t, _ in chosen}
    for rows, count, name in (
        (topv2_rows(text / "topv2", "eval"), args.topv2, "topv2"),
        (clean((t, {}) for t in snips), args.snips, "snips"),
    ):  # fmt: skip
        drawn = sampled([row for row in rows if row[0] not in known], len(rows), name)
        chosen, rest = chosen + drawn[:count], rest + drawn[count:]
        known |= {t for t, _ in drawn[:count]}
    return chosen, [row for row in dict(rest).items() if row[0] not in known]


def plan(args: argparse.Namespace) -> Plan:
    """All clips."""
    text, found = args.data / "text", Plan()
    test_topv2 = sampled(topv2_rows(text / "topv2", "test"), args.topv2_test, "test_topv2")
    valid_topv2 = sampled(topv2_rows(text / "topv2", "eval"), args.valid, "valid_topv2")
    devel, test = slurp_rows(text / "slurp/devel.jsonl"), slurp_rows(text / "slurp/test.jsonl")
    valid_slurp = sampled(devel, args.valid, "valid_slurp")
    for name, rows, voices in (
        ("test_slurp", test, FLITE_VOICES), ("test_topv2", test_topv2, FLITE_VOICES),
        ("valid_slurp", valid_slurp, VALID_VOICES), ("valid_topv2", valid_topv2, VALID_VOICES),
    ):  # fmt: skip
        for row in rows:
            found.add(name, voices, row, rng_for(0, "voice", name, row[0]))
    taken = {t for rows in (test_topv2, valid_topv2, devel, test) for t, _ in rows}
    chosen, rest = train_rows(args, taken)
    kokoro = [*TRAIN_VOICES, *blended_voices(0, 30)]
    for row in chosen:
        rng = rng_for(0, "voice", "train", row[0])
        cheap = ESPEAK_VOICES if rng.random() < args.espeak else HIBARI_VOICES
        found.add("intents_train", cheap, row, rng)
    for row in sampled(chosen, args.kokoro, "kokoro"):
        found.add("intents_train", kokoro, row, rng_for(0, "kokoro", row[0]))
    if args.voices:
        more_voices(found, chosen + rest, taken, args)
    return found


def more_voices(found: Plan, rows: list[Row], taken: set[str], args: argparse.Namespace) -> None:
    """Sentences and isolated words in the voices of `--voices`."""
    known = taken | {text for text, _ in rows}
    own = sorted({u.text for u in mini_train(args.out) if " " not in u.text} - known)
    for row in [*rows, *((text, {"word": text}) for text in own)]:
        rng = rng_for(0, "more voices", row[0])
        found.add("voices_train", NATURAL_VOICES, row, rng)
        if rng.random() < 1 / 3 or "word" in row[1]:
            found.add("accents_train", ACCENT_VOICES, row, rng)


def mini_train(out: Path) -> list[Utterance]:
    """The training set of the mini corpus."""
    mini = Mini()
    return list(mini.utterances(mini.download(out), "train", Problems()))


def speak(clips: list[Clip], work: Path, jobs: int) -> list[Clip]:
    """Make what is missing, the fast engines first; return those that came out well."""
    check_hibari()
    check_programs({clip.voice for clip in clips})
    if any(clip.engine == "kokoro" for clip in clips):
        check_voices(work)
    for engines in (("flite", "espeak", "pico", "rhvoice"), ("hibari",), ("kokoro",)):
        chosen = [clip for clip in clips if clip.engine in engines]
        missing = sum(not cached(work, clip).is_file() for clip in chosen)
        bar = tqdm(total=missing, desc=" and ".join(engines), unit="clip", disable=not missing)
        for clip, _, problem in synthesize(chosen, work, jobs):
            bar.update()
            if problem:
                bar.write(f"gave up {clip.id} {clip.text!r}: {problem}", file=sys.stderr)
        bar.close()
    return [clip for clip in clips if not was_given_up(work, clip)]


def utterances(
    clips: list[Clip], labels: dict[str, dict[str, str]], args: argparse.Namespace
) -> Iterator[Utterance]:
    """Write each clip as FLAC unless it is there, and yield it."""
    for clip in tqdm(clips, desc=clips[0].set, unit="clip"):
        path = args.out.resolve() / "audio" / clip.set / f"{clip.id}.flac"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            soundfile.write(partial, load_clip(args.work, clip), 16000, format="FLAC")
            partial.replace(path)
        yield Utterance(clip.id, str(path), clip.text, clip.voice, labels=labels[clip.id])


def librispeech(data: Path) -> Iterator[Utterance]:
    """The real training utterances."""
    table = data / "librispeech_tc5_subset/manifest.tsv"
    if table.exists():
        with table.open(encoding="utf-8") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                if row["split"] == "train":
                    path = (data / row["path"]).resolve()
                    yield Utterance(path.stem, str(path), row["text"], row["speaker"])


def write_sets(clips: list[Clip], labels: dict, args: argparse.Namespace) -> None:
    """The data folders."""

    def write(name: str, rows: Iterable[Utterance], licence: str = "see its parts") -> None:
        card = {"name": name, "licence": licence, "synthetic_speech": True}
        write_datadir(args.out / "data" / name, list(rows), corpus=card)

    made: dict[str, list[Utterance]] = {}
    for name in dict.fromkeys(clip.set for clip in clips):
        made[name] = list(utterances([c for c in clips if c.set == name], labels, args))
        write(name, made[name], "texts: see their corpora")
    heard = {u.text for name, rows in made.items() if SPLIT_OF_SET[name] != "train" for u in rows}
    for name in made:
        if SPLIT_OF_SET[name] == "train":
            made[name] = [u for u in made[name] if u.text not in heard]
            for utterance in made[name]:
                utterance.labels = {}
    own = [u for u in mini_train(args.out) if u.text not in heard]
    others = [u for u in librispeech(args.data) if u.text not in heard] + made["intents_train"]
    for utterance in own:
        utterance.labels = {}
    everything = own + others
    write("train", everything)
    rng_for(0, "grid").shuffle(others)
    others = others[: args.grid]
    write("train_grid", own + others)
    if args.voices:
        voices, accents = made["voices_train"], made["accents_train"]
        write("train_voices", [*everything, *voices, *accents])
        reading = {u.text: u for u in voices}
        grid = own + [reading.get(u.text, u) for u in others]
        write("train_grid_voices", grid)
        there = {u.id for u in grid}
        for name, more in (("words", voices), ("accents", accents)):
            words = [u for u in more if " " not in u.text and u.id not in there]
            write(f"train_grid_{name}", grid + words)
    few = list(made["test_slurp"])
    rng_for(0, "retrieval").shuffle(few)
    write("test_retrieval", few[:800])
    for name, (read, folder, _) in REAL.items():
        if (args.data / folder).is_dir():
            write_datadir(args.out / "data" / name, read(args.data), corpus={"name": name})


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with the texts")
    add("--out", type=Path, required=True, help="data folders and FLAC files go here")
    add("--work", type=Path, required=True, help="downloads and finished clips are kept here")
    add("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    add("--topv2", type=int, default=5000, help="TOPv2 training texts (default: %(default)s)")
    add("--snips", type=int, default=3000, help="Snips training texts (default: %(default)s)")
    add("--kokoro", type=int, default=0, help="so many also by Kokoro (default: %(default)s)")
    add("--espeak", type=float, default=0.25, help="share of espeak-ng (default: %(default)s)")
    add("--voices", action="store_true", help="make the sets of more voices too")
    add("--valid", type=int, default=300, help="texts a validation set (default: %(default)s)")
    add("--grid", type=int, default=6000, help="of train_grid, not mini (default: %(default)s)")
    add("--topv2_test", type=int, default=1600, help="TOPv2 test texts (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run; exit code 2 for what the user can put right."""
    args = parse_arguments(argv)
    try:
        made = plan(args)
        for name, count in Counter((c.set, c.engine) for c in made.clips).items():
            print(f"{name[0]:14} {name[1]:8} {count:6} clips")
        write_sets(speak(made.clips, args.work, args.jobs), made.labels, args)
        return 0
    except (UserError, ToolError) as error:
        print(f"make_intent_speech: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
