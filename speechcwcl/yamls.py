"""YAML that constructs nothing and remembers its lines; pydantic models that say where it is wrong.

A file is read to plain text, lists and mappings. No tag is followed, so nothing in a file can run;
a tag, a repeated key, too deep a nesting or too large a file is refused with its line. What the
values must be is said by a pydantic model, whose complaints become one line each:
`file:line: key: what is wrong (closest: ...)`.

Examples:
    >>> class Room(pydantic.BaseModel, extra="forbid"):
    ...     name: str
    ...     seats: int = 1
    >>> validate(Room, parse_yaml("name: hall\\nseats: 20", "room.yaml", typed=True))
    Room(name='hall', seats=20)
    >>> validate(Room, parse_yaml("name: hall\\nseat: 20", "room.yaml", typed=True))
    Traceback (most recent call last):
    speechcwcl.errors.UserError: room.yaml:2: no such key 'seat' (closest: 'seats')
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from speechcwcl.errors import UserError, closest, require, summarise
from speechcwcl.files import read_text

# settings, labels and templates are far below this; a hostile file is refused before it costs much
MAX_BYTES = 4 << 20
MAX_DEPTH = 40
MAX_VALUES = 400_000

Key = tuple[str | int, ...]
Model = TypeVar("Model", bound=pydantic.BaseModel)

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


@dataclass
class Document:
    """The content of a YAML file, or of several that build on each other."""

    path: Path
    values: Any  # mappings (keys are text), lists, and scalars
    # where each value stands: its keys and indices from the root -> `file:line`
    places: dict[Key, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)  # every file that was read, the base first

    def where(self, *keys: str | int) -> str:
        """`file:line` of the value at `keys`, or of the nearest one above it."""
        while keys and keys not in self.places:
            keys = keys[:-1]
        return self.places.get(keys, str(self.path))

    def refuse(self, *keys: str | int, problem: str) -> UserError:
        """The error to raise about the value at `keys`."""
        return UserError(f"{self.where(*keys)}: {problem}")


def read_yaml(path: str | Path, *, typed: bool = False, base: str | None = None) -> Document:
    """Read a YAML file whose root is a mapping.

    Args:
        typed: make numbers, `true`, `false` and `null` of scalars without quotes; else every
            scalar stays the text that it is. `yes`, `no`, `on` and `off` are text always.
        base: the key that names the file (relative to this one) whose keys hold where this file
            does not have them.

    Raises:
        UserError: unreadable, not UTF-8, not YAML, empty, not a mapping, a tag, a repeated key,
            or larger than a file of settings may be.
    """
    return _read(Path(path), typed, base, ())


def _read(path: Path, typed: bool, base: str | None, seen: tuple[Path, ...]) -> Document:
    require(path.resolve() not in seen, f"{path}: the bases of this file form a circle")
    document = parse_yaml(read_text(path), path, typed=typed)
    if base is None or base not in document.values:
        return document
    word = document.values.pop(base)
    if not isinstance(word, str):
        raise document.refuse(base, problem=f"{base}: {word!r} is not the name of a file")
    below = _read(path.parent / word, typed, base, (*seen, path.resolve()))
    kept = {key: at for key, at in below.places.items() if key and key[0] not in document.values}
    files = [*below.files, *document.files]
    return Document(path, below.values | document.values, document.places | kept, files)


def parse_yaml(text: str, path: str | Path, *, typed: bool = False) -> Document:
    """Like `read_yaml`, of a text; `path` is for messages."""
    builder = _Builder(text, str(path), typed)
    values = builder.build()
    require(values not in (None, ""), f"{path}: the file is empty; expected `key: value` lines")
    require(isinstance(values, dict), f"{path}: expected `key: value` lines")
    return Document(Path(path), values, builder.places, [Path(path)])


def parse_value(text: str, name: str | Path, *, typed: bool = True) -> Any:
    """One value as YAML writes it, such as `{cwcl: 1, cosine: 10}`; `name` is for messages."""
    return _Builder(text, str(name), typed).build()


class _Builder:
    """Turns the events of PyYAML's parser into values, without its constructors."""

    def __init__(self, text: str, name: str, typed: bool) -> None:
        self.name, self.typed = name, typed
        self.places: dict[Key, str] = {}
        self.anchors: dict[str, Any] = {}
        self.count = 0
        require(len(text) <= MAX_BYTES, f"{name}: larger than {MAX_BYTES >> 20} MiB")
        self.events = self._events(text)

    def _events(self, text: str) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{self.name}:{mark.line + 1}" if mark else self.name
            problem = error.problem or error.context or "cannot be parsed"
            raise UserError(f"{where}: not valid YAML: {problem}") from error
        except yaml.YAMLError as error:
            reason = str(error).split("\n")[0]
            raise UserError(f"{self.name}: not valid YAML: {reason}") from error

    def build(self) -> Any:
        """The one value of the text; None where there is none."""
        values: list[Any] = []
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._require(not values, event, "a second document; one is read")
            elif isinstance(event, yaml.NodeEvent):
                values.append(self._value(event, ()))
        return values[0] if values else None

    def _require(self, holds: bool, event: yaml.Event, problem: str) -> None:
        require(holds, f"{self._line(event)}: {problem}")

    def _line(self, event: yaml.Event) -> str:
        return f"{self.name}:{event.start_mark.line + 1}"  # type: ignore[union-attr]

    def _value(self, event: yaml.Event, at: Key) -> Any:
        self.count += 1
        self._require(self.count <= MAX_VALUES, event, f"more than {MAX_VALUES} values")
        self._require(len(at) <= MAX_DEPTH, event, f"nested more than {MAX_DEPTH} deep")
        self.places.setdefault(at, self._line(event))
        if isinstance(event, yaml.AliasEvent):
            name = event.anchor or ""
            self._require(name in self.anchors, event, f"no anchor &{name} above this line")
            size, depth = _extent(self.anchors[name])
            self.count += size
            deep = len(at) + depth > MAX_DEPTH
            self._require(not deep, event, f"nested more than {MAX_DEPTH} deep")
            return self.anchors[name]
        assert isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent))
        tag = event.tag
        self._require(not tag, event, f"the tag {tag!r}: nothing in this file is run or built")
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
                value.append(self._value(item, (*at, len(value))))
        else:
            value = self._mapping(at)
        if event.anchor:
            self.anchors[event.anchor] = value
        return value

    def _mapping(self, at: Key) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise UserError(f"{self._line(event)}: a key must be a word")
            self._require(not event.tag, event, f"the tag {event.tag!r}: nothing here is run")
            key = event.value
            place = (*at, key)
            first = self.places.get(place, "").rpartition(":")[2]
            self._require(key not in own, event, f"{key!r} stands twice (first in line {first})")
            self.places[place] = self._line(event)
            value = self._value(next(self.events), place)
            if key == "<<" and event.style is None:  # the merge key of YAML 1.1
                for part in value if isinstance(value, list) else [value]:
                    self._require(isinstance(part, dict), event, "<<: takes mappings only")
                    merged = part | merged
            else:
                own[key] = value
        return merged | own

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text = event.value
        if not self.typed or event.style is not None:
            return text
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        if _INTEGER.fullmatch(text) and len(text) < 1000:
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        return text


