"""Measuring many recordings at once: processes, order kept, bounded memory."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from speechcwcl.data import pipes
from speechcwcl.data.audio import END_TOLERANCE, audio_info, load_audio
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError

_CHUNK = 64
_WAITING_PER_WORKER = 4


class _Job(NamedTuple):
    audio: str
    start: float | None
    end: float | None


class _Found(NamedTuple):
    audio: str
    duration: float | None
    fault: str | None


def measure(
    utterances: Iterable[Utterance],
    *,
    nj: int = 1,
    pipe_folder: str | Path | None = None,
    decode: bool = False,
) -> Iterator[tuple[Utterance, str | None]]:
    """Set ``duration`` (s) of each utterance that has none; yield it and what is wrong, or None.

    Only a window of them is in memory, so the input may be endless.

    Args:
        utterances: in any order, which is kept. A known duration is believed.
        nj: processes; with 1 everything happens in this one.
        pipe_folder: where the audio of commands goes; without it they are faults.
        decode: decode every sample rather than look at headers and ends of files.
    """
    work = functools.partial(_measure_chunk, pipe_folder=pipe_folder, decode=decode)
    source = iter(utterances)
    chunks = iter(lambda: list(islice(source, _CHUNK)), [])
    if nj <= 1:
        for chunk in chunks:
            yield from _merge(chunk, work(_jobs(chunk, decode)), decode)
        return
    waiting: deque[tuple[list[Utterance], Future[list[_Found]] | None]] = deque()
    with worker_pool(nj) as pool:
        for chunk in chunks:
            jobs = _jobs(chunk, decode)
            waiting.append((chunk, pool.submit(work, jobs) if jobs else None))
            if len(waiting) >= nj * _WAITING_PER_WORKER:
                yield from _take(waiting, decode)
        while waiting:
            yield from _take(waiting, decode)


@contextlib.contextmanager
def worker_pool(nj: int) -> Iterator[ProcessPoolExecutor]:
    """``nj`` processes that are gone afterwards, whatever happened."""
    # fork starts in milliseconds and asks no main guard of the caller; workers touch no torch.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(nj, mp_context=context, initializer=_leave_interrupts_to_parent)
    try:
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


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # or Ctrl-C prints a traceback a worker


def _take(
    waiting: deque[tuple[list[Utterance], Future[list[_Found]] | None]], decode: bool
) -> Iterator[tuple[Utterance, str | None]]:
    chunk, future = waiting.popleft()
    return _merge(chunk, future.result() if future else [], decode)


def _needs_work(utterance: Utterance, decode: bool) -> bool:
    return utterance.duration is None or decode or pipes.is_command(utterance.audio)


def _jobs(chunk: list[Utterance], decode: bool) -> list[_Job]:
    return [_Job(u.audio, u.start, u.end) for u in chunk if _needs_work(u, decode)]


def _merge(
    chunk: list[Utterance], found: list[_Found], decode: bool
) -> Iterator[tuple[Utterance, str | None]]:
    results = iter(found)
    for utterance in chunk:
        if not _needs_work(utterance, decode):
            yield utterance, None
            continue
        result = next(results)
        utterance.audio, utterance.duration = result.audio, result.duration
        yield utterance, result.fault


def _measure_chunk(
    jobs: list[_Job], *, pipe_folder: str | Path | None, decode: bool
) -> list[_Found]:
    return [_measure(job, pipe_folder, decode) for job in jobs]


def _measure(job: _Job, pipe_folder: str | Path | None, decode: bool) -> _Found:
    audio = job.audio
    try:
        if pipes.is_command(audio):
            if pipe_folder is None:
                return _Found(audio, None, f"{audio}: a command; commands run only with allow_pipe")
            audio = str(pipes.run_pipe(audio, pipe_folder))
        if decode:
            rate = audio_info(audio).sample_rate  # resampling would add nothing
            wav = load_audio(audio, job.start, job.end, rate)
            return _Found(audio, len(wav) / rate, None)
        return _Found(audio, _length(audio, job.start, job.end), None)
    except UserError as error:
        return _Found(audio, None, str(error))


def _length(audio: str, start: float | None, end: float | None) -> float:
    whole = _duration(audio)
    first = start or 0.0
    last = whole if end is None else end
    if last > whole + END_TOLERANCE or first >= whole:
        raise UserError(
            f"{audio}: the stretch {first:g} s to {last:g} s is outside the recording, "
            f"which has {whole:.3f} s"
        )
    return min(last, whole) - first


@functools.lru_cache(maxsize=4096)
def _duration(audio: str) -> float:
    """Length of a recording in seconds; segments of one recording ask again and again."""
    return audio_info(audio).duration
