"""Zero-shot protocols: which labels, which words stand for them, in which templates.

A protocol is a YAML file (one of the package's, by name, or yours, by path):

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
    task: classify                  # or spotting: find the labels in long recordings; optional
    unknown: other                  # a label that is the answer below a threshold, optional
    languages: {de: {kitchen: die Küche, bath: das Bad}}  # optional; `my_rooms@de` takes these

An unknown key, a repeated label, or two labels with the same text is an error with its line. Every
scalar is text: `yes`, `no`, `on`, `off` and `0` are words here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, RootModel

from speechcwcl.errors import UserError, closest, summarise
from speechcwcl.files import sha256_json
from speechcwcl.yamls import Document, read_yaml, validate

PROTOCOLS = Path(__file__).parent / "protocols"
TEMPLATES = Path(__file__).parent / "templates"
ANY_OTHER = "*"

LabelTexts = dict[str, tuple[str, ...]]  # label -> the texts that stand for it


def _word(value: Any) -> str:
    """Text with its white space squeezed; empty is refused."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    if not value.strip():
        raise ValueError("is empty")
    return " ".join(value.split())


def _words(value: Any) -> tuple[str, ...]:
    """A text or a list of texts; empty and repeated ones are refused."""
    if not isinstance(value, str | list):
        raise ValueError("must be text or a list of texts")
    texts = [_word(text) for text in ([value] if isinstance(value, str) else value)]
    if not texts:
        raise ValueError("is empty")
    for text in texts:
        if texts.count(text) > 1:
            raise ValueError(f"{text!r} stands twice")
    return tuple(texts)


