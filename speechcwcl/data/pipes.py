"""Commands in ``wav.scp`` (``sph2pipe -f wav x.sph |``), run once and without a shell.

They are refused unless allowed. Where allowed, stage 2 splits the line into words as a shell would,
but hands it to none: only plain pipes between programs are understood. Variables, wildcards and
home signs are passed on as written, and ``;``, ``&``, ``<``, ``>`` and brackets are refused. What
comes out is kept as mono FLAC beside the manifest, so no manifest ever holds a command.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import tempfile
from pathlib import Path

from speechcwcl.data.audio import audio_info, load_audio, write_audio
from speechcwcl.errors import UserError


def is_command(audio: str) -> bool:
    """Whether a ``wav.scp`` value is a command rather than a path."""
    return audio.endswith("|")


def split_command(text: str) -> list[list[str]]:
    """Words of each program of a pipeline, outermost first.

    Raises:
        UserError: quotes that do not close, or anything that only a shell could do.
    """
    lexer = shlex.shlex(text.rstrip()[:-1], posix=True, punctuation_chars="|;&<>()")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise UserError(f"{text}: cannot be split into words: {error}") from error
    programs: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            programs.append([])
        elif word and set(word) <= set("|;&<>()"):
            raise UserError(f"{text}: {word!r} needs a shell, and commands run without one")
        else:
            programs[-1].append(word)
    if not all(programs):
        raise UserError(f"{text}: an empty command")
    return programs


def run_pipe(text: str, folder: str | Path, timeout: float = 600.0) -> Path:
    """Run a command once and keep its audio; return the FLAC file.

    Args:
        text: the ``wav.scp`` value, with the ``|`` at its end.
        folder: where the FLAC file goes, named by the command's hash.
        timeout: seconds after which it is given up.

    Raises:
        UserError: it cannot be run, fails, takes too long, or writes no audio.
    """
    target = Path(folder) / f"{hashlib.sha256(text.encode('utf-8')).hexdigest()[:32]}.flac"
    if target.exists():
        return target
    with tempfile.NamedTemporaryFile(suffix=".audio") as output:
        _run(text, split_command(text), output.fileno(), timeout)
        try:
            rate = audio_info(output.name).sample_rate
            wav = load_audio(output.name, sample_rate=rate)
        except UserError as error:
            raise UserError(str(error).replace(output.name, text)) from None
    write_audio(target, wav, rate)
    return target


def _run(text: str, programs: list[list[str]], output: int, timeout: float) -> None:
    running: list[subprocess.Popen[bytes]] = []
    feed: int | None = subprocess.DEVNULL
    try:
        for words in programs:
            last = words is programs[-1]
            process = subprocess.Popen(
                words,
                stdin=feed,
                stdout=output if last else subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            if running and running[-1].stdout:
                running[-1].stdout.close()  # so that it gets SIGPIPE when its reader ends
            feed = process.stdout.fileno() if process.stdout else None
            running.append(process)
        codes = [process.wait(timeout) for process in running]
    except OSError as error:
        raise UserError(f"{text}: cannot run: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{text}: gave no end within {timeout:g} s") from error
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    if codes[-1] != 0:
        raise UserError(f"{text}: ended with exit status {codes[-1]}")
