"""Zero-shot protocols: which labels, which words stand for them, in which templates.

A protocol is a YAML file (one of the package's, by name, or yours, by path)::

    name: my_rooms                  # a folder of this name takes the scores
    corpus: mycorpus                # for readers
    split: test                     # for readers, optional
    description: In which room?     # for readers, optional
    label_field: label              # the field of the data folder (utt2label); the default
    labels:                         # label id -> text, or several texts that mean the same
      kitchen: the kitchen
      bath: [the bathroom, the bath]
    templates: plain                # a file of templates/, or a list; "{}" stands for the text
    map: {cellar: kitchen}          # label in the data -> label id, optional; "*" = any other
    ignore: [garden]                # utterances with these labels are left out, optional

An unknown key, a repeated label, or two labels with the same text is an error with its line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from typing import Protocol as Shape

import numpy as np
import yaml

from speechcwcl.errors import UserError, closest, summarise
from speechcwcl.files import sha256_json
from speechcwcl.zeroshot.strict_yaml import StrictYaml

PROTOCOLS = Path(__file__).parent / "protocols"
TEMPLATES = Path(__file__).parent / "templates"
ANY_OTHER = "*"

_KEYS = (
    "name",
    "corpus",
    "split",
    "description",
    "label_field",
    "labels",
    "templates",
    "map",
    "ignore",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Labelled(Shape):
    """What :meth:`Protocol.assign` needs of an utterance."""

    id: str
    labels: dict[str, str]


@dataclass(frozen=True)
class Protocol:
    """A label set with its wording.

    Attributes:
        name: name of the protocol and of its score folder.
        labels: label id -> the texts that stand for it, in file order.
        templates: each holds ``{}`` once, where the text goes.
        label_field: field of :attr:`Utterance.labels` that is scored.
        mapping: label in the data -> label id; key ``"*"`` takes every label not named elsewhere.
        ignore: labels in the data whose utterances are left out.
        corpus, split, description: for readers.
        templates_name: name of the template file, or ``""`` for a list given in place.
        path: the file it came from, if any.
    """

    name: str
    labels: dict[str, tuple[str, ...]]
    templates: tuple[str, ...] = ("{}",)
    label_field: str = "label"
    mapping: dict[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    corpus: str = ""
    split: str = ""
    description: str = ""
    templates_name: str = ""
    path: str = ""

    @property
    def ids(self) -> list[str]:
        """Label ids in file order: the order of the columns of every score matrix."""
        return list(self.labels)

    @property
    def texts(self) -> dict[str, str]:
        """Label id -> the first of its texts, for people."""
        return {label: texts[0] for label, texts in self.labels.items()}

    @property
    def hash(self) -> str:
        """Hex sha256 of the meaning: what is scored, not how the file is laid out or described."""
        return sha256_json(
            {
                "label_field": self.label_field,
                "labels": {label: sorted(texts) for label, texts in self.labels.items()},
                "templates": sorted(self.templates),
                "map": self.mapping,
                "ignore": sorted(self.ignore),
            }
        )

    def prompts(self, template: str) -> list[list[str]]:
        """The template filled with every text: one list a label, in the order of :attr:`ids`."""
        return [[template.replace("{}", text) for text in texts] for texts in self.labels.values()]

    def every_prompt(self) -> list[str]:
        """All templates filled with all texts."""
        return [
            template.replace("{}", text)
            for template in self.templates
            for texts in self.labels.values()
            for text in texts
        ]

    def describe(self) -> dict[str, Any]:
        """Plain JSON of the protocol, for score files."""
        return {
            "name": self.name,
            "hash": self.hash,
            "corpus": self.corpus,
            "split": self.split,
            "description": self.description,
            "label_field": self.label_field,
            "templates_name": self.templates_name,
            "templates": list(self.templates),
            "labels": [[label, list(texts)] for label, texts in self.labels.items()],
        }

    def assign(self, utterances: Sequence[Labelled]) -> tuple[np.ndarray, np.ndarray]:
        """Find the class of every utterance.

        Args:
            utterances: anything with ``id`` and ``labels``.

        Returns:
            ``(kept, targets)``, both int64 ``(n_kept,)``: positions in ``utterances`` of those
            that are not ignored, and their columns in :attr:`ids`.

        Raises:
            UserError: an utterance lacks the field or has a label unknown to the protocol (the
                first ten are named, with the closest label), or nothing is left.
        """
        column = {label: index for index, label in enumerate(self.labels)}
        kept: list[int] = []
        targets: list[int] = []
        problems: list[str] = []
        for position, utterance in enumerate(utterances):
            raw = utterance.labels.get(self.label_field)
            if raw is None:
                problems.append(self._no_field(utterance))
            elif raw in self.ignore:
                continue
            elif (label := self._label_of(raw)) is None:
                problems.append(self._unknown(utterance.id, raw))
            else:
                kept.append(position)
                targets.append(column[label])
        if problems:
            raise UserError(summarise(problems))
        if not kept:
            raise UserError(
                f"protocol {self.name!r}: no utterance to score"
                f" ({len(utterances)} given, all ignored); choose another set or protocol"
            )
        return np.asarray(kept, dtype=np.int64), np.asarray(targets, dtype=np.int64)

    def _label_of(self, raw: str) -> str | None:
        if raw in self.mapping:
            return self.mapping[raw]
        if raw in self.labels:
            return raw
        return self.mapping.get(ANY_OTHER)

    def _no_field(self, utterance: Labelled) -> str:
        has = ", ".join(sorted(utterance.labels)) or "none"
        return (
            f"protocol {self.name!r}: utterance {utterance.id!r} has no label field"
            f" {self.label_field!r} (it has: {has}){closest(self.label_field, utterance.labels)};"
            f" add utt2{self.label_field} to the data folder or change label_field"
        )

    def _unknown(self, utterance_id: str, raw: str) -> str:
        return (
            f"protocol {self.name!r}: utterance {utterance_id!r} has the label {raw!r}, which the"
            f" protocol does not know{closest(raw, [*self.labels, *self.mapping])};"
            f" add it to labels, map or ignore{f' of {self.path}' if self.path else ''}"
        )


def list_protocols() -> list[str]:
    """Names of the protocols that come with the package."""
    return sorted(path.stem for path in PROTOCOLS.glob("*.yaml"))


def list_templates() -> list[str]:
    """Names of the template files that come with the package."""
    return sorted(path.stem for path in TEMPLATES.glob("*.yaml"))


def load_protocol(name_or_path: str | Path) -> Protocol:
    """Read a protocol: a name from :func:`list_protocols`, or a path to a YAML file.

    Raises:
        UserError: unknown name, or a fault in the file (with its line).
    """
    path = _resolve(name_or_path, PROTOCOLS, list_protocols(), "protocol")
    document = StrictYaml(path)
    nodes = document.fields(_KEYS, ("name", "labels"), "a protocol")
    name = document.text(nodes["name"], "name")
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{document.where(nodes['name'])}: name {name!r} must be letters, digits, '_', '-' and"
            " '.' only: a folder is called so"
        )
    labels = _read_labels(document, nodes["labels"])
    templates_name, templates = _read_templates(document, nodes.get("templates"))
    ignore = tuple(document.texts(nodes["ignore"], "ignore")) if "ignore" in nodes else ()
    mapping = _read_map(document, nodes["map"], labels) if "map" in nodes else {}
    _check_ignore(document, nodes, labels, mapping, ignore)

    def optional(key: str, default: str = "") -> str:
        return document.text(nodes[key], key) if key in nodes else default

    return Protocol(
        name=name,
        labels=labels,
        templates=templates,
        label_field=optional("label_field", "label"),
        mapping=mapping,
        ignore=ignore,
        corpus=optional("corpus"),
        split=optional("split"),
        description=optional("description"),
        templates_name=templates_name,
        path=str(path),
    )


def load_labels(path: str | Path) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...] | None]:
    """Labels from a YAML file: a whole protocol, or nothing but ``label: text`` lines.

    Returns:
        Label -> its texts, and the protocol's templates (None where the file is not a protocol).

    Raises:
        UserError: a fault in the file (with its line).
    """
    document = StrictYaml(path)
    if {"name", "labels"} <= set(document.mapping(document.root, "the file")):
        protocol = load_protocol(path)
        return protocol.labels, protocol.templates
    return _read_labels(document, document.root), None


def load_templates(name_or_path: str | Path) -> tuple[str, ...]:
    """Read a template file: a name from :func:`list_templates`, or a path.

    The file has the keys ``name``, ``description`` (optional) and ``templates`` (a list).
    """
    path = _resolve(name_or_path, TEMPLATES, list_templates(), "template file")
    document = StrictYaml(path)
    keys = ("name", "description", "templates")
    nodes = document.fields(keys, ("name", "templates"), "a template file")
    return _check_templates(document, nodes["templates"])


def _resolve(given: str | Path, folder: Path, names: list[str], what: str) -> Path:
    """A path as it is (it ends in .yaml or has a folder in it), else a name of the package's."""
    text = os.fspath(given)
    if text.endswith((".yaml", ".yml")) or os.sep in text or "/" in text:
        return Path(text)
    if text not in names:
        raise UserError(
            f"no {what} is called {text!r}{closest(text, names)};"
            f" known: {', '.join(names)}; or give the path of a .yaml file"
        )
    return folder / f"{text}.yaml"


