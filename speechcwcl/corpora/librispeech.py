"""LibriSpeech (OpenSLR SLR12) and Mini LibriSpeech (SLR31): read books, 16 kHz FLAC."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from speechcwcl.corpora._download import Archive
from speechcwcl.corpora.base import Corpus, Listing, find_folder, write_lines, write_spoken
from speechcwcl.data.rows import read_lines
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance

_URL = "https://www.openslr.org/resources/{}/{}.tar.gz"
_MD5 = {
    "train-clean-100": (12, "2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": (12, "c0e676e450a7ff2f54aeade5171606fa"),
    "train-other-500": (12, "d1a0fd59409feb2c614ce4d30c387708"),
    "dev-clean": (12, "42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": (12, "c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": (12, "32fa31d27d2e1cad72775fee3f4849a9"),
    "test-other": (12, "fb5a50374b501bb3bac4815ee91d3135"),
    "train-clean-5": (31, "5df7d4e78065366204ca6845bb08f490"),
    "dev-clean-2": (31, "6d7ab67ac6a1d2c993d050e16d61080d"),
}


class LibriSpeech(Corpus):
    """`LibriSpeech/<split>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt` and FLAC files.

    The transcripts are in capitals there; here they are lower case, because text encoders with
    cased vocabularies embed capitals badly.
    """

    name = "librispeech"
    title = "LibriSpeech"
    licence = "CC-BY-4.0"
    url = "https://www.openslr.org/12"
    version = "SLR12, SLR31"
    splits = tuple(_MD5)

    def archives(self, splits: Iterable[str] | None = None) -> list[Archive]:
        """See `Corpus.archives`."""
        return [
            Archive(_URL.format(_MD5[s][0], s), checksum=f"md5:{_MD5[s][1]}")
            for s in self.check_splits(splits)
        ]

    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield the utterances of one split; see `Corpus.utterances`."""
        root = find_folder(source, self.splits, ("LibriSpeech",), self.title)
        folder = self.file(root / split)
        transcripts = sorted(folder.glob("*/*/*.trans.txt"))
        if not transcripts:
            self.file(folder / "<speaker>" / "<chapter>" / "<speaker>-<chapter>.trans.txt")
        listing = Listing()
        for path in transcripts:
            yield from self._chapter(path, listing, problems)

    def _chapter(self, path: Path, listing: Listing, problems: Problems) -> Iterator[Utterance]:
        speaker = path.parent.parent.name
        unused = {n for n in listing.names(path.parent) if n.endswith(".flac")}
        for number, line in read_lines(path):
            key, _, text = line.strip().partition(" ")
            audio = path.parent / f"{key}.flac"
            if not text.strip():
                problems.add(f"{path}:{number}: {key} has no transcript")
            elif not listing.has(audio):
                problems.add(f"{path}:{number}: {listing.missing(audio)}")
            else:
                yield Utterance(key, str(audio), text.lower(), speaker)
            unused.discard(audio.name)
        for name in sorted(unused):
            problems.add(f"{path}: no transcript of {name}, which lies beside it")

    def fake(self, target: Path, seed: int = 0) -> Path:
        """Two speakers, one chapter each, a few sentences of our own, in every split."""
        root = Path(target) / "LibriSpeech"
        for place, split in enumerate(self.splits):
            for person in range(2):
                speaker, chapter = str(100 + 10 * place + person), str(7000 + place)
                folder = root / split / speaker / chapter
                lines = []
                for number, text in enumerate(_FAKE[person::2]):
                    key = f"{speaker}-{chapter}-{number:04d}"
                    write_spoken(folder / f"{key}.flac", text, seed + place)
                    lines.append(f"{key} {text.upper()}")
                write_lines(folder / f"{speaker}-{chapter}.trans.txt", lines)
        return Path(target)


_FAKE = (
    "the old clock in the hall had stopped at noon",
    "she put the letter back into the drawer",
    "nobody had crossed the bridge since the flood",
    "they walked home along the river in the rain",
    "a lamp was burning in the last window",
    "he counted the steps down to the cellar",
)
