"""Find speech by text, and text by speech, in a folder of recordings.

Examples:
  speechcwcl search build recordings --index recordings.index --model MODEL
  speechcwcl search update recordings.index              # new, changed and removed files
  speechcwcl search query recordings.index --text "turn on the light"
  speechcwcl search query recordings.index --audio clip.wav          # speech by speech
  speechcwcl search query recordings.index --texts sentences.txt     # the best text a recording
  speechcwcl search query recordings.index --audio clip.wav --texts sentences.txt
  speechcwcl search info recordings.index

The index knows its model and its folder; an interrupted build resumes.
`--text -` answers the lines of the standard input one by one, with the model loaded once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from speechcwcl.assets import DEFAULT_MODEL
from speechcwcl.errors import require, summarise
from speechcwcl.files import read_text

FORMATS = ("table", "json", "tsv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="build|update|query|info")

    def action(name: str, line: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name,
            help=line,
            description=line,
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )

    build = action("build", "make an index of a folder, or bring it up to date")
    build.add_argument("folder", type=Path, help="folder of recordings, searched at any depth")
    build.add_argument("--index", type=Path, required=True, help="folder of the index")
    build.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="a model folder or hub id (default: %(default)s)",
    )
    build.add_argument(
        "--window",
        type=float,
        default=15.0,
        help="longer recordings are cut into windows of so many seconds; 0 never cuts",
    )
    build.add_argument("--hop", type=float, default=7.5, help="seconds between windows")
    update = action("update", "bring an index up to date: new, changed and removed recordings")
    query = action("query", "ask an index")
    info = action("info", "what is in an index")
    for verb in (update, query, info):
        verb.add_argument("index", type=Path, help="folder of the index")
    for verb in (build, update, query):
        verb.add_argument("--device", default="cpu", help="cpu, cuda:0, ...")
    for verb in (update, query):
        verb.add_argument("--model", help="where the model is now; left out: where it was")
    query.add_argument(
        "--text", action="append", help="what was said; may be repeated; - reads stdin"
    )
    query.add_argument(
        "--audio", action="append", type=Path, help="a similar recording; may be repeated"
    )
    query.add_argument(
        "--texts", type=Path, help="a file of texts, one a line: find text by speech instead"
    )
    query.add_argument(
        "--top_k", type=int, help="number of answers; left out: 10, or 1 with --texts"
    )
    query.add_argument(
        "--format", choices=FORMATS, default="table", help="json: one line for each question"
    )


def run(args: argparse.Namespace) -> int:
    if args.action == "query":
        return _query(args)
    from speechcwcl.apps import search

    if args.action == "info":
        answer = search.SearchIndex.open(args.index).describe()
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        return 0
    if args.action == "build":
        index, aligner = search.build(
            args.folder, args.index, args.model, args.window, args.hop, args.device
        )
    else:
        index, aligner = search.open_with_model(args.index, args.model, args.device)
    done = index.update(aligner)
    if done.broken:
        print(summarise([f"left out: {why}" for why in done.broken.values()]), file=sys.stderr)
    print(
        f"{index.folder}: {done.clips} clips of {done.kept + done.new + done.changed} recordings: "
        f"{done.new} new, {done.changed} changed, {done.removed} removed, "
        f"{len(done.broken)} unreadable"
    )
    require(done.clips > 0, f"{index.root}: none of its recordings can be read")
    return 0


def _query(args: argparse.Namespace) -> int:
    require(
        bool(args.text or args.audio or args.texts),
        "nothing asked: give --text, --audio or --texts",
    )
    require(not (args.texts and args.text), "--texts finds texts by speech: leave --text out")
    require(args.top_k is None or args.top_k >= 1, f"--top_k: {args.top_k} is below 1")
    for text in args.text or []:
        require(bool(text.strip()), "--text: empty")
    texts = _lines(args.texts) if args.texts else []
    from speechcwcl.apps import search

    index, aligner = search.open_with_model(args.index, args.model, args.device)
    if texts:
        _print_texts(search.find_texts(index, aligner, texts, args.audio, args.top_k or 1), args)
    else:
        asked = (
            line for text in args.text or [] for line in (sys.stdin if text == "-" else [text])
        )
        questions = (line.strip() for line in asked if line.strip())
        _print_hits(
            search.find_speech(index, aligner, questions, args.audio, args.top_k or 10), args
        )
    return 0


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path).splitlines()]
    texts = list(dict.fromkeys(line for line in lines if line))
    require(bool(texts), f"{path}: no texts in it")
    return texts


def _tsv(*cells: Any) -> None:
    print("\t".join("" if cell is None else str(cell) for cell in cells))


def _print_hits(answers: Iterable[tuple[str, list[Any]]], args: argparse.Namespace) -> None:
    if args.format == "tsv":
        _tsv("query", "rank", "score", "start", "end", "path")
    for question, hits in answers:
        if args.format == "json":
            found = {"query": question, "hits": [hit._asdict() for hit in hits]}
            print(json.dumps(found, ensure_ascii=False))
        elif args.format == "table":
            print(f"{question}\n{'rank':>4}  score {'start':>9} {'end':>9}  recording")
        for rank, hit in enumerate(hits, 1):
            if args.format == "tsv":
                _tsv(question, rank, hit.score, hit.start, hit.end, hit.path)
            elif args.format == "table":
                print(f"{rank:>4}  {hit.score:.3f} {hit.start:>9.2f} {hit.end:>9.2f}  {hit.path}")
        sys.stdout.flush()


def _print_texts(answers: Iterable[tuple[Any, ...]], args: argparse.Namespace) -> None:
    if args.format == "tsv":
        _tsv("path", "start", "end", "rank", "score", "text")
    for path, start, end, pairs in answers:
        if args.format == "json":
            found = {"path": path, "start": start, "end": end}
            found["texts"] = [{"text": text, "score": score} for text, score in pairs]
            print(json.dumps(found, ensure_ascii=False))
        elif args.format == "table":
            print(path if start is None else f"{path}  {start:.2f} to {end:.2f} s")
        for rank, (text, score) in enumerate(pairs, 1):
            if args.format == "tsv":
                _tsv(path, start, end, rank, f"{score:.6f}", text)
            elif args.format == "table":
                print(f"{rank:>4}  {score:.3f}  {text}")
