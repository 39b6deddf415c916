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
    >>> export_datadir("data/train", "train.csv", "speechbrain_csv")  # doctest: +SKIP
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from speechcwcl.corpora._formats import jsonl, lhotse, plain_csv, speechbrain_csv, speechbrain_json
from speechcwcl.corpora._formats._fields import Options
from speechcwcl.data.datadir import iter_datadir, read_corpus, write_datadir
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
    "FORMATS", "Options", "detect", "export_datadir", "import_datadir", "read_manifest",
    "write_manifest",
]  # fmt: skip


def detect(path: str | Path) -> str:
    """The format of a manifest, from its name and its first line.

    Raises:
        UserError: the file is missing or fits none.
    """
    path = Path(path)
    head = _head(path)
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
    module = _module(format or detect(path))
    yield from module.read(Path(path), problems, options or Options())


def import_datadir(
    path: str | Path,
    out: str | Path,
    format: str = "",
    *,
    options: Options | None = None,
    skip_bad: bool = False,
) -> Path:
    """Make a data folder of a manifest.

    Args:
        path: the manifest.
        out: the data folder.
        format: a key of :data:`FORMATS`; found by :func:`detect` when empty.
        options: names of columns, root of the audio.
        skip_bad: leave out what is wrong and list it in ``bad.tsv``; otherwise it is an error.
    """
    problems = Problems()
    format = format or detect(path)

    def sound() -> Iterator[Utterance]:
        yield from read_manifest(path, format, problems=problems, options=options)
        if not skip_bad:
            problems.raise_if_any("(skip_bad leaves these out and lists them)")

    facts = {"name": Path(path).stem, "imported_from": Path(path).name, "format": format}
    return write_datadir(out, sound(), corpus=facts, skipped=problems)


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


def export_datadir(source: str | Path, path: str | Path, format: str) -> Path:
    """Write a data folder, or a compiled ``manifest.jsonl``, in another toolkit's format."""
    source = Path(source)
    if source.is_dir():
        read_corpus(source)
        return write_manifest(path, iter_datadir(source), format)
    return write_manifest(path, Manifest(source), format)


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