def _read_labels(document: StrictYaml, node: yaml.Node) -> dict[str, tuple[str, ...]]:
    labels: dict[str, tuple[str, ...]] = {}
    owner: dict[str, str] = {}
    for label, (_, value) in document.mapping(node, "labels").items():
        texts = document.texts(value, f"the text of label {label!r}")
        for text in texts:
            other = owner.setdefault(text.casefold(), label)
            if other != label:
                raise UserError(
                    f"{document.where(value)}: labels {other!r} and {label!r} have the same text"
                    f" {text!r}, so nothing could tell them apart; word one differently"
                )
        labels[label] = tuple(texts)
    if len(labels) < 2:
        raise UserError(f"{document.where(node)}: labels: at least two are needed to choose from")
    if ANY_OTHER in labels:
        raise UserError(f"{document.where(node)}: labels: '*' means 'any other' in map; rename it")
    return labels


def _read_templates(document: StrictYaml, node: yaml.Node | None) -> tuple[str, tuple[str, ...]]:
    if node is None:
        return "plain", load_templates("plain")
    if isinstance(node, yaml.ScalarNode) and "{}" not in node.value:
        name = document.text(node, "templates")
        try:
            return name, load_templates(name)
        except UserError as error:
            raise UserError(f"{document.where(node)}: templates: {error}") from error
    return "", _check_templates(document, node)