def _mapping(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of `key: value` lines")
    return value


def _is_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
        raise ValueError(
            f"{value!r} must be letters, digits, '_', '-' and '.' only: a folder gets this name"
        )
    return value


def _are_labels(labels: LabelTexts) -> LabelTexts:
    if len(labels) < 2:
        raise ValueError("at least two are needed to choose from")
    if ANY_OTHER in labels:
        raise ValueError("'*' means 'any other' in map; rename it")
    return labels


Word = Annotated[str, BeforeValidator(_word)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
Labels = Annotated[dict[Word, Words], BeforeValidator(_mapping), AfterValidator(_are_labels)]


class _ProtocolFile(BaseModel, extra="forbid"):
    name: Annotated[Word, AfterValidator(_is_name)]
    labels: Labels
    label_field: Word = "label"
    templates: Words = ("plain",)
    mapping: Annotated[dict[Word, Word], BeforeValidator(_mapping)] = Field({}, alias="map")
    ignore: Words = ()
    languages: Annotated[dict[Word, Labels], BeforeValidator(_mapping)] = {}
    corpus: Word = ""
    split: Word = ""
    description: Word = ""
    task: Literal["classify", "spotting"] = "classify"
    unknown: Word = ""


class _LabelFile(RootModel[Labels]):
    pass


class _TemplateFile(BaseModel, extra="forbid"):
    name: Word
    templates: Words
    description: Word = ""


@dataclass(frozen=True)
class Protocol:
    """A label set with its wording.

    Attributes:
        name: name of the protocol and of its score folder.
        labels: label id -> the texts that stand for it, in file order.
        templates: each holds `{}` once, where the text goes.
        label_field: field of `Utterance.labels` that is scored.
        mapping: label in the data -> label id; key `"*"` takes every label not named elsewhere.
        ignore: labels in the data whose utterances are left out.
        corpus, split, description: for readers.
        templates_name: name of the template file, or `""` for a list given in place.
        path: the file it came from, if any.
        task: `classify`, or `spotting` in long recordings.
        unknown: label id that is the answer where no other label is near enough; its texts are not
            compared with the speech.
    """

    name: str
    labels: LabelTexts
    templates: tuple[str, ...] = ("{}",)
    label_field: str = "label"
    mapping: dict[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    corpus: str = ""
    split: str = ""
    description: str = ""
    templates_name: str = ""
    path: str = ""
    task: str = "classify"
    unknown: str = ""

    @property
    def ids(self) -> list[str]:
        """Label ids in file order: the order of the columns of every score matrix."""
        return list(self.labels)

    @property
    def texts(self) -> dict[str, str]:
        """Label id -> the first of its texts, for people."""
        return {label: texts[0] for label, texts in self.labels.items()}

    @property
    def named(self) -> LabelTexts:
        """The labels whose texts are compared with the speech: all but `unknown`."""
        return {label: texts for label, texts in self.labels.items() if label != self.unknown}

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
                **({"unknown": self.unknown} if self.unknown else {}),
            }
        )

    def every_prompt(self) -> list[str]:
        """All templates filled with all texts."""
        every = [text for texts in self.labels.values() for text in texts]
        return [template.replace("{}", text) for template in self.templates for text in every]

    def describe(self) -> dict[str, Any]:
        """Plain JSON of the protocol, for score files."""
        plain = ("name", "hash", "corpus", "split", "description", "label_field", "templates_name")
        return {
            **{key: getattr(self, key) for key in plain},
            "templates": list(self.templates),
            "labels": [[label, list(texts)] for label, texts in self.labels.items()],
        }

    def assign(self, utterances: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Find the class of every utterance.

        Args:
            utterances: anything with `id` and `labels`.

        Returns:
            `(kept, targets)`, both int64 `(n_kept,)`: positions in `utterances` of those
            that are not ignored, and their columns in [`ids`][].

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
                continue
            own = raw if raw in self.labels else self.mapping.get(ANY_OTHER)
            label = self.mapping.get(raw, own)
            if raw in self.ignore:
                continue
            if label is None:
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

    def _no_field(self, utterance: Any) -> str:
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
    """Read a protocol: a name from [`list_protocols`][], or a path to a YAML file.

    With `@de` behind it, the label texts are those of that language; its name ends in `.de`.

    Raises:
        UserError: unknown name, or a fault in the file (with its line).
    """
    name, _, language = os.fspath(name_or_path).rpartition("@")
    if not name or not re.fullmatch(r"[A-Za-z-]+", language):  # a folder may have an @ too
        name, language = os.fspath(name_or_path), ""
    path = _resolve(name, PROTOCOLS, list_protocols(), "protocol")
    document = read_yaml(path)
    found = validate(_ProtocolFile, document)
    _refuse_equal_texts(document, found.labels, "labels")
    _refuse_bad_languages(document, found, language)
    _refuse_bad_map(document, found)
    named = isinstance(document.values.get("templates", ""), str) and "{}" not in found.templates[0]
    templates = found.templates
    if named:
        try:
            templates = load_templates(templates[0])
        except UserError as error:
            raise document.refuse("templates", problem=f"templates: {error}") from error
    _refuse_bad_templates(document, templates)
    about = {"templates": templates, "path": str(path)}
    about["templates_name"] = found.templates[0] if named else ""
    facts = found.model_dump(exclude={"languages"})
    if language:
        facts |= {"name": f"{found.name}.{language}", "labels": found.languages[language]}
    return Protocol(**{**facts, **about})


def load_labels(path: str | Path) -> tuple[LabelTexts, tuple[str, ...] | None]:
    """Labels from a YAML file: a whole protocol, or nothing but `label: text` lines.

    Returns:
        Label -> its texts, and the protocol's templates (None where the file is not a protocol).

    Raises:
        UserError: a fault in the file (with its line).
    """
    document = read_yaml(path)
    if {"name", "labels"} <= set(document.values):
        protocol = load_protocol(path)
        return protocol.named, protocol.templates
    labels = validate(_LabelFile, document).root
    _refuse_equal_texts(document, labels)
    return labels, None


def load_templates(name_or_path: str | Path) -> tuple[str, ...]:
    """Read a template file: a name from [`list_templates`][], or a path.

    The file has the keys `name`, `description` (optional) and `templates` (a list).
    """
    path = _resolve(name_or_path, TEMPLATES, list_templates(), "template file")
    document = read_yaml(path)
    templates = validate(_TemplateFile, document).templates
    _refuse_bad_templates(document, templates)
    return templates


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


def _refuse_equal_texts(document: Document, labels: LabelTexts, *above: str) -> None:
    owner: dict[str, str] = {}
    for label, texts in labels.items():
        for text in texts:
            other = owner.setdefault(text.casefold(), label)
            if other != label:
                raise document.refuse(
                    *above,
                    label,
                    problem=f"labels {other!r} and {label!r} have the same text {text!r}, so"
                    " nothing could tell them apart; word one differently",
                )


def _refuse_bad_templates(document: Document, templates: Sequence[str]) -> None:
    for number, template in enumerate(templates):
        if template.count("{}") != 1:
            problem = f"template {template!r} must hold {{}} once: the label's text goes there"
            raise document.refuse("templates", number, problem=problem)


def _refuse_bad_languages(document: Document, found: _ProtocolFile, asked: str) -> None:
    for language, labels in found.languages.items():
        _refuse_equal_texts(document, labels, "languages", language)
        if wrong := sorted(set(labels) ^ set(found.labels)):
            problem = f"languages: {language!r}: {wrong[0]!r} is not in both lists of labels"
            raise document.refuse("languages", language, problem=problem)
    if asked and asked not in found.languages:
        near, there = closest(asked, found.languages), ", ".join(found.languages) or "none"
        raise UserError(f"{found.name}: no texts in {asked!r}{near}; there are: {there}")


def _refuse_bad_map(document: Document, found: _ProtocolFile) -> None:
    for raw, label in found.mapping.items():
        if label not in found.labels:
            problem = (
                f"map: {raw!r} goes to {label!r}, which is not one of the"
                f" labels{closest(label, found.labels)}"
            )
            raise document.refuse("map", raw, problem=problem)
        if raw in found.labels and raw != label:
            problem = f"map: {raw!r} is itself a label, so it cannot also mean {label!r}"
            raise document.refuse("map", raw, problem=problem)
    if found.unknown and found.unknown not in found.labels:
        problem = f"unknown: {found.unknown!r} is no label{closest(found.unknown, found.labels)}"
        raise document.refuse("unknown", problem=problem)
    for raw in found.ignore:
        if raw in found.labels or raw in found.mapping:
            home = "labels" if raw in found.labels else "map"
            raise document.refuse("ignore", problem=f"ignore: {raw!r} is also in {home}; keep one")
