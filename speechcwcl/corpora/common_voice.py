"""Mozilla Common Voice: sentences read by volunteers, MP3 clips listed in TSV files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from speechcwcl.corpora.base import Corpus, Listing, write_lines, write_spoken
from speechcwcl.data.rows import read_table
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError

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

    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield the clips of one split; see `Corpus.utterances`."""
        folder = _locale_folder(source).resolve()
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
                yield Utterance(key, str(audio), row["sentence"], speaker)

    def fake(self, target: Path, seed: int = 0) -> Path:
        """Three volunteers, sentences of our own, in the layout of release 17 and later."""
        folder = Path(target) / "cv-corpus-0.0-fake" / "en"
        header = "\t".join(COLUMNS)
        every = [header]
        clip = 0
        for place, split in enumerate(("train", "dev", "test")):
            lines = [header]
            for number, text in enumerate(_FAKE):
                clip += 1
                name = f"common_voice_en_{10_000_000 + clip}.mp3"
                write_spoken(folder / "clips" / name, text, seed + clip)
                person = f"{place}{number % 2}".ljust(16, "0").ljust(128, "a")
                facts = {"client_id": person, "path": name, "sentence_id": f"{clip:064x}"}
                facts |= {"sentence": text, "up_votes": "2", "down_votes": "0", "locale": "en"}
                lines.append("\t".join(facts.get(column, "") for column in COLUMNS))
            write_lines(folder / f"{split}.tsv", lines)
            every += lines[1:]
        write_lines(folder / "validated.tsv", every)
        return Path(target)


def _locale_folder(source: Path) -> Path:
    """The folder with `clips`: given, or the only one of its kind one or two levels below."""
    if (source / "clips").is_dir():
        return source
    found = sorted(p.parent for depth in ("*", "*/*") for p in source.glob(f"{depth}/clips"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(p.relative_to(source).as_posix() for p in found[:6])
        raise UserError(f"{source}: several languages are there ({names}); give one of the folders")
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
