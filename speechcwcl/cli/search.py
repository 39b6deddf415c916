"""Find speech by text, and text by speech, in a folder of recordings.

Examples:
  speechcwcl search build recordings --index recordings.index --model MODEL
  speechcwcl search update recordings.index              # new, changed and removed files
  speechcwcl search query recordings.index --text "turn on the light"
  speechcwcl search query recordings.index --audio clip.wav          # speech by speech
  speechcwcl search query recordings.index --texts sentences.txt     # the best text a recording
  speechcwcl search query recordings.index --audio clip.wav --texts sentences.txt
  speechcwcl search info recordings.index

The index knows its model and its folder; building may be interrupted and goes on where it was.
`--text -` answers the lines of the standard input one by one, with the model loaded once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from speechcwcl.errors import UserError, require, summarise
from speechcwcl.files import read_text
from speechcwcl.models.aligner import Aligner
from speechcwcl.models.identity import model_identity
from speechcwcl.search.index import Hit, SearchIndex
from speechcwcl.search.recordings import Cutting
from speechcwcl.search.vectors import usearch_index

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
    build.add_argument("--model", required=True, help="a model folder or hub id")
    cutting = Cutting()
    build.add_argument(
        "--window",
        type=float,
        default=cutting.window,
        help="seconds; longer recordings are cut into windows; 0: never",
    )
    build.add_argument("--hop", type=float, default=cutting.hop, help="seconds between windows")
    update = action("update", "bring an index up to date: new, changed and removed recordings")
    query = action("query", "ask an index")
    info = action("info", "what is in an index")
    for verb in (update, query, info):
        verb.add_argument("index", type=Path, help="folder of the index")
    for verb in (build, update, query):
        verb.add_argument("--device", default="cpu", help="cpu, cuda:0, ...")
    for verb in (update, query):
        verb.add_argument("--model", help="where the model is now; left out: where it was")
    query.add_argument("--text", action="append", help="what was said; may be repeated; - : stdin")
    query.add_argument("--audio", action="append", type=Path, help="a recording that is like it")
    query.add_argument(
        "--texts", type=Path, help="a file of texts, one a line: find text by speech instead"
    )
    query.add_argument("--top_k", type=int, help="answers; left out: 10, with --texts 1")
    query.add_argument("--format", choices=FORMATS, default="table", help="json: a line a question")
    query.add_argument(
        "--exact",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare with every piece (the default up to 300,000), or go along the graph",
    )


def run(args: argparse.Namespace) -> int:
    if args.action == "info":
        print(json.dumps(SearchIndex.open(args.index).describe(), indent=2, ensure_ascii=False))
        return 0
    usearch_index()  # asked for before the model takes its seconds
    if args.action == "query":
        return _query(args)
    if args.action == "build":
        require(args.folder.is_dir(), f"{args.folder}: no such folder of recordings")
        cutting = Cutting(args.window, args.hop)
        aligner = Aligner.from_pretrained(args.model, device=args.device)
        index = SearchIndex.create(
            args.index,
            args.folder,
            dim=aligner.dim,
            identity=model_identity(aligner),
            model=_where(args.model),
            cutting=cutting,
        )
    else:
        index = SearchIndex.open(args.index)
        aligner = _model_of(index, args)
    return _update(index, aligner)


def _where(model: str) -> str:
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def _model_of(index: SearchIndex, args: argparse.Namespace) -> Aligner:
    name = args.model or index.meta["model"]
    if not args.model and Path(name).is_absolute() and not Path(name).is_dir():
        raise UserError(f"{index.folder}: its model {name} is gone; say where it is with --model")
    aligner = Aligner.from_pretrained(name, device=args.device)
    index.check_model(model_identity(aligner), name)
    return aligner


def _update(index: SearchIndex, aligner: Aligner) -> int:
    with tqdm(desc="embed", unit="file", dynamic_ncols=True, disable=None) as bar:

        def begin(count: int) -> None:
            bar.reset(total=count)

        done = index.update(aligner, begin=begin, step=bar.update, waiting=_say_waiting)
    if done.broken:
        lines = [f"left out: {why}" for why in done.broken.values()]
        print(summarise(lines), file=sys.stderr)
    print(
        f"{index.folder}: {done.clips} clips of {done.kept + done.new + done.changed} recordings: "
        f"{done.new} new, {done.changed} changed, {done.removed} removed, "
        f"{len(done.broken)} unreadable"
    )
    require(done.clips > 0, f"{index.root}: none of its recordings can be read")
    return 0


def _say_waiting() -> None:
    print("another process is updating this index; waiting for it", file=sys.stderr)


# -- asking -------------------------------------------------------------------------------------


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
    index = SearchIndex.open(args.index)
    aligner = _model_of(index, args)
    if args.texts:
        answers = _texts_by_speech(index, aligner, texts, args)
        show = _TextPrinter(args.format)
    else:
        answers = _speech(index, aligner, args)
        show = _HitPrinter(args.format)
    for question, found in answers:
        show(question, found)
    return 0


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path).splitlines()]
    texts = list(dict.fromkeys(line for line in lines if line))
    require(bool(texts), f"{path}: no texts in it")
    return texts


def _speech(
    index: SearchIndex, aligner: Aligner, args: argparse.Namespace
) -> Iterator[tuple[str, list[Hit]]]:
    top_k = args.top_k or 10
    for text in args.text or []:
        asked = (line.strip() for line in sys.stdin) if text == "-" else [text]
        for question in asked:
            if question:
                vectors = aligner.encode_text([question])
                yield question, index.search(vectors, top_k, exact=args.exact)[0]
    for path in args.audio or []:
        vectors = aligner.encode_speech([path])
        yield str(path), index.search(vectors, top_k, exact=args.exact)[0]


def _texts_by_speech(
    index: SearchIndex, aligner: Aligner, texts: Sequence[str], args: argparse.Namespace
) -> Iterator[tuple[Any, list[tuple[str, float]]]]:
    top_k = min(args.top_k or 1, len(texts))
    vectors = aligner.encode_text(texts)
    if not args.audio:
        yield from index.texts_of(vectors, texts, top_k)
        return
    for path in args.audio:
        cosines = (aligner.encode_speech([path]) @ vectors.T)[0]
        best = sorted(range(len(texts)), key=lambda i: -cosines[i])[:top_k]
        yield str(path), [(texts[i], round(float(cosines[i]), 6)) for i in best]


class _HitPrinter:
    """Recordings that answer a question."""

    def __init__(self, form: str):
        self._form = form
        if form == "tsv":
            print("query\trank\tscore\tstart\tend\tpath")

    def __call__(self, question: str, hits: list[Hit]) -> None:
        if self._form == "json":
            found = {"query": question, "hits": [asdict(hit) for hit in hits]}
            print(json.dumps(found, ensure_ascii=False), flush=True)
            return
        if self._form == "table":
            print(f"{question}\n{'rank':>4}  score {'start':>9} {'end':>9}  recording")
        for rank, hit in enumerate(hits, 1):
            if self._form == "tsv":
                cells = (question, rank, hit.score, hit.start, hit.end, hit.path)
                print("\t".join(str(cell) for cell in cells))
            else:
                print(f"{rank:>4}  {hit.score:.3f} {hit.start:>9.2f} {hit.end:>9.2f}  {hit.path}")
        sys.stdout.flush()


class _TextPrinter:
    """Texts that answer a recording."""

    def __init__(self, form: str):
        self._form = form
        if form == "tsv":
            print("path\tstart\tend\trank\tscore\ttext")

    def __call__(self, piece: Hit | str, pairs: list[tuple[str, float]]) -> None:
        path, start, end = (
            (piece, None, None) if isinstance(piece, str) else (piece.path, piece.start, piece.end)
        )
        if self._form == "json":
            found = {"path": path, "start": start, "end": end}
            found["texts"] = [{"text": text, "score": round(score, 6)} for text, score in pairs]
            print(json.dumps(found, ensure_ascii=False))
            return
        if self._form == "table":
            print(path if start is None else f"{path}  {start:.2f} to {end:.2f} s")
        for rank, (text, score) in enumerate(pairs, 1):
            if self._form == "tsv":
                cells = (path, *("" if v is None else v for v in (start, end)), rank)
                print("\t".join(str(cell) for cell in (*cells, f"{score:.6f}", text)))
            else:
                print(f"{rank:>4}  {score:.3f}  {text}")