def _extent(value: Any) -> tuple[int, int]:
    """How many values an alias repeats, and how deep they go."""
    if not isinstance(value, (dict, list)):
        return 1, 0
    parts = [_extent(part) for part in (value.values() if isinstance(value, dict) else value)]
    return 1 + sum(size for size, _ in parts), 1 + max((depth for _, depth in parts), default=0)


def validate(model: type[Model], document: Document) -> Model:
    """The values of a document as a pydantic model.

    Raises:
        UserError: one line for each thing that is wrong, with file and line.
    """
    try:
        return model.model_validate(document.values)
    except pydantic.ValidationError as error:
        found: dict[Key, list[Any]] = {}
        for problem in error.errors(include_url=False):
            found.setdefault(_within(document.values, problem["loc"]), []).append(problem)
        lines = [f"{document.where(*at)}: {_said(model, at, why)}" for at, why in found.items()]
        raise UserError(summarise(lines)) from error


def _within(values: Any, location: Key) -> Key:
    """The part of pydantic's location that is in the file (it also names branches of unions)."""
    at: list[str | int] = []
    for key in location:
        inside = key in values if isinstance(values, Mapping) else False
        if isinstance(values, list) and isinstance(key, int):
            inside = key < len(values)
        if inside:
            at.append(key)
            values = values[key]
    return tuple(at)


def _said(model: type[pydantic.BaseModel], at: Key, problems: list[Any]) -> str:
    """What is wrong with one value, in words that do not ask the reader to know pydantic.

    There are several problems where a value may be of several kinds and is of none.
    """
    name = ".".join(map(str, at))
    for problem in problems:
        kind = problem["type"]
        if kind == "extra_forbidden":
            known = list(model.model_fields) if len(at) == 1 else []
            return f"no such key {name!r}{closest(str(at[-1]), known)}"
        if kind == "missing":
            return f"the key {'.'.join(map(str, (*at, problem['loc'][-1])))!r} is missing"
        if kind == "value_error":  # of a validator of ours
            return f"{name}: {problem['ctx']['error']}" if name else str(problem["ctx"]["error"])
    shown = repr(problems[0]["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{name}: {shown} " + " and ".join(dict.fromkeys(map(_reason, problems)))


def _reason(problem: Any) -> str:
    if problem["type"] == "literal_error":
        allowed = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return f"is none of {', '.join(allowed)}{closest(str(problem['input']), allowed)}"
    words = problem["msg"].split(", unable to")[0].split(", got a number")[0]
    for start, instead in (("Input should be a valid ", "is no "), ("Input should be ", "is not ")):
        if words.startswith(start):
            words = instead + words.removeprefix(start)
    for theirs, ours in (
        ("integer", "whole number"),
        ("string", "text"),
        ("dictionary", "mapping"),
    ):
        words = words.replace(theirs, ours)
    return words if words.startswith("is ") else f"({words})"
