"""Classify recordings by labels written in words, with no training.

Recordings are files, folders (searched for audio) and `-` (paths on standard input, one a line).
Answers come in that order, as soon as they are there. A recording that cannot be read is named and
left out; the exit code then is 2, or 0 with --skip_bad.

Examples:
    speechcwcl classify --model exp/cwcl/model --labels "turn on the light;play music" a.wav dir/
    find . -name '*.flac' | speechcwcl classify --model M --protocol gsc_v2_35 --format tsv -

"None of these": without a threshold the best label is the answer, whatever is said. With thresholds
the answer is `unknown` where no label reaches its own. They are set on recordings that say none of
the labels, or on ordinary sentences that come with the package; --save keeps them:
    speechcwcl classify --labels "yes;no" --far 0.05 --negatives other/ --save yes_no.json
    speechcwcl classify --keywords yes_no.json new/
Clips of your own stand beside the words of a label (a folder of them for each label):
    speechcwcl classify --examples mine/ --false_alarms_per_hour 0.5 new/
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

import speechcwcl
from speechcwcl.assets import DEFAULT_MODEL
from speechcwcl.data.audio.recordings import Reader, find_recordings
from speechcwcl.errors import UserError, require
from speechcwcl.models.weights.sources import locate
from speechcwcl.zeroshot.classifier import UNKNOWN, rank, speech_and_limit, split_labels

if TYPE_CHECKING:
    import numpy as np

    from speechcwcl.zeroshot.keywords import Keywords


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audio", nargs="*", help="files, folders, or - for paths on stdin")
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="a model folder (EXPDIR/model or a packed one), or a hub id; left out: %(default)s, "
        "which comes with the package",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, ...")
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="run the model by onnxruntime: MODEL may be a folder of `speechcwcl export`; any "
        "other is exported to the cache once",
    )
    add_label_arguments(parser)
    parser.add_argument("--top_k", type=int, default=3, help="labels to show of each recording")
    parser.add_argument(
        "--format",
        choices=("table", "json", "tsv"),
        default="table",
        help="table: for people; json: one object and line for each recording; tsv: one line for "
        "each recording and label",
    )
    parser.add_argument(
        "--skip_bad", action="store_true", help="exit 0 even if some cannot be read"
    )
    parser.add_argument(
        "--longest", type=float, default=300.0, metavar="S", help="refuse longer recordings"
    )
    group = parser.add_argument_group("unknown")
    group.add_argument("--threshold", type=float, metavar="COSINE", help="least cosine of a label")
    group.add_argument(
        "--far",
        type=float,
        metavar="SHARE",
        help="set thresholds that so many negatives pass",
    )
    group.add_argument("--unknown", default=UNKNOWN, help="the answer below the threshold")


def run(args: argparse.Namespace) -> int:
    from speechcwcl.models.folders import packed_protocols

    _check(args)
    folder = locate(args.model)
    packed = packed_protocols(folder) if args.protocol and not args.onnx else None
    saved = read_keywords(args)
    labels, templates = (saved.labels, ()) if saved else labels_of(args, packed)
    enrol = saved is None and asks_to_enrol(args)
    if not saved and not enrol and len(labels) < 2 and args.threshold is None:
        raise UserError(
            f"one label only ({next(iter(labels))!r}), so it is always the answer; separate "
            "several by ';' or give a threshold"
        )
    known = None  # standard input is read as it comes; other paths are known before the model is
    if "-" not in args.audio:
        known = list(find_recordings(args.audio, on_omitted=_complain))
    model = speechcwcl.load(folder, device=args.device, onnx=args.onnx)
    keywords = None
    if saved or enrol:
        keywords = enrolled(args, model, saved, labels, templates, _complain)
        names, rows = keywords.labels, keywords.rows
    else:
        names, texts = split_labels(labels)
        rows = model.encode_labels(texts, templates)
    reader = Reader(args.longest, _complain)
    answers = _answers(args, model, names, rows, keywords, reader, known)
    for line in _formatted(args.format, answers, known or [], [*names, args.unknown]):
        print(line, flush=True)
    return _verdict(args, reader)


def _check(args: argparse.Namespace) -> None:
    require(args.top_k >= 1, f"--top_k {args.top_k}: must be at least 1")
    require(args.longest > 0, f"--longest {args.longest:g}: must be above 0")
    if args.threshold is not None and not -1 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold:g}: a cosine lies between -1 and 1")
    require(
        bool(args.audio or args.save),
        "no recordings given: name files or folders, or - for paths on stdin",
    )
    require("-" not in (args.negatives or []), "--negatives: files and folders only")


def _complain(line: str) -> None:
    with tqdm.external_write_mode(file=sys.stderr):
        print(f"speechcwcl classify: {line}", file=sys.stderr, flush=True)


def _answers(
    args: argparse.Namespace,
    model: Any,
    names: list[str],
    rows: np.ndarray,
    keywords: Keywords | None,
    reader: Reader,
    known: list[str] | None,
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(path, ranking) of every recording that can be read, in order."""
    paths = find_recordings(args.audio, sys.stdin, _complain) if known is None else known
    total = None if known is None else len(known)
    hidden = (total is not None and total < 20) or not sys.stderr.isatty()
    with tqdm(desc="classify", unit="clip", total=total, disable=hidden, leave=False) as bar:
        for found, wavs in reader.chunks(paths):
            speech, limit = speech_and_limit(model, wavs, keywords, args.threshold)
            ranked = rank(
                speech,
                rows,
                names,
                model.logit_scale,
                top_k=args.top_k,
                threshold=limit,
                unknown=args.unknown,
            )
            with tqdm.external_write_mode(file=sys.stdout):
                yield from zip(found, ranked, strict=True)
            bar.update(len(found))


