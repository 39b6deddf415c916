"""The console script `speechcwcl`: verbs, loaded only when they are asked for."""

from __future__ import annotations

import argparse
import errno
import functools
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable

from speechcwcl import __version__
from speechcwcl.cli.signature import HelpFormatter, Parser, add_signature, call
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
    """The parser of one verb, and what runs it on words of the command line.

    A verb is a function (see `speechcwcl.cli.signature`), or a module of its own where a signature
    cannot say what it takes.
    """
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
