"""What a corpus is: one class that knows where it comes from and how its files become sets."""

from __future__ import annotations

import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from speechcwcl.corpora._download import Archive, download_all, refuse_half_extracted
from speechcwcl.data.audio import SAMPLE_RATE, write_audio
from speechcwcl.data.audio.opening import find_member
from speechcwcl.data.kaldi import write_datadir
from speechcwcl.data.rows import NOT_UTF8, is_text
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest
from speechcwcl.files import atomic_write


class Corpus(ABC):
    """A corpus: subclasses fill in the facts, `utterances` and `fake`.

    One module of `speechcwcl/corpora` holds one subclass; the module's name is the corpus' name.

    Examples:
        >>> class Two(Corpus):
        ...     name = "two"
        ...     title = "Two words"
        ...     splits = ("test",)
        ...     def utterances(self, source, split, problems):
        ...         for path in sorted((source / split).glob("*.wav")):
        ...             yield Utterance(path.stem, str(path), text=path.stem)
        ...     def fake(self, target, seed=0):
        ...         ...
    """

    name: ClassVar[str]  # as on the command line; the module's name
    title: ClassVar[str]  # for people
    licence: ClassVar[str] = ""  # SPDX id or a short sentence
    url: ClassVar[str] = ""  # its home page
    version: ClassVar[str] = ""  # the release that `prepare` reads
    synthetic_speech: ClassVar[bool | None] = False  # None where nobody knows
    splits: ClassVar[tuple[str, ...]]  # every set that `prepare` can make
    label_fields: ClassVar[tuple[str, ...]] = ()  # the label fields that its utterances carry

    def configure(self, words: list[str]) -> None:
        """Take the corpus' own options of the command line (`--name value`); most have none."""
        if words:
            raise UserError(f"{self.name} has no option {words[0]}; see `prepare --help`")

    @property
    def folder(self) -> str:
        """Where it goes below the folder of downloads."""
        return self.name

    def archives(self, splits: Iterable[str] | None = None) -> list[Archive]:
        """What `download` fetches; none where the licence does not allow it unattended."""
        return []

    def download(self, target: Path, splits: Iterable[str] | None = None) -> Path:
        """Fetch the corpus into `target`; return the folder that `prepare` takes.

        Raises:
            UserError: see `download_all`; or it has no `archives`.
        """
        if archives := self.archives(splits):
            return download_all(archives, target)
        raise UserError(
            f"{self.title} cannot be downloaded unattended; get it from {self.url or 'its owner'} "
            "and give the folder with --data"
        )

    def prepare(
        self,
        source: Path,
        out: Path,
        splits: Iterable[str] | None = None,
        *,
        skip_bad: bool = False,
    ) -> list[Path]:
        """Make one data folder a split: `out/<split>`.

        Args:
            splits: which sets; None is all.
            skip_bad: leave out what is broken (a transcript without audio, ...) and list it in
                `out/<split>/bad.tsv`; otherwise it is an error.

        Raises:
            UserError: wrong folder, unknown split, broken items; that split is then not written.
        """
        source, out = Path(source), Path(out)
        if not source.is_dir():
            raise UserError(f"{source}: no such folder; where is {self.title}?")
        refuse_half_extracted(source)
        return [self._prepare_split(source, out, s, skip_bad) for s in self.check_splits(splits)]

    def _prepare_split(self, source: Path, out: Path, split: str, skip_bad: bool) -> Path:
        problems = Problems()

        def sound() -> Iterator[Utterance]:
            for utterance in self.utterances(source, split, problems):
                if utterance.audio.isascii() or is_text(utterance.audio):
                    yield utterance
                else:  # a name of another encoding on the disk: no list in UTF-8 can hold it
                    problems.add(f"{ascii(utterance.audio)}: {NOT_UTF8}")
            if not skip_bad:
                problems.raise_if_any("(skip_bad leaves these out and lists them)")

        return write_datadir(out / split, sound(), corpus=self.facts(split), skipped=problems)

    def facts(self, split: str) -> dict[str, Any]:
        """What `corpus.json` says of a split."""
        return {
            "name": self.name,
            "title": self.title,
            "licence": self.licence,
            "url": self.url,
            "version": self.version,
            "split": split,
            "synthetic_speech": self.synthetic_speech,
        }

    @abstractmethod
    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield the utterances of one split, in any order.

        Args:
            problems: takes a line (`file:line: what`) for every item that is broken and
                therefore not yielded.

        Raises:
            UserError: the folder is not this corpus, or the split is not there.
        """

    @abstractmethod
    def fake(self, target: Path, seed: int = 0) -> Path:
        """Write a few synthetic clips in the corpus' true layout; return what `prepare` takes."""

    def check_splits(self, splits: Iterable[str] | None) -> list[str]:
        """The given splits, or all; a `UserError` for an unknown one."""
        wanted = (
            [splits] if isinstance(splits, str) else list(self.splits if splits is None else splits)
        )
        for split in wanted:
            if split not in self.splits:
                raise UserError(
                    f"{self.name} has no split {split!r}{closest(split, self.splits)}; "
                    f"it has {', '.join(self.splits)}"
                )
        return wanted

    def file(self, path: Path) -> Path:
        """`path` if it is there, else a `UserError` that it is missing in this corpus."""
        if not path.exists():
            near = closest(path.name, [p.name for p in path.parent.glob("*")][:2000])
            raise UserError(
                f"{path}: not there{near}; is this {self.title}, and was it extracted completely?"
            )
        return path


