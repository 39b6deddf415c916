"""Manifests of other toolkits, read and written: csv, jsonl, SpeechBrain, lhotse.

| format | what it is |
|---|---|
| ``csv`` | a header and columns ``audio``, ``text``, ``label``, ... (``.tsv``: tab-separated) |
| ``jsonl`` | NeMo (``audio_filepath``), Whisper fine-tuning (``audio.path``), our manifest |
| ``speechbrain_csv`` | ``ID,duration,wav,...``; start and stop in samples |
| ``speechbrain_json`` | ``{"utt1": {"wav": "{data_root}/a.wav", "length": 2.5, ...}, ...}`` |
| ``lhotse`` | cuts, ``.jsonl`` or ``.jsonl.gz`` (``MonoCut``) |

Paths in a manifest start at its own folder, unless they are absolute. An audio file that is not
there, and a line that cannot be understood, is a problem with its line number; all are gathered.

Example:
    >>> import_datadir("manifest.json", "data/train")  # doctest: +SKIP
    >>> export_manifest("data/train", "train.csv", "speechbrain_csv")  # doctest: +SKIP
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from speechcwcl.corpora._formats import jsonl, lhotse, plain_csv, speechbrain_csv, speechbrain_json
from speechcwcl.corpora._formats._fields import Options
from speechcwcl.data.kaldi import iter_datadir, write_datadir
from speechcwcl.data.manifest import Manifest
from speechcwcl.data.problems import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest
from speechcwcl.files import atomic_write

FORMATS: dict[str, ModuleType] = {
    "csv": plain_csv,
    "jsonl": jsonl,
    "speechbrain_csv": speechbrain_csv,
    "speechbrain_json": speechbrain_json,
    "lhotse": lhotse,
}
"""Name -> module with ``read``, ``write`` and ``fits``."""

__all__ = [
    "FORMATS", "Options", "detect", "export_manifest", "import_datadir", "is_own_manifest",
    "read_manifest", "write_manifest",
]  # fmt: skip


def detect(path: str | Path, audio: str = "") -> str:
    """The format of a manifest, from its name and its first line.

    Args:
        path: the manifest.
        audio: name of the column of audio, if it has no usual one.

    Raises:
        UserError: the file is missing or fits none.
    """
    path = Path(path)
    head = _head(path)
    if audio:  # a usual name, as far as the formats are concerned
        head = re.sub(rf"\b{re.escape(audio)}\b", "audio", head)
    for name in ("lhotse", "speechbrain_json", "jsonl", "speechbrain_csv", "csv"):
        if FORMATS[name].fits(path, head):
            return name
    raise UserError(
        f"{path}: no format known here ({', '.join(FORMATS)}); it begins with {head[:60]!r}"
    )


def read_manifest(
    path: str | Path, format: str = "", *, problems: Problems, options: Options | None = None
) -> Iterator[Utterance]:
    """Yield the utterances of a manifest in its order; what is wrong goes to ``problems``.

    Args:
        path: the manifest.
        format: a key of :data:`FORMATS`; found by :func:`detect` when empty.
        problems: takes a line for every utterance that is not yielded.
        options: names of columns, root of the audio.
    """
    options = options or Options()
    module = _module(format or detect(path, options.audio))
    yield from module.read(Path(path), problems, options)


def import_datadir(
    path: str | Path,
    out: str | Path,
    format: str = "",
    *,
    options: Options | None = None,
    skip_bad: bool = False,
) -> Path:
    """Make a data folder of a manifest, which may also be our own.

    Args:
        path: the manifest.
        out: the data folder.
        format: a key of :data:`FORMATS`; found by :func:`detect` when empty.
        options: names of columns, root of the audio.
        skip_bad: leave out what is wrong and list it in ``bad.tsv``; otherwise it is an error.
    """
    path, problems = Path(path), Problems()
    own = not format and is_own_manifest(path)
    format = "" if own else format or detect(path, options.audio if options else "")
    facts = {"name": path.stem, "imported_from": path.name, "format": format or "manifest"}
    found = _sound(path, format, options, problems, skip_bad)
    return write_datadir(out, found, corpus=facts, skipped=problems)


def export_manifest(
    source: str | Path,
    path: str | Path,
    to: str,
    format: str = "",
    *,
    options: Options | None = None,
    skip_bad: bool = False,
) -> Path:
    """Write a data folder, a compiled ``manifest.jsonl`` or another toolkit's manifest in a format.

    Args:
        source: what to read.
        path: the manifest to write.
        to: its format, a key of :data:`FORMATS`.
        format: that of ``source``, if it is another toolkit's; found when empty.
        options: names of columns, root of the audio; for other toolkits' manifests.
        skip_bad: leave out what is wrong and list it in ``<path>.bad.tsv``; otherwise an error.
    """
    problems = Problems()
    write_manifest(path, _sound(Path(source), format, options, problems, skip_bad), to)
    if problems:
        problems.save(f"{path}.bad.tsv")
    return Path(path)


def is_own_manifest(path: str | Path) -> bool:
    """Whether a file is a compiled ``manifest.jsonl`` of this toolkit."""
    try:
        first = json.loads(_head(Path(path)).split("\n")[0])
    except ValueError:
        return False
    return isinstance(first, dict) and {"id", "audio", "duration", "labels"} <= set(first)


def _sound(
    source: Path, format: str, options: Options | None, problems: Problems, skip_bad: bool
) -> Iterator[Utterance]:
    """Utterances of whatever ``source`` is; what is wrong ends in an error unless skipped."""
    own = source.is_dir() or (not format and is_own_manifest(source))
    if own and options not in (None, Options()):
        raise UserError(f"{source}: named columns and a root are for other toolkits' manifests")
    if source.is_dir():
        yield from iter_datadir(source)
    elif own:
        yield from Manifest(source)
    else:
        yield from read_manifest(source, format, problems=problems, options=options)
    if not skip_bad:
        problems.raise_if_any("(skip_bad leaves these out and lists them)")


def write_manifest(path: str | Path, utterances: Iterable[Utterance], format: str) -> Path:
    """Write a manifest in another toolkit's format, atomically; audio paths become absolute."""
    path, module = Path(path), _module(format)
    if path.suffix == ".gz":
        with atomic_write(path, "wb") as raw, gzip.open(raw, "wt", encoding="utf-8") as stream:
            module.write(stream, utterances, path)
    else:
        with atomic_write(path) as stream:
            module.write(stream, utterances, path)
    return path


def _module(format: str) -> ModuleType:
    if format not in FORMATS:
        raise UserError(f"no format {format!r}{closest(format, FORMATS)}; {', '.join(FORMATS)}")
    return FORMATS[format]


def _head(path: Path) -> str:
    """The first 64 KiB: room for one line."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            return stream.read(1 << 16).decode("utf-8-sig", errors="replace")
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot read: {error}") from error
