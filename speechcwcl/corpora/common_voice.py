"""Mozilla Common Voice: sentences read by volunteers, MP3 clips listed in TSV files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from speechcwcl.corpora.base import Corpus, Listing, write_lines, write_spoken
from speechcwcl.data.rows import read_table
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest

COLUMNS = (
    "client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes",
    "age", "gender", "accents", "variant", "locale", "segment",
)  # fmt: skip
"""The columns since release 17; older releases have fewer, client_id, path and sentence always."""


class CommonVoice(Corpus):
    """`cv-corpus-<version>/<locale>/{train,dev,test,...}.tsv` and `clips/*.mp3`."""

    name = "common_voice"
    title = "Common Voice"
    licence = "CC0-1.0 (its distributor asks not to re-host the archives)"
    url = "https://datacollective.mozillafoundation.org (with a free account)"
    version = "any release (cv-corpus-*)"
    splits = ("train", "dev", "test", "validated")
    label_fields = ("language",)
    languages: tuple[str, ...] = ()  # none: the only one there is

    def configure(self, words: list[str]) -> None:
        """Take `--languages LOCALE ...`: those of a release, in one set, each in its folder."""
        parser = argparse.ArgumentParser(prog=f"speechcwcl prepare {self.name}", allow_abbrev=False)
        parser.add_argument("--languages", nargs="+", default=[], metavar="LOCALE")
        self.languages = tuple(parser.parse_args(words).languages)

    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield the clips of one split, of all languages; see `Corpus.utterances`."""
        folders = [_language_folder(source, name) for name in self.languages]
        for folder in folders or [_locale_folder(source)]:
            yield from self._of_language(folder.resolve(), split, problems)

    def _of_language(self, folder: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        labels = {"language": folder.name}
        table = self.file(folder / f"{split}.tsv")
        listing = Listing()
        for number, row in read_table(table, ("client_id", "path", "sentence"), problems):
            name = row["path"] if "." in row["path"] else f"{row['path']}.mp3"
            audio = folder / "clips" / name
            if not row["sentence"].strip():
                problems.add(f"{table}:{number}: {name} has no sentence")
            elif "/" in name:
                problems.add(f"{table}:{number}: a clip's name must not hold a folder")
            elif not listing.has(audio):
                problems.add(f"{table}:{number}: {listing.missing(audio)}")
            else:
                # 16 of the 128 hexadecimal digits tell the speakers apart and keep tables small.
                speaker = row["client_id"][:16] or name
                key = f"{speaker}-{Path(name).stem}"
                yield Utterance(key, str(audio), row["sentence"], speaker, labels=labels)

    def fake(self, target: Path, seed: int = 0) -> Path:
        """Three volunteers, sentences of our own, in the layout of release 17 and later."""
        for language in self.languages or ("en",):
            self._fake_language(Path(target) / "cv-corpus-0.0-fake" / language, seed)
        return Path(target)

    def _fake_language(self, folder: Path, seed: int) -> None:
        language = folder.name
        header = "\t".join(COLUMNS)
        every = [header]
        clip = 0
        for place, split in enumerate(("train", "dev", "test")):
            lines = [header]
            for number, text in enumerate(_FAKE):
                clip += 1
                name = f"common_voice_{language}_{10_000_000 + clip}.mp3"
                write_spoken(folder / "clips" / name, text, seed + clip)
                person = f"{place}{number % 2}".ljust(16, "0").ljust(128, "a")
                facts = {"client_id": person, "path": name, "sentence_id": f"{clip:064x}"}
                facts |= {"sentence": text, "up_votes": "2", "down_votes": "0", "locale": language}
                lines.append("\t".join(facts.get(column, "") for column in COLUMNS))
            write_lines(folder / f"{split}.tsv", lines)
            every += lines[1:]
        write_lines(folder / "validated.tsv", every)


def _language_folder(source: Path, language: str) -> Path:
    """The folder of a language: in the one given, or one level below it."""
    there = {
        p.parent.name: p.parent for depth in ("*", "*/*") for p in source.glob(f"{depth}/clips")
    }
    if language not in there:
        known = ", ".join(sorted(there)) or "none"
        raise UserError(
            f"{source}: no language {language!r}{closest(language, there)}; there are: {known}"
        )
    return there[language]


def _locale_folder(source: Path) -> Path:
    """The folder with `clips`: given, or the only one of its kind one or two levels below."""
    if (source / "clips").is_dir():
        return source
    found = sorted(p.parent for depth in ("*", "*/*") for p in source.glob(f"{depth}/clips"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(p.relative_to(source).as_posix() for p in found[:6])
        raise UserError(
            f"{source}: several languages are there ({names}); give one of the folders, "
            "or --languages"
        )
    inside = ", ".join(sorted(p.name for p in source.iterdir())[:6]) or "nothing"
    raise UserError(
        f"{source}: not a Common Voice folder: no clips/ in it (but {inside}); give the folder "
        "cv-corpus-<version>/<locale> of the extracted archive"
    )


_FAKE = (
    "The bakery opens before sunrise.",
    "Her cousin repairs old radios.",
    "Two ferries leave from this pier.",
    "Nobody knew who owned the garden.",
    "It was too cold for the bees.",
)
