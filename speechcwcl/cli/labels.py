"""Labels and templates as the verbs that use a model take them."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """``--labels``, ``--labels_file``, ``--protocol`` and ``--template``."""
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
    parser.add_argument(
        "--template",
        action="append",
        metavar="NAME",
        help="sentences to put the labels into: a template file by name or path, or a sentence "
        "with {} for the label; may be repeated; left out: the protocol's, or the label alone",
    )


def read_labels(
    args: argparse.Namespace, model_folder: str | Path | None = None
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """What the options of :func:`add_label_arguments` say: label -> its texts, and the templates.

    Args:
        args: the parsed options.
        model_folder: where the model may have protocols of its own.
    """
    from speechcwcl.models.checkpoint import packed_protocols
    from speechcwcl.zeroshot.labels import choose_labels

    packed = packed_protocols(model_folder) if args.protocol and model_folder else None
    return choose_labels(args.labels, args.labels_file, args.protocol, args.template or (), packed)
