"""Import and export utterances: csv, NeMo/Whisper jsonl, SpeechBrain csv/json, lhotse cuts.

SOURCE is any of these, a data folder, or a compiled manifest.jsonl; OUT is any of these or a data
folder, which `speechcwcl format` compiles. The format of SOURCE is found by looking at it. The
format of OUT follows from its name: no suffix is a data folder, .csv and .tsv are csv, .jsonl is
jsonl; for any other, say --to.
Columns (or keys) with usual names are found; name the others. If a guessed column of ids repeats an
id, lines are numbered instead (with --id none they always are). If a text is a list of several,
one of them is drawn by a hash of the id.

Example:
    speechcwcl convert corpus.csv data/train --text sentence --labels label=intent room=place
    speechcwcl convert nemo_manifest.jsonl data/train --root /corpora/audio
    speechcwcl convert data/train cuts.jsonl.gz --to lhotse
    speechcwcl convert dump/train/manifest.jsonl train.csv --to speechbrain_csv
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from speechcwcl.corpora._convert import export_manifest, import_datadir
from speechcwcl.corpora._formats import FORMATS, Options
from speechcwcl.data.kaldi import check_datadir
from speechcwcl.errors import UserError, require

DATADIR = "datadir"
_BY_SUFFIX = {"": DATADIR, ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="what to read")
    parser.add_argument("out", type=Path, help="what to write")
    parser.add_argument(
        "--from", dest="source_format", choices=list(FORMATS), help="format of SOURCE"
    )
    parser.add_argument("--to", choices=[DATADIR, *FORMATS], help="format of OUT")
    for role in ("audio", "text", "speaker", "id"):
        parser.add_argument(f"--{role}", default="", metavar="COLUMN", help=f"holds the {role}")
    parser.add_argument(
        "--labels", nargs="+", default=[], metavar="FIELD=COLUMN", help="columns that hold labels"
    )
    parser.add_argument(
        "--root", default="", help="where relative paths start; left out: SOURCE's folder"
    )
    parser.add_argument(
        "--skip_bad",
        action="store_true",
        help="leave out what is wrong and list it (DATADIR/bad.tsv, OUT.bad.tsv)",
    )


def run(args: argparse.Namespace) -> int:
    to = args.to or _BY_SUFFIX.get(args.out.suffix, "")
    require(bool(to), f"{args.out}: which format? say --to ({', '.join(FORMATS)})")
    options = Options(args.audio, args.text, args.speaker, args.id, _labels(args.labels), args.root)
    given: dict[str, Any] = {"format": args.source_format or "", "options": options}
    given["skip_bad"] = args.skip_bad
    if to == DATADIR:
        require(not args.source.is_dir(), f"{args.source}: a data folder already")
        print(check_datadir(import_datadir(args.source, args.out, **given)))
    else:
        print(f"wrote {export_manifest(args.source, args.out, to, **given)} ({to})")
    return 0


def _labels(words: list[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    for name, equals, column in pairs:
        if not (name and equals and column):
            raise UserError(f"--labels {name}: expected FIELD=COLUMN, such as label=intent")
    return {name: column for name, _, column in pairs}
