"""What people type into the page: labels, templates, limits; and the label sets to pick from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from speechcwcl.errors import UserError
from speechcwcl.zeroshot.protocol import (
    list_protocols,
    list_templates,
    load_protocol,
    load_templates,
)

Labels = dict[str, tuple[str, ...]]
"""Label -> the texts that stand for it."""

EXAMPLES = {
    "At home": (
        ["turn on the light", "turn off the light", "play some music", "set an alarm"]
        + ["what is the weather like", "call my mother"],
        "intents",
    ),
    "Yes or no": (["yes", "no"], "words"),
    "Remote control": (["up", "down", "left", "right", "stop", "go"], "words"),
}
"""Name -> (labels, template file): small sets to begin with."""

LONGEST_TEXT = 300  # characters of a label's text or a template
MOST_TEMPLATES = 20
MOST_SENTENCES = 4000  # texts x templates: what the text encoder must read for one answer


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    seconds: float = 30.0  # longest recording
    megabytes: float = 10.0  # largest file, in 2^20 bytes
    labels: int = 100  # most labels

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UserError(f"max_{name}: {value} is not above 0")

    @property
    def bytes(self) -> int:
        """The largest file."""
        return int(self.megabytes * 2**20)


def parse_labels(typed: str, limits: Limits, far: float = 0.0) -> Labels:
    """Read labels as typed: one a line or separated by `;`.

    `lights on = turn on the light | switch the lamp on` is one label with two texts; without
    `=` the (first) text is the label.

    Args:
        far: with thresholds, one label is enough: it or "unknown".

    Raises:
        UserError: none, too few, too many, too long, or two that could not be told apart.
    """
    pieces = list(filter(None, map(str.strip, re.split(r"[\n;]", typed or ""))))
    if len(pieces) > limits.labels:
        raise UserError(f"{len(pieces)} labels are too many; at most {limits.labels} are allowed.")
    labels: Labels = {}
    owner: dict[str, str] = {}
    for piece in pieces:
        label, texts = _one_label(piece)
        if label.casefold() in map(str.casefold, labels):
            raise UserError(f"The label {label!r} is given twice; keep one of them.")
        for text in texts:
            other = owner.setdefault(text.casefold(), label)
            if other != label:
                raise UserError(
                    f"The labels {other!r} and {label!r} have the same text {text!r}, so nothing "
                    "could tell them apart; word one differently."
                )
        labels[label] = texts
    if not labels:
        raise UserError("There are no labels. Type at least two, one a line.")
    if len(labels) == 1 and not far > 0:
        raise UserError(
            "One label leaves nothing to choose from. Type a second one, or let “unknown” be "
            "an answer."
        )
    return labels


def _one_label(piece: str) -> tuple[str, tuple[str, ...]]:
    """`label = text | text` or `text | text` -> label and its distinct texts."""
    name, equals, right = piece.partition("=")
    given = [text.strip() for text in (right if equals else piece).split("|")]
    texts = tuple(dict.fromkeys(filter(None, given)))
    if not texts or (equals and not name.strip()):
        raise UserError(f"{_short(piece)!r} is not “label = text”; one side is empty.")
    label = name.strip() if equals else texts[0]
    for text in (label, *texts):
        if len(text) > LONGEST_TEXT:
            raise UserError(
                f"{_short(text)!r} is {len(text)} characters long; at most {LONGEST_TEXT} are "
                "allowed. Is there a line break missing between two labels?"
            )
    return label, texts


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39].rstrip() + "…"


def parse_templates(typed: str) -> tuple[str, ...]:
    """Read templates, one a line; an empty box is the label's own text.

    Raises:
        UserError: one has not exactly one `{}`, is too long, or there are too many.
    """
    lines = [line.strip() for line in (typed or "").splitlines()]
    templates = tuple(dict.fromkeys(filter(None, lines))) or ("{}",)
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(
                f"The template {_short(template)!r} must hold {{}} once: the label goes there."
            )
        if len(template) > LONGEST_TEXT:
            raise UserError(
                f"The template {_short(template)!r} is {len(template)} characters long; at most "
                f"{LONGEST_TEXT} are allowed."
            )
    if len(templates) > MOST_TEMPLATES:
        raise UserError(
            f"{len(templates)} templates are too many; at most {MOST_TEMPLATES} are allowed."
        )
    return templates


def check_size(labels: Labels, templates: tuple[str, ...]) -> None:
    """Refuse what would keep the text encoder busy for too long."""
    texts = sum(map(len, labels.values()))
    if texts * len(templates) > MOST_SENTENCES:
        raise UserError(
            f"{texts} texts in {len(templates)} templates make {texts * len(templates)} sentences; "
            f"at most {MOST_SENTENCES} are allowed. Use fewer templates or labels."
        )


def label_sets(limits: Limits) -> list[str]:
    """Names of the sets to pick from: the examples, then the protocols that fit the limit."""
    fitting = [name for name, (labels, _) in EXAMPLES.items() if len(labels) <= limits.labels]
    return fitting + [
        name for name in list_protocols() if len(load_protocol(name).labels) <= limits.labels
    ]


def fill_in(name: str) -> tuple[str, str]:
    """A label set as it would be typed: the labels, and the templates, one a line each."""
    if name in EXAMPLES:
        labels, templates = EXAMPLES[name]
        return "\n".join(labels), "\n".join(load_templates(templates))
    protocol = load_protocol(name)
    lines = []
    for label, texts in protocol.named.items():
        right = " | ".join(texts)
        lines.append(right if right == label else f"{label} = {right}")
    return "\n".join(lines), "\n".join(protocol.templates)


def template_sets() -> dict[str, str]:
    """Template file -> its templates, one a line."""
    return {name: "\n".join(load_templates(name)) for name in list_templates()}
