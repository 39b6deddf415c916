"""Stages of a recipe: a command runs once, and again when something that matters has changed.

What matters: the command line, the version of speechcwcl, the inputs that the driver names, what
the command itself says that it has read (`also_reads`: the folder of a corpus, the base of a
YAML, a protocol), and the outputs as the command left them. The stamp of a stage, written only when
its command succeeded, holds all of that.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from speechcwcl import __version__
from speechcwcl.errors import UserError, require
from speechcwcl.files import lock, read_json, sha256_file, sha256_json, write_json, writing

# Larger files are told apart by size and time: hashing a corpus at every start would cost minutes.
HASH_LIMIT_BYTES = 32 << 20
# Where a command notes down what it read; set by the stage that runs it.
NOTES = "SPEECHCWCL_STAGE_NOTES"


def also_reads(*paths: str | Path) -> None:
    """Say what a command reads beside its named inputs; of no effect outside a stage."""
    notes = os.environ.get(NOTES)
    if notes:
        with writing(notes), Path(notes).open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(str(path)) + "\n" for path in paths)


def run_stage(
    name: str,
    command: list[str],
    *,
    stamp: Path,
    log: Path,
    inputs: Iterable[str] = (),
    outputs: Iterable[str] = (),
) -> int:
    """Run a command unless its stamp says that nothing changed.

    Args:
        stamp: the stamp file. One process at a time is busy with it; others wait.
        inputs: files and folders that it reads.
        outputs: files and folders that it writes. What is added to a folder later is not asked
            about; what the command left there must stay as it is.

    Returns:
        An exit code: that of the command, 2 for the user's error, 130 when it was interrupted.

    Raises:
        UserError: an output was not written; the log or the stamp cannot be written.
    """
    require(bool(command), "nothing to run: put the command after --")

    def waiting() -> None:
        print(f"{name}: another process is busy with this stage; waiting for it", flush=True)

    with lock(stamp.with_name(f".{stamp.name}.lock"), waiting):
        key = sha256_json([__version__, command, {path: state(Path(path)) for path in inputs}])
        if _holds(stamp, key, outputs):
            print(f"{name}: done before, nothing changed; skipped", flush=True)
            return 0
        print(f"{name}\n  $ {shlex.join(command)}\n  log: {log}", flush=True)
        stamp.unlink(missing_ok=True)
        started = time.monotonic()
        code, read = _run(command, log, stamp.with_name(f".{stamp.name}.notes"))
        if code:
            how = f"stopped by signal {-code}" if code < 0 else f"exit code {code}"
            print(f"{name}: failed ({how}); see {log}", file=sys.stderr)
            return 130 if code in (-2, 130) else (2 if code == 2 else 1)
        for output in outputs:
            require(Path(output).exists(), f"{output}: the stage ended well but did not write this")
        seconds = round(time.monotonic() - started, 1)
        left = {str(path): state(path) for path in files_of(outputs)}
        found = {path: _state_of_noted(path) for path in read}
        kept = {"key": key, "command": command, "seconds": seconds, "read": found, "outputs": left}
        write_json(stamp, kept)
        print(f"  done in {seconds:.0f} s", flush=True)
    return 0


def _run(command: list[str], log: Path, notes: Path) -> tuple[int, list[str]]:
    """The exit code, and the paths that the command noted down."""
    notes.unlink(missing_ok=True)
    code = run_and_log(command, log, notes)
    if not notes.exists():
        return code, []
    paths = {json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()}
    notes.unlink()
    return code, sorted(paths)


def _holds(stamp: Path, key: str, outputs: Iterable[str]) -> bool:
    if not stamp.exists() or not all(Path(output).exists() for output in outputs):
        return False
    try:
        kept = read_json(stamp, dict)
    except UserError:
        return False  # a stamp that cannot be read proves nothing: run again
    if kept.get("key") != key:
        return False
    read, written = kept.get("read"), kept.get("outputs")
    if not isinstance(read, dict) or not isinstance(written, dict):
        return False
    return all(_state_of_noted(path) == was for path, was in read.items()) and all(
        state(Path(path)) == was for path, was in written.items()
    )


def _state_of_noted(path: str) -> str:
    return state(Path(path), quick=Path(path).is_dir())


def files_of(paths: Iterable[str]) -> list[Path]:
    """The files, and all below the folders, but hidden ones: locks, what is not finished."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = [(p, p.relative_to(path).parts) for p in path.rglob("*") if p.is_file()]
            found += [p for p, parts in below if not any(part[0] == "." for part in parts)]
        else:
            found.append(path)
    return sorted(found)


def state(path: Path, *, quick: bool = False) -> str:
    """What tells one state of a file or folder from another.

    Args:
        path: of a folder, the names and states of its files count, and where one is a `wav.scp`
            the sizes and times of the recordings that it names.
        quick: by size and time, as of every large file, instead of by a hash: a corpus is looked
            at in seconds, not read.
    """
    if path.is_dir():
        files = files_of([str(path)])
        states = [[p.relative_to(path).as_posix(), state(p, quick=quick)] for p in files]
        return sha256_json([*states, *_recordings(path / "wav.scp")])
    try:
        status = path.stat()
    except OSError:
        return "absent"
    if quick or status.st_size > HASH_LIMIT_BYTES:
        return f"{status.st_size}:{status.st_mtime_ns}"
    return sha256_file(path)


def _recordings(table: Path) -> list[list[str]]:
    """Path, as it stands there, and state of each recording of a `wav.scp`."""
    if not table.is_file():
        return []
    lines = table.read_bytes().splitlines()
    paths = {os.fsdecode(line.split(maxsplit=1)[-1]) for line in lines if line.strip()}
    return [[path, state(Path(path), quick=True)] for path in sorted(paths)]


def run_and_log(command: list[str], log: Path, notes: Path) -> int:
    """Run a command with its output on the terminal and in `log`; return its exit code.

    Progress bars redraw a line with a carriage return; the log keeps their last state only.
    """
    environment = dict(os.environ, PYTHONUNBUFFERED="1") | {NOTES: str(notes.absolute())}
    with writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        kept = log.open("wb", buffering=0)
    with kept:
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
                with writing(log):
                    for text in done:
                        kept.write(text.rstrip(b"\r").rsplit(b"\r", 1)[-1] + b"\n")
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # the child got the same signal and is closing its files
            code = 130
        except BaseException:
            process.terminate()
            process.wait()
            raise
        with writing(log):
            kept.write(line.rsplit(b"\r", 1)[-1])
    return code
