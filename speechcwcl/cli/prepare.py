"""Turn corpora into data folders: wav.scp, text, utt2spk, [segments], [utt2label], corpus.json.

A set is a split of the corpus, or CORPUS/SPLIT for a split of another one; its data folder is
OUT/<set>.

`huggingface` takes any audio dataset: one of the hub (no code of it is run), or a parquet, arrow or
audio folder (--data). It has options of its own: --dataset ORG/NAME, --config,
--revision, the columns --audio, --text, --speaker, --id, --labels [FIELD=]COLUMN ...,
--split SET=SPLIT ..., --limit N. Columns with usual names need not be named; --id none numbers the
records. If a text is a list of several, one of them is drawn by a hash of the id. A set that does
not fit on the disk can stay where it is: --stream SET ... checks its first rows and writes
OUT/<set>/stream.json; `speechcwcl train --train OUT/<set>/stream.json` reads the set as it goes.

Example:
    speechcwcl prepare mini --out data
    speechcwcl prepare slurp --data /corpora/slurp --out data --sets train devel test_headset
    speechcwcl prepare librispeech --sets train-clean-100 slurp/test_headset --data slurp=/corpora/s
    speechcwcl prepare huggingface --sets train dev --dataset ORG/NAME --config en \\
        --text transcription --split dev=validation
    speechcwcl prepare huggingface --sets train dev --dataset ORG/NAME --stream train
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

from speechcwcl.corpora import CORPORA, Corpus, get_corpus
from speechcwcl.errors import require
from speechcwcl.stages import also_reads

TAKES_KEYS = True  # a corpus may have options of its own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("corpus", help=f"one of: {', '.join(sorted(CORPORA))}")
    parser.add_argument("--out", type=Path, default=Path("data"), help="the data folders go here")
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="DIR",
        help="a copy that you have, or CORPUS=DIR for another corpus; left out: it is fetched",
    )
    parser.add_argument(
        "--downloads", type=Path, default=Path("downloads"), help="what is fetched goes here"
    )
    parser.add_argument("--sets", nargs="+", help="which sets; left out: every split")
    parser.add_argument(
        "--skip_bad",
        action="store_true",
        help="leave bad utterances out and list them, instead of stopping",
    )
    parser.add_argument(
        "--fake",
        type=Path,
        metavar="DIR",
        help="write a tiny synthetic copy in the corpus' layout there, and prepare that",
    )


def run(args: argparse.Namespace) -> int:
    own = get_corpus(args.corpus)
    own.configure(args.rest)
    places = given_places(args.data, own.name)
    for name, splits in by_corpus(args.sets or own.splits, own.name).items():
        corpus = own if name == own.name else get_corpus(name)
        corpus.check_splits(splits)
        out = args.out if name == own.name else args.out / name
        source = find_source(corpus, splits, places, args)
        if source.is_dir() and not source.is_relative_to(args.downloads):
            also_reads(source)
        also_reads(inspect.getfile(type(corpus)))  # the reader: a recipe of one's own is edited
        for folder in corpus.prepare(source, out, splits, skip_bad=args.skip_bad):
            print(f"wrote {folder}", flush=True)
    return 0


def by_corpus(sets: list[str] | tuple[str, ...], own: str) -> dict[str, list[str]]:
    """`["train", "slurp/test"]` -> `{own: ["train"], "slurp": ["test"]}`."""
    found: dict[str, list[str]] = {}
    for name in sets:
        corpus, slash, split = name.partition("/")
        found.setdefault(corpus if slash else own, []).append(split if slash else name)
    return found


def given_places(words: list[str], own: str) -> dict[str, Path]:
    """`["/a", "slurp=/b"]` -> `{own: /a, "slurp": /b}`."""
    places: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or name not in CORPORA:
            name, folder = own, word
        require(Path(folder).exists(), f"--data {word}: no such folder")
        require(name not in places, f"--data {word}: a folder of {name} was given already")
        places[name] = Path(folder)
    return places


def find_source(
    corpus: Corpus, splits: list[str], places: dict[str, Path], args: argparse.Namespace
) -> Path:
    """The corpus' folder: faked, given, or fetched."""
    if args.fake:
        return corpus.fake(args.fake / corpus.name)
    if corpus.name in places:
        return places[corpus.name]
    return corpus.download(args.downloads / corpus.folder, splits)
