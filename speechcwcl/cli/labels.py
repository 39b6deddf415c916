"""Labels and templates as the verbs that use a model take them."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechcwcl.errors import UserError, closest, require
from speechcwcl.files import read_text
from speechcwcl.zeroshot.classifier import split_labels
from speechcwcl.zeroshot.protocol import (
    list_protocols,
    load_labels,
    load_protocol,
    load_templates,
)

LabelTexts = dict[str, tuple[str, ...]]


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
) -> tuple[LabelTexts, tuple[str, ...]]:
    """What the options of :func:`add_label_arguments` say.

    Args:
        args: the parsed options.
        model_folder: where the model may have protocols of its own.

    Returns:
        Label -> its texts, and the templates.

    Raises:
        UserError: no labels, one twice, an unknown name, a file that cannot be read as labels.
    """
    templates: tuple[str, ...] | None = None
    if args.labels is not None:
        labels = _plain(args.labels.split(";"), "--labels")
    elif args.labels_file is not None:
        labels, templates = _from_file(args.labels_file)
    elif args.protocol is not None:
        labels, templates = _of_protocol(args.protocol, model_folder)
    else:
        raise UserError('no labels given; say --labels "a;b;c", --labels_file or --protocol')
    if args.template:
        templates = tuple(dict.fromkeys(t for name in args.template for t in _templates(name)))
    return labels, templates or ("{}",)


def _plain(texts: list[str], where: str) -> LabelTexts:
    names = [" ".join(text.split()) for text in texts if text.strip()]
    require(bool(names), f"{where}: no labels in it")
    try:
        split_labels(names)
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('classify: ')}") from error
    return {name: (name,) for name in names}


def _from_file(path: Path) -> tuple[LabelTexts, tuple[str, ...] | None]:
    if path.suffix.lower() in (".yaml", ".yml"):
        return load_labels(path)
    return _plain(read_text(path).removeprefix("\ufeff").splitlines(), str(path)), None


def _of_protocol(name: str, folder: str | Path | None) -> tuple[LabelTexts, tuple[str, ...]]:
    from speechcwcl.models.checkpoint import packed_protocols

    packed = packed_protocols(folder) if folder is not None else {}
    if name in packed:
        return packed[name]
    known = [*packed, *list_protocols()]
    if name not in known and not name.endswith((".yaml", ".yml")):
        raise UserError(
            f"no protocol is called {name!r}{closest(name, known)}; known: {', '.join(known)}"
        )
    protocol = load_protocol(name)
    return protocol.labels, protocol.templates


def _templates(given: str) -> tuple[str, ...]:
    if "{}" in given:
        require(given.count("{}") == 1, f"--template {given!r}: {{}} must stand in it once")
        return (given,)
    return load_templates(given)
