"""Labels and templates as a user gives them: in words, in a file, or by the name of a protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechcwcl.errors import UserError, closest, require
from speechcwcl.files import read_text
from speechcwcl.zeroshot.classifier import PLAIN, split_labels

if TYPE_CHECKING:  # labels in words need no pydantic
    from speechcwcl.zeroshot.protocol import LabelTexts

    Wording = tuple[LabelTexts, tuple[str, ...]]  # label -> its texts, templates


def choose_labels(
    labels: str | None = None,
    file: Path | None = None,
    protocol: str | None = None,
    templates: Sequence[str] = (),
    packed: Mapping[str, Wording] | None = None,
) -> Wording:
    """The labels that one of the first three says.

    Args:
        labels: texts, separated by `;`.
        file: labels one a line, or a `.yaml`: `label: text` lines, or a protocol.
        protocol: a name in `packed` or of the package, or the path of a `.yaml`.
        templates: template files by name or path, or sentences with `{}`; when there are none,
            the protocol's, or the label alone.
        packed: name -> what the model's folder brings along.

    Raises:
        UserError: no labels, one twice, an unknown name, a file that cannot be read as labels.
    """
    own: tuple[str, ...] | None = None
    if labels is not None:
        found = _plain(labels.split(";"), "--labels")
    elif file is not None and file.suffix.lower() in (".yaml", ".yml"):
        from speechcwcl.zeroshot.protocol import load_labels

        found, own = load_labels(file)
    elif file is not None:
        found = _plain(read_text(file).splitlines(), str(file))
    elif protocol is not None:
        found, own = _of_protocol(protocol, packed or {})
    else:
        raise UserError('no labels given; say --labels "a;b;c", --labels_file or --protocol')
    if templates:
        own = tuple(dict.fromkeys(t for given in templates for t in _templates(given)))
    return found, own or PLAIN


def _plain(texts: Sequence[str], where: str) -> LabelTexts:
    names = [" ".join(text.split()) for text in texts if text.strip()]
    require(bool(names), f"{where}: no labels in it")
    try:
        split_labels(names)
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('classify: ')}") from error
    return {name: (name,) for name in names}


def _of_protocol(name: str, packed: Mapping[str, Wording]) -> Wording:
    from speechcwcl.zeroshot.protocol import list_protocols, load_protocol

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
        require(given.count("{}") == 1, f"--template {given!r}: {{}} must be in it exactly once")
        return (given,)
    from speechcwcl.zeroshot.protocol import load_templates

    return load_templates(given)
