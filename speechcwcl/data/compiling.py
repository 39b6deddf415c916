"""From a data folder to a manifest: stages 2 (format) and 3 (filter).

Many recordings are measured at once: in processes, their order kept, a window of them at a time.

Commands in `wav.scp` (`sph2pipe -f wav x.sph |`) are refused unless allowed. Where allowed,
stage 2 splits the line into words as a shell would, but hands it to none: only plain pipes between
programs are understood. Variables, wildcards and home signs are passed on as written, and `;`,
`&`, `<`, `>` and brackets are refused. What comes out is kept as mono FLAC beside the
manifest, so no manifest ever holds a command.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import multiprocessing
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from speechcwcl.data.audio import END_TOLERANCE, audio_info, load_audio, write_audio
from speechcwcl.data.kaldi import check_datadir, scan_datadir
from speechcwcl.data.manifest import Summary, save_manifest
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, require

_CHUNK = 64
_WAITING_PER_WORKER = 4
_PATIENCE = 600.0  # seconds that a command may take


def compile_manifest(
    datadir: str | Path,
    out_jsonl: str | Path,
    *,
    nj: int = 1,
    min_duration: float | None = 0.1,
    max_duration: float | None = 30.0,
    skip_bad: bool = False,
    bad_list: str | Path | None = None,
    allow_pipe: bool = False,
    progress: bool = True,
) -> Summary:
    """Measure every utterance of a data folder, filter by length, write the manifest.

    The manifest appears as a whole or not at all. Durations in `utt2dur` are believed, and those
    files are then not opened.

    Args:
        out_jsonl: the manifest; one JSON object a line, in the order of the ids.
        min_duration: shorter utterances (s) are dropped, counted and listed; None keeps all.
        skip_bad: leave out utterances whose audio is unsound rather than stop.
        bad_list: file that names those (default: `<manifest>.bad.tsv`).

    Raises:
        UserError: the folder or its audio is unsound, or nothing is left after filtering.
    """
    datadir, out = Path(datadir), Path(out_jsonl)
    low, high = min_duration or 0.0, float("inf") if max_duration is None else max_duration
    require(low < high, f"min_duration {low:g} s must be below max_duration {high:g} s")
    report = check_datadir(datadir, allow_pipe=allow_pipe)  # cheap, and better before the hours
    report.problems.raise_if_any()
    summary, bad, dropped = Summary(str(out)), Problems(), Problems()
    bad_path = Path(bad_list) if bad_list else out.with_name(f"{out.stem}.bad.tsv")
    measured = measure(
        scan_datadir(datadir, Problems(), allow_pipe=allow_pipe),
        nj=nj,
        pipe_folder=out.parent / f"{out.stem}.audio" if allow_pipe else None,
    )
    bar = tqdm(measured, datadir.name, report.utterances, unit="utt", disable=not progress)

    def sound() -> Iterator[Utterance]:
        yield from _kept(bar, low, high, summary, bad, dropped)
        if bad and not skip_bad:
            raise UserError(_bad_message(bad, bad_path))
        left = f"{summary.too_short} shorter than {low:g} s, {summary.too_long} longer than "
        left += f"{high:g} s, {summary.bad} with bad audio"
        require(summary.utterances > 0, f"{datadir}: no utterance is left: {left}")

    save_manifest(out, sound(), summary)
    summary.dropped_list = _keep_list(dropped, out.with_name(f"{out.stem}.dropped.tsv"))
    summary.bad_list = _keep_list(bad, bad_path)
    return summary


def _keep_list(problems: Problems, path: Path) -> str:
    """Save the list, or remove one that an earlier run left."""
    if problems:
        problems.save(path)
        return str(path)
    path.unlink(missing_ok=True)
    return ""


def _bad_message(bad: Problems, path: Path) -> str:
    text = "\n".join(line.replace("\t", ": ", 1) for line in bad.text().splitlines())
    if len(bad) > bad.limit:
        bad.save(path)
        text += f"\nall of them: {path}"
    return f"{text}\n(skip_bad leaves these out and lists them)"


def _kept(
    measured: Iterable[Measured],
    low: float,
    high: float,
    summary: Summary,
    bad: Problems,
    dropped: Problems,
) -> Iterator[Utterance]:
    """Pass on what is sound and of fitting length; count and note the rest."""
    for utterance, fault, cut in measured:
        if fault is not None or utterance.duration is None:
            summary.bad += 1
            bad.add(f"{utterance.id}\t{fault}")
        elif utterance.duration < low:
            summary.too_short += 1
            dropped.add(f"{utterance.id}\ttoo short\t{utterance.duration:.3f}")
        elif utterance.duration > high:
            summary.too_long += 1
            dropped.add(f"{utterance.id}\ttoo long\t{utterance.duration:.3f}")
        else:
            summary.cut += cut
            yield utterance


class Measured(NamedTuple):
    """An utterance, what is wrong with its audio, and whether it went on behind its recording."""

    utterance: Utterance
    fault: str | None = None
    cut: bool = False


def measure(
    utterances: Iterable[Utterance], *, nj: int = 1, pipe_folder: str | Path | None = None
) -> Iterator[Measured]:
    """Set `duration` (s) of each utterance that has none; yield them.

    Only a window of them is in memory, so the input may be endless.

    Args:
        utterances: in any order, which is kept. A known duration is believed.
        nj: processes; with 1 everything happens in this one.
        pipe_folder: where the audio of commands goes; without it they are faults.
    """
    source, waiting = iter(utterances), deque[Future[list[Measured]]]()
    if nj <= 1:
        yield from (_measure(utterance, pipe_folder) for utterance in source)
        return
    with worker_pool(nj) as pool:
        while chunk := list(islice(source, _CHUNK)):
            if any(u.duration is None or is_command(u.audio) for u in chunk):
                waiting.append(pool.submit(_measure_all, chunk, pipe_folder))
            else:  # nothing to look into
                waiting.append(Future())
                waiting[-1].set_result([Measured(u) for u in chunk])
            if len(waiting) >= nj * _WAITING_PER_WORKER:
                yield from waiting.popleft().result()
        for future in waiting:
            yield from future.result()


@contextlib.contextmanager
def worker_pool(nj: int) -> Iterator[ProcessPoolExecutor]:
    """`nj` processes that are gone afterwards, whatever happened."""
    # fork starts in milliseconds and asks no main guard of the caller; workers touch no torch.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(nj, mp_context=context, initializer=_leave_interrupts_to_parent)
    try:
        with interrupts_wait():
            pool.submit(int)  # starts the workers, all of them where they are forked
        yield pool
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was ended from outside (out of memory?); lower nj"
        ) from error
    except BaseException:  # Ctrl-C above all: a hung disk must not make it wait
        for worker in list((getattr(pool, "_processes", None) or {}).values()):
            worker.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C within comes at the end: a process that is half started is known to nobody, so nobody
    would end it, and all would wait for it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # interrupts come in the main thread only
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if came:
        signal.raise_signal(signal.SIGINT)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # or Ctrl-C prints a traceback a worker


def _measure_all(chunk: list[Utterance], pipe_folder: str | Path | None) -> list[Measured]:
    return [_measure(utterance, pipe_folder) for utterance in chunk]


def _measure(utterance: Utterance, pipe_folder: str | Path | None) -> Measured:
    try:
        if is_command(utterance.audio):
            require(
                pipe_folder is not None,
                f"{utterance.audio}: a command; give --allow_pipe to run it",
            )
            utterance.audio = str(run_pipe(utterance.audio, str(pipe_folder)))
        elif utterance.duration is not None:
            return Measured(utterance)
        whole, first = _duration(utterance.audio), utterance.start or 0.0
        last = whole if utterance.end is None else utterance.end
        require(
            last <= whole + END_TOLERANCE and first < whole,
            f"{utterance.audio}: the stretch {first:g} s to {last:g} s is outside the recording, "
            f"which has {whole:.3f} s",
        )
        utterance.duration = min(last, whole) - first
        # below a millisecond it is the rounding of the times
        return Measured(utterance, cut=last > whole + 0.001)
    except UserError as error:
        return Measured(utterance, fault=str(error))


@functools.lru_cache(maxsize=4096)
def _duration(audio: str) -> float:
    """Length of a recording in seconds; segments of one recording ask again and again."""
    return audio_info(audio).duration


def is_command(audio: str) -> bool:
    """Whether a `wav.scp` value is a command rather than a path."""
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


def run_pipe(text: str, folder: str | Path) -> Path:
    """Run a command once and keep its audio; return the FLAC file.

    Raises:
        UserError: it cannot be run, fails, takes too long, or writes no audio.
    """
    target = Path(folder) / f"{hashlib.sha256(text.encode('utf-8')).hexdigest()[:32]}.flac"
    if target.exists():
        return target
    with tempfile.NamedTemporaryFile(suffix=".audio") as output:
        _run(text, split_command(text), output.fileno())
        try:
            rate = audio_info(output.name).sample_rate
            wav = load_audio(output.name, sample_rate=rate)
        except UserError as error:
            raise UserError(str(error).replace(output.name, text)) from None
    write_audio(target, wav, rate)
    return target


def _run(text: str, programs: list[list[str]], output: int) -> None:
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
        codes = [process.wait(_PATIENCE) for process in running]
    except OSError as error:
        raise UserError(f"{text}: cannot run: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{text}: did not end within {_PATIENCE:g} s") from error
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    if codes[-1] != 0:
        raise UserError(f"{text}: ended with exit status {codes[-1]}")
