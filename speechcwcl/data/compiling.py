"""From a data folder to a manifest: stages 2 (format) and 3 (filter)."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from speechcwcl.data.kaldi import Report, check_datadir, scan_datadir
from speechcwcl.data.manifest_index import write_index
from speechcwcl.data.measuring import measure
from speechcwcl.data.problems import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.files import atomic_write


@dataclass
class Summary:
    """What :func:`compile_manifest` did.

    Attributes:
        manifest: path of the manifest.
        hash: its sha256.
        utterances: how many are in it.
        seconds: their length in all.
        too_short: dropped as shorter than the minimum.
        too_long: dropped as longer than the maximum.
        bad: left out because their audio is unsound (with ``skip_bad``).
        dropped_list: names the dropped ones (id, reason, seconds); empty if there are none.
        bad_list: names the bad ones (id, fault); empty if there are none.
        fields: label field -> number of utterances that have it.
    """

    manifest: str
    hash: str = ""
    utterances: int = 0
    seconds: float = 0.0
    too_short: int = 0
    too_long: int = 0
    bad: int = 0
    dropped_list: str = ""
    bad_list: str = ""
    fields: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [f"{self.utterances} utterances, {self.seconds / 3600:.2f} h"]
        if self.too_short or self.too_long:
            parts.append(
                f"{self.too_short} too short and {self.too_long} too long ({self.dropped_list})"
            )
        if self.bad:
            parts.append(f"{self.bad} with bad audio left out ({self.bad_list})")
        return f"{self.manifest}: " + "; ".join(parts)


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
    decode: bool = False,
    progress: bool = True,
) -> Summary:
    """Measure every utterance of a data folder, filter by length, write the manifest.

    The manifest appears as a whole or not at all. Memory is bounded. Durations in ``utt2dur``
    are believed, and those files are then not opened.

    Args:
        datadir: see :mod:`speechcwcl.data.kaldi`.
        out_jsonl: the manifest; one JSON object a line, in the order of the ids.
        nj: processes.
        min_duration: shorter utterances (s) are dropped, counted and listed; None keeps all.
        max_duration: longer ones likewise.
        skip_bad: leave out utterances whose audio is unsound rather than stop.
        bad_list: file that names those (default: ``<manifest>.bad.tsv``).
        allow_pipe: run the commands in ``wav.scp`` (see :mod:`speechcwcl.data.pipes`).
        decode: decode every sample rather than look at headers and ends of files.
        progress: show a progress bar.

    Raises:
        UserError: the folder or its audio is unsound, or nothing is left after filtering.
    """
    datadir, out = Path(datadir), Path(out_jsonl)
    low, high = _limits(min_duration, max_duration)
    report = check_datadir(datadir, allow_pipe=allow_pipe)  # cheap, and better before the hours
    report.raise_if_bad()
    summary, lists = Summary(str(out)), _Lists(out, bad_list)
    bad, dropped, problems = Problems(), Problems(), Problems()
    measured = measure(
        scan_datadir(datadir, problems, allow_pipe=allow_pipe),
        nj=nj,
        pipe_folder=out.parent / f"{out.stem}.audio" if allow_pipe else None,
        decode=decode,
    )
    bar = _bar(measured, report, progress)
    with atomic_write(out, "wb") as stream:
        writer = ManifestWriter(stream)
        for utterance in _kept(bar, low, high, summary, bad, dropped):
            writer.add(utterance)
        problems.raise_if_any()  # changed since it was checked
        if bad and not skip_bad:
            raise UserError(_bad_message(bad, lists.bad))
        if not writer.offsets:
            raise UserError(_nothing_left(datadir, summary, low, high))
    writer.finish(summary, out)
    summary.dropped_list = _keep_list(dropped, lists.dropped)
    summary.bad_list = _keep_list(bad, lists.bad)
    return summary


def _bar(measured: Iterable[Any], report: Report, progress: bool) -> tqdm:
    name = Path(report.folder).name
    return tqdm(measured, desc=name, total=report.utterances, unit="utt", disable=not progress)


def _limits(low: float | None, high: float | None) -> tuple[float, float]:
    low = 0.0 if low is None else low
    high = float("inf") if high is None else high
    if not low < high:
        raise UserError(f"min_duration {low:g} s must be below max_duration {high:g} s")
    return low, high


class _Lists:
    """Where the lists go."""

    def __init__(self, out: Path, bad_list: str | Path | None) -> None:
        self.dropped = out.with_name(f"{out.stem}.dropped.tsv")
        self.bad = Path(bad_list) if bad_list else out.with_name(f"{out.stem}.bad.tsv")


def _keep_list(problems: Problems, path: Path) -> str:
    """Save the list, or remove one that an earlier run left."""
    if problems:
        problems.save(path)
        return str(path)
    path.unlink(missing_ok=True)
    return ""


def _bad_message(bad: Problems, path: Path) -> str:
    text = "\n".join(line.replace("\t", ": ", 1) for line in bad.text().splitlines())
    if bad.count > len(bad.first):
        bad.save(path)
        text += f"\nall of them: {path}"
    return f"{text}\n(skip_bad leaves these out and lists them)"


def _nothing_left(datadir: Path, summary: Summary, low: float, high: float) -> str:
    return (
        f"{datadir}: no utterance is left: {summary.too_short} shorter than {low:g} s, "
        f"{summary.too_long} longer than {high:g} s, {summary.bad} with bad audio"
    )


def _kept(
    measured: Iterable[tuple[Utterance, str | None]],
    low: float,
    high: float,
    summary: Summary,
    bad: Problems,
    dropped: Problems,
) -> Iterator[Utterance]:
    """Pass on what is sound and of fitting length; count and note the rest."""
    for utterance, fault in measured:
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
            yield utterance


class ManifestWriter:
    """Writes lines and keeps what the index needs (12 bytes an utterance)."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.offsets, self.durations = array("q"), array("f")
        self.digest = hashlib.sha256()
        self.seconds = 0.0
        self.fields: dict[str, int] = {}
        self._at = 0

    def add(self, utterance: Utterance) -> None:
        """Write one line."""
        duration = round(utterance.duration or 0.0, 6)
        value = {
            "id": utterance.id,
            "audio": utterance.audio,
            "start": utterance.start,
            "end": utterance.end,
            "duration": duration,
            "text": utterance.text,
            "speaker": utterance.speaker,
            "labels": utterance.labels,
        }
        line = (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8")
        self.stream.write(line)
        self.digest.update(line)
        self.offsets.append(self._at)
        self.durations.append(duration)
        self._at += len(line)
        self.seconds += duration
        for name in utterance.labels:
            self.fields[name] = self.fields.get(name, 0) + 1

    def finish(self, summary: Summary, path: Path) -> None:
        """Write the index beside the finished manifest and fill in the summary."""
        summary.hash = self.digest.hexdigest()
        summary.utterances, summary.seconds = len(self.offsets), self.seconds
        summary.fields = dict(sorted(self.fields.items()))
        write_index(path, self.offsets, self.durations, summary.hash)


def check_audio(
    datadir: str | Path,
    *,
    nj: int = 1,
    allow_pipe: bool = False,
    decode: bool = False,
    progress: bool = True,
) -> Problems:
    """Probe every utterance's audio and write nothing; what is wrong is in the result.

    Args:
        datadir: a sound data folder (see ``check_datadir``).
        nj: processes.
        allow_pipe: pass over commands rather than refuse them (they are not run).
        decode: decode every sample rather than look at headers and ends of files.
        progress: show a progress bar.
    """
    report = check_datadir(datadir, allow_pipe=allow_pipe)
    report.raise_if_bad()
    problems = Problems()
    utterances = scan_datadir(datadir, problems, allow_pipe=allow_pipe)
    files = (u for u in utterances if not u.audio.endswith("|"))
    bar = _bar(measure(files, nj=nj, decode=decode), report, progress)
    for utterance, fault in bar:
        if fault is not None:
            problems.add(f"{utterance.id}: {fault}")
    return problems
