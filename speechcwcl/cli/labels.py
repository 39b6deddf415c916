"""The options that say what to look for, the same in `classify` and `listen`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechcwcl.data.audio.recordings import find_recordings
from speechcwcl.errors import UserError

if TYPE_CHECKING:
    from speechcwcl.zeroshot.keywords import Keywords


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
