"""The console script `speechcwcl`: verbs, loaded only when they are asked for.

A verb is a function: its signature says what the command line takes, its docstring the help. What
may be given by position is; what is keyword-only becomes an option, needed where it has no default.
`bool` is a switch, `Literal` a choice; a list takes one word or more, a tuple any number. `*keys`
takes the options that are not known here (the keys of a YAML), `*command` what stands behind `--`.
Where a signature cannot say what it takes, a verb is a module.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import io
import os
import re
import sys
import warnings
from collections.abc import Callable
from errno import EACCES, EDQUOT, EISDIR, ENOENT, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from speechcwcl import __version__
from speechcwcl.errors import UserError, closest

# verb -> (module, one line of help); the help stands here so that `--help` imports no module.
VERBS = {
    "prepare": ("data", "turn a corpus into data folders (stage 1)"),
    "check": ("data", "check a data folder: wav.scp, text, utt2spk, segments, utt2label"),
    "format": ("data", "compile a data folder to a manifest, filtered by duration (stages 2, 3)"),
    "embed-text": ("runs", "embed every unique transcript with the frozen text encoder"),
    "train": ("runs", "train the speech side against the frozen text embeddings"),
    "average": ("runs", "average the best checkpoints into a model folder"),
    "embed-speech": ("runs", "embed the utterances of a set with a trained model"),
    "evaluate": ("runs", "score speech embeddings zero-shot under a protocol"),
    "report": ("runs", "write RESULTS.md and report.html from experiment folders"),
    "classify": ("classify", "classify recordings by labels written in words"),
    "search": ("search", "find speech by text, and text by speech, in a folder of recordings"),
    "listen": ("listen", "spot keywords in a stream: a microphone or a long file"),
    "demo": ("models", "a page in the browser: record or upload, type labels, see the answer"),
    "export": ("models", "write the speech side of a model as ONNX"),
    "convert": ("data", "import and export manifests: csv, jsonl, SpeechBrain, lhotse"),
    "shards": ("data", "pack a set's audio into WebDataset tar shards"),
    "doctor": ("models", "check the installation; say what to type where something is missing"),
    "pack": ("models", "put a trained model into one folder to share"),
    "fetch": ("models", "fetch pretrained weights by name into the cache"),
    "stage": ("runs", "run a command unless its stamp says that nothing changed"),
}


def build_parser() -> argparse.ArgumentParser:
    """The top-level parser, without the options of the verbs."""
    parser = argparse.ArgumentParser(
        prog="speechcwcl",
        description="Align a speech encoder to a frozen text encoder; classify speech zero-shot.",
        epilog="verbs:\n"
        + "\n".join(f"  {verb:<13} {line}" for verb, (_, line) in VERBS.items())
        + "\n\n`speechcwcl VERB --help` shows the options of a verb with their defaults.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"speechcwcl {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("verb", metavar="VERB", help="what to do, see below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def verb_parser(verb: str) -> tuple[argparse.ArgumentParser, Callable[[list[str]], int]]:
    """The parser of one verb, and what runs it on words of the command line."""
    module = importlib.import_module(f"speechcwcl.cli.{VERBS[verb][0]}")
    parser = Parser(
        prog=f"speechcwcl {verb}",
        description=module.__doc__,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    if function := getattr(module, verb.replace("-", "_"), None):
        add_signature(parser, function)
        return parser, functools.partial(call, function, parser)
    module.add_arguments(parser)
    return parser, lambda words: module.run(parser.parse_args(words)) or 0


def main(argv: list[str] | None = None) -> int:
    """Run one verb; return the exit code (0 fine, 2 user error, 130 interrupted)."""
    for stream in (sys.stdout, sys.stderr):  # a name or a locale without UTF-8 ends no command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    known = build_parser().parse_args(argv)
    if known.verb not in VERBS:
        print(f"speechcwcl: no verb {known.verb!r}{closest(known.verb, VERBS)}", file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        _, run = verb_parser(known.verb)
        return run(known.arguments)
    except UserError as error:
        if known.debug:
            raise
        print(f"speechcwcl {known.verb}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if known.debug or error.errno not in _USER_ERRNO:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"speechcwcl {known.verb}: {where}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"\nspeechcwcl {known.verb}: interrupted; run the same command again to go on",
            file=sys.stderr,
        )
        return 130


# What the user can put right: a full disk, a read-only folder, a missing or forbidden file.
_USER_ERRNO = {ENOSPC, EDQUOT, EROFS, EACCES, EPERM, ENOENT, ENOTDIR, EISDIR}

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


if __name__ == "__main__":
    sys.exit(main())