def _check_templates(document: StrictYaml, node: yaml.Node) -> tuple[str, ...]:
    templates = document.texts(node, "templates")
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for template, item in zip(templates, items, strict=True):
        if template.count("{}") != 1:
            raise UserError(
                f"{document.where(item)}: template {template!r} must hold {{}} once: the label's"
                " text goes there"
            )
    return tuple(templates)


def _read_map(
    document: StrictYaml, node: yaml.Node, labels: dict[str, tuple[str, ...]]
) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for raw, (key_node, value) in document.mapping(node, "map").items():
        label = document.text(value, f"map of {raw!r}")
        if label not in labels:
            raise UserError(
                f"{document.where(value)}: map: {raw!r} goes to {label!r}, which is not one of the"
                f" labels{closest(label, labels)}"
            )
        if raw in labels and raw != label:
            raise UserError(
                f"{document.where(key_node)}: map: {raw!r} is itself a label, so it cannot also"
                f" mean {label!r}"
            )
        mapping[raw] = label
    return mapping


def _check_ignore(
    document: StrictYaml,
    nodes: dict[str, yaml.Node],
    labels: dict[str, tuple[str, ...]],
    mapping: dict[str, str],
    ignore: tuple[str, ...],
) -> None:
    for raw in ignore:
        if raw in labels or raw in mapping:
            where = document.where(nodes["ignore"])
            raise UserError(f"{where}: ignore: {raw!r} is also in {_home(raw, labels)}; keep one")


def _home(raw: str, labels: dict[str, tuple[str, ...]]) -> str:
    return "labels" if raw in labels else "map"
