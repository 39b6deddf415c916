"""A verb is a function: its signature says what the command line takes, its docstring the help.

What may be given by position is; what is keyword-only becomes an option, needed where it has no
default. `bool` is a switch, `Literal` a choice; a list takes one word or more, a tuple any number.
`*keys` takes the options that are not known here (the keys of a YAML), `*command` what stands
behind `--`.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from speechcwcl.errors import UserError

_LINE = re.compile(r"^    (\w+)(?: \((.+)\))?: ")


class Parser(argparse.ArgumentParser):
    """Refuses a blank where a path belongs: a script's unset variable would mean this folder."""

    def _get_value(self, action: argparse.Action, word: str) -> Any:
        if action.type is Path and not word.strip():
            name = "/".join(action.option_strings) or action.dest
            raise UserError(f"{name}: empty; is a variable of your script unset?")
        return super()._get_value(action, word)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults in the help where they say something, the docstring as it is written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, "", [], ()) or action.required:
            return action.help
        return super()._get_help_string(action)


def described(function: Callable[..., Any]) -> tuple[str, dict[str, tuple[str | None, str]]]:
    """The docstring above its `Args:`, and what that says: name -> (metavar, help)."""
    text, _, given = inspect.cleandoc(function.__doc__ or "").partition("\n\nArgs:\n")
    given, _, more = given.partition("\n\n")
    found: dict[str, tuple[str | None, str]] = {}
    name = ""
    for line in given.splitlines():
        if start := _LINE.match(line):
            name = start[1]
            found[name] = (start[2], line[start.end() :])
        else:
            found[name] = (found[name][0], f"{found[name][1]} {line.strip()}")
    return f"{text}\n\n{more}".strip(), found


def add_signature(parser: argparse.ArgumentParser, function: Callable[..., Any]) -> None:
    """Add the parameters of a function to a parser."""
    parser.description, helps = described(function)
    for name, given in inspect.signature(function, eval_str=True).parameters.items():
        if given.kind is given.VAR_POSITIONAL:
            continue
        metavar, line = helps[name]
        options: dict[str, Any] = {"help": line}
        needed = given.default is given.empty
        if given.kind is given.KEYWORD_ONLY:
            options |= {"dest": name, "required": needed}
            options |= {"action": "extend"} if "list[" in str(given.annotation) else {}
        if not needed:
            options["default"] = given.default
        if given.annotation is bool:
            options["action"] = "store_true"
        else:
            options |= _kind(given.annotation) | {"metavar": metavar}
        parser.add_argument(f"--{name.rstrip('_')}" if "dest" in options else name, **options)


def _kind(annotation: Any) -> dict[str, Any]:
    """Type, number of words and choices of a parameter that is no switch."""
    whole, parts = get_origin(annotation), get_args(annotation)
    if whole is Literal:
        return {"choices": parts}
    if whole in (list, tuple):
        return {"type": parts[0], "nargs": "+" if whole is list else "*"}
    return _kind(parts[0]) if parts else {"type": annotation}


def call(function: Callable[..., Any], parser: argparse.ArgumentParser, words: list[str]) -> int:
    """Parse the words of a command line and call the function with them."""
    parameters = inspect.signature(function).parameters
    cut = words.index("--") if "--" in words else len(words)
    if "keys" in parameters:
        args, rest = parser.parse_known_args(words[:cut])
    else:
        args, rest = parser.parse_args(words[:cut]), []
    rest += words[cut + 1 :]
    found = vars(args)
    first = [found.pop(n) for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return function(*first, *(rest if {"keys", "command"} & set(parameters) else ()), **found) or 0