class Listing:
    """Tells whether files exist, reading each folder once: one call a folder, not one a file."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def names(self, folder: str | Path) -> frozenset[str]:
        """The names in a folder but hidden ones; empty when there is no such folder."""
        key = os.fspath(folder)
        if key not in self._names:
            try:
                names = os.listdir(key)
                self._names[key] = frozenset(n for n in names if not n.startswith("."))
            except (OSError, ValueError):  # the latter for a name that no file can have
                self._names[key] = frozenset()
        return self._names[key]

    def has(self, path: str | Path) -> bool:
        """Whether there is something at `path`; of a clip in a shard, whether the shard is."""
        member = find_member(os.fspath(path))
        folder, name = os.path.split(member.tar if member else os.fspath(path))
        return name in self.names(folder)

    def missing(self, path: str | Path) -> str:
        """One phrase for a file that is not there, with the closest name beside it."""
        folder, name = os.path.split(os.fspath(path))
        names = self.names(folder)
        if not names:
            return f"{path} is not there: its folder is missing or empty"
        if len(names) > 2000:  # a search for every missing file would take for ever
            return f"{path} is not there"
        for other in () if name.isascii() else names:
            if _composed(other) == _composed(name):
                return f"{path} is not there, but {ascii(other)} is: the same letters, composed"
        return f"{path} is not there{closest(name, names)}"


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def find_folder(source: Path, marks: tuple[str, ...], places: tuple[str, ...], what: str) -> Path:
    """The first of `source` and its sub-folders `places` that holds one of `marks`, resolved.

    Raises:
        UserError: none does; the message says what was looked for and what is there.
    """
    for place in ("", *places):
        folder = source / place
        if any((folder / mark).exists() for mark in marks):
            return folder.resolve()
    found = ", ".join(sorted(p.name for p in source.iterdir())[:6]) or "nothing"
    raise UserError(
        f"{source}: not {what}: expected {' or '.join(marks)} in it, found {found}; "
        "give the folder that the archive was extracted to"
    )


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a list of a fake corpus."""
    with atomic_write(path) as stream:
        stream.writelines(f"{line}\n" for line in lines)


def write_spoken(path: Path, text: str, seed: int = 0, seconds: float = 0.0) -> None:
    """Write a synthetic sound that its text determines.

    Args:
        seconds: length; 0 lets the text decide (0.4 s and 0.12 s a word).
    """
    seconds = seconds or 0.4 + 0.12 * len(text.split())
    write_audio(path, chord(text, seconds, np.random.default_rng([seed, *text.encode()])))


def chord(text: str, seconds: float, draw: np.random.Generator) -> np.ndarray:
    """A chord that the text determines, with a little noise: learnable, and no two alike."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitches = np.random.default_rng(list(text.encode()) or [0]).uniform(150, 3000, size=3)
    wave = sum(np.sin(2 * np.pi * pitch * time) for pitch in pitches) / 6
    return wave + 0.01 * draw.standard_normal(len(time))
