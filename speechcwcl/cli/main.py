"""The console script `speechcwcl`: one verb a file, loaded only when it is asked for."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from speechcwcl import __version__
from speechcwcl.errors import UserError, closest

# verb -> (module, one line of help); the help stands here so that `--help` imports no module.
VERBS = {
    "prepare": ("prepare", "turn a corpus into data folders (stage 1)"),
    "check": ("check", "check a data folder: wav.scp, text, utt2spk, segments, utt2label"),
    "format": ("format", "compile a data folder to a manifest, filtered by duration (stages 2, 3)"),
    "embed-text": ("embed_text", "embed every unique transcript with the frozen text encoder"),
    "train": ("train", "train the speech side against the frozen text embeddings"),
    "average": ("average", "average the best checkpoints into a model folder"),
    "embed-speech": ("embed_speech", "embed the utterances of a set with a trained model"),
    "evaluate": ("evaluate", "score speech embeddings zero-shot under a protocol"),
    "report": ("report", "write RESULTS.md and report.html from experiment folders"),
    "classify": ("classify", "classify recordings by labels written in words"),
    "search": ("search", "find speech by text, and text by speech, in a folder of recordings"),
    "listen": ("listen", "spot keywords in a stream: a microphone or a long file"),
    "demo": ("demo", "a page in the browser: record or upload, type labels, see the answer"),
    "export": ("export", "write the speech side of a model as ONNX"),
    "convert": ("convert", "import and export manifests: csv, jsonl, SpeechBrain, lhotse"),
    "shards": ("shards", "pack a set's audio into WebDataset tar shards"),
    "doctor": ("doctor", "check the installation; say what to type where something is missing"),
    "pack": ("pack", "put a trained model into one folder to share"),
    "fetch": ("fetch", "fetch pretrained weights by name into the cache"),
    "stage": ("stage", "run a command unless its stamp says that nothing changed"),
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


def verb_parser(verb: str) -> tuple[argparse.ArgumentParser, Any]:
    """The parser of one verb and its module."""
    module = importlib.import_module(f"speechcwcl.cli.{VERBS[verb][0]}")
    parser = _Parser(
        prog=f"speechcwcl {verb}",
        description=module.__doc__,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser, module


def parse(parser: argparse.ArgumentParser, module: Any, words: list[str]) -> argparse.Namespace:
    """Parse a verb's words. What stands behind `--` goes to `rest`; so do options that the
    parser does not know, for a verb that takes the keys of a YAML as options."""
    cut = words.index("--") if "--" in words else len(words)
    if getattr(module, "TAKES_KEYS", False):
        args, unknown = parser.parse_known_args(words[:cut])
    else:
        args, unknown = parser.parse_args(words[:cut]), []
    args.rest = unknown + words[cut + 1 :]
    return args


class _Parser(argparse.ArgumentParser):
    """Refuses a blank where a path belongs: a script's unset variable would mean this folder."""

    def _get_value(self, action: argparse.Action, word: str) -> Any:
        if action.type is Path and not word.strip():
            name = "/".join(action.option_strings) or action.dest
            raise UserError(f"{name}: empty; is a variable of your script unset?")
        return super()._get_value(action, word)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults in the help where they say something, the module's docstring as it is written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, "", []) or action.required:
            return action.help
        return super()._get_help_string(action)


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
        parser, module = verb_parser(known.verb)
        return module.run(parse(parser, module, known.arguments)) or 0
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
_USER_ERRNO = {
    errno.ENOSPC,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
}

if __name__ == "__main__":
    sys.exit(main())