def _formatted(
    style: str,
    answers: Iterator[tuple[str, list[dict[str, Any]]]],
    known: list[str],
    names: list[str],
) -> Iterator[str]:
    if style == "tsv":
        from speechcwcl.evaluation.results import escape

        yield "\t".join(("audio", "rank", "label", "score", "cosine"))
    width = min(60, max(map(len, known), default=20))
    column = min(30, max(map(len, names)))
    for path, ranking in answers:
        if style == "json":
            yield json.dumps({"audio": path, "labels": ranking}, ensure_ascii=False)
        elif style == "tsv":
            for place, entry in enumerate(ranking, start=1):
                cells = (path, place, entry["label"])
                numbers = (f"{entry['score']:.6f}", f"{entry['cosine']:.6f}")
                yield "\t".join([*map(escape, cells), *numbers])
        else:
            shown = (f"{e['label']:<{column}} {100 * e['score']:3.0f} %" for e in ranking)
            yield f"{path:<{width}}  " + "   ".join(shown)


def _verdict(args: argparse.Namespace, reader: Reader) -> int:
    if not reader.read and not reader.bad:
        if not args.audio:  # only enrolled and saved
            return 0
        raise UserError("no recordings given: standard input was empty")
    if not reader.bad:
        return 0
    print(
        f"speechcwcl classify: {reader.bad} of {reader.read + reader.bad} recordings could not be "
        "read" + ("" if args.skip_bad else "; the others are answered above"),
        file=sys.stderr,
    )
    return 0 if args.skip_bad and reader.read else 2


