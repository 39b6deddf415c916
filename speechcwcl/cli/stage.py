"""Run one stage of a recipe, once.

The command stands behind ``--``. The stamp holds a hash of the command and of its inputs. When it
still holds and the outputs exist, the stage is skipped and says so; else the command runs, its
output goes to the terminal and to the log, and the stamp is written only when it succeeded.

Example:
    speechcwcl stage --name "stage 2: format train" --stamp exp/a/stamps/2.train \\
        --log exp/a/logs/2.train.log --inputs data/train --outputs dump/train/manifest.jsonl \\
        -- speechcwcl format data/train dump/train
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from speechcwcl.errors import UserError, require
from speechcwcl.files import read_json, sha256_file, sha256_json, write_json

# Larger files are told apart by size and time: hashing a corpus at every start would cost minutes.
HASH_LIMIT_BYTES = 32 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="what to print before the command")
    parser.add_argument("--stamp", required=True, type=Path, help="the stamp file")
    parser.add_argument("--log", required=True, type=Path, help="where the output is kept")
    parser.add_argument("--inputs", nargs="*", default=[], help="files and folders read")
    parser.add_argument("--outputs", nargs="*", default=[], help="files and folders written")


def run(args: argparse.Namespace) -> int:
    command = args.rest
    require(bool(command), "nothing to run: put the command after --")
    key = inputs_hash(command, args.inputs)
    if _holds(args.stamp, key, args.outputs):
        print(f"{args.name}: done before, nothing changed; skipped", flush=True)
        return 0
    print(f"{args.name}\n  $ {shlex.join(command)}\n  log: {args.log}", flush=True)
    args.stamp.unlink(missing_ok=True)
    started = time.monotonic()
    code = run_and_log(command, args.log)
    if code:
        how = f"stopped by signal {-code}" if code < 0 else f"exit code {code}"
        print(f"{args.name}: failed ({how}); see {args.log}", file=sys.stderr)
        return 130 if code in (-2, 130) else (2 if code == 2 else 1)
    for output in args.outputs:
        require(Path(output).exists(), f"{output}: the stage ended well but did not write this")
    seconds = time.monotonic() - started
    write_json(args.stamp, {"inputs": key, "command": command, "seconds": round(seconds, 1)})
    print(f"  done in {seconds:.0f} s", flush=True)
    return 0


def _holds(stamp: Path, key: str, outputs: list[str]) -> bool:
    if not stamp.exists() or not all(Path(output).exists() for output in outputs):
        return False
    try:
        return read_json(stamp).get("inputs") == key
    except UserError:
        return False  # a stamp that cannot be read proves nothing: run again


def inputs_hash(command: list[str], inputs: list[str]) -> str:
    """Hash of a command line and of the present state of its input files and folders."""
    return sha256_json([command, [[path, path_hash(Path(path))] for path in inputs]])


def path_hash(path: Path) -> str:
    """Hash of a file's bytes (size and time when it is large), or of a folder's files."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return sha256_json([[p.relative_to(path).as_posix(), path_hash(p)] for p in files])
    if not path.exists():
        return "absent"
    status = path.stat()
    if status.st_size > HASH_LIMIT_BYTES:
        return f"{status.st_size}:{status.st_mtime_ns}"
    return sha256_file(path)


def run_and_log(command: list[str], log: Path) -> int:
    """Run a command with its output on the terminal and in ``log``; return its exit code.

    Progress bars redraw a line with a carriage return; the log keeps their last state only.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    with log.open("wb") as kept:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        assert process.stdout is not None
        line = b""
        try:
            while block := os.read(process.stdout.fileno(), 1 << 16):
                sys.stdout.buffer.write(block)
                sys.stdout.flush()
                *done, line = (line + block).split(b"\n")
                for text in done:
                    kept.write(text.rstrip(b"\r").rsplit(b"\r", 1)[-1] + b"\n")
                kept.flush()
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # the child got the same signal and is closing its files
            code = 130
        kept.write(line.rsplit(b"\r", 1)[-1])
    return code