# -- which labels: the same options in `classify` and `listen` ------------------------------------


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """Labels in words, by a protocol, from examples, or saved before."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--labels", help='label texts, such as "turn on the light;play music"')
    source.add_argument(
        "--labels_file",
        type=Path,
        metavar="FILE",
        help="labels one a line, or a .yaml: `label: text` lines, or a protocol",
    )
    source.add_argument(
        "--protocol", metavar="NAME", help="the labels of a protocol, the model's own or ours"
    )
    source.add_argument("--keywords", type=Path, metavar="FILE", help="labels that --save wrote")
    parser.add_argument(
        "--template",
        action="append",
        metavar="NAME",
        help="sentences to put the labels into: a template file by name or path, or a sentence "
        "with {} for the label; may be repeated; left out: the protocol's, or the label alone",
    )
    group = parser.add_argument_group("examples and negatives")
    group.add_argument(
        "--spoken",
        action="store_true",
        default=None,
        help="take labels as they sound, spoken by synthetic voices, not as what they mean: for "
        "names (pip install 'speechcwcl[voices]'; flite too where it is installed)",
    )
    group.add_argument(
        "--examples",
        type=Path,
        metavar="FOLDER",
        help="a folder of 1 to 16 clips for each label; without other labels, its folders' names",
    )
    group.add_argument("--save", type=Path, metavar="FILE", help="keep labels and thresholds there")
    group.add_argument(
        "--negatives",
        action="append",
        metavar="PATH",
        help="file or folder of recordings that say none of the labels; may be repeated; left out: "
        "ordinary sentences",
    )
    group.add_argument(
        "--false_alarms_per_hour",
        type=float,
        metavar="N",
        help="set the thresholds so that ordinary speech gives about so many",
    )


def asks_to_enrol(args: argparse.Namespace) -> bool:
    """Whether thresholds, examples or a file are asked for, not only label texts."""
    names = ("spoken", "examples", "save", "negatives", "false_alarms_per_hour", "far")
    return any(getattr(args, name, None) is not None for name in names)


def labels_of(args: argparse.Namespace, packed: Any = None) -> tuple[Any, Any]:
    """Label -> texts, and templates; no labels where the examples' folders name them."""
    from speechcwcl.zeroshot.classifier import PLAIN, choose_labels

    given = (args.labels, args.labels_file, args.protocol)
    if args.examples and given == (None, None, None):
        return None, tuple(args.template or PLAIN)
    return choose_labels(*given, args.template or (), packed)


def read_keywords(args: argparse.Namespace) -> Keywords | None:
    """The saved ones, where a file is named; before the model is opened."""
    if args.keywords is None:
        return None
    from speechcwcl.zeroshot.keywords import Keywords

    if args.spoken or args.examples or args.template or args.save:
        raise UserError(
            "--keywords brings its vectors along: no --spoken, --examples, --template or --save"
        )
    if args.negatives:
        raise UserError("--keywords: enrol again for thresholds by negatives")
    return Keywords.load(args.keywords)


def enrolled(
    args: argparse.Namespace,
    model: Any,
    saved: Keywords | None,
    labels: Any,
    templates: Any,
    say: Callable[[str], None],
) -> Keywords:
    """The saved ones made ready; else enrol as the options ask, and save."""
    if saved:
        return model.open_keywords(saved, args.false_alarms_per_hour, getattr(args, "far", None))
    negatives = list(find_recordings(args.negatives, on_omitted=say)) if args.negatives else None
    made = model.enrol(
        labels,
        args.examples,
        templates,
        spoken=bool(args.spoken),
        negatives=negatives,
        false_alarms_per_hour=args.false_alarms_per_hour,
        far=getattr(args, "far", None),
    )
    if args.save:
        made.save(args.save)
        say(f"{args.save}: {describe(made)}")
    return made


def describe(keywords: Keywords) -> str:
    """One line about how they were made."""
    clips = sum(keywords.examples)
    line = f"{len(keywords.labels)} labels, {clips} example{'s' if clips != 1 else ''}"
    line += ", texts spoken" if keywords.spoken else ""
    if keywords.level is None:
        return f"{line}, no threshold"
    facts = ", ".join(f"{name} {value}" for name, value in keywords.set_by.items() if name != "by")
    return f"{line}, thresholds by {keywords.set_by['by']} ({facts})"
