"""STOP: the sentences of TOPv2 read aloud, with their semantic parses; 8 domains."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from speechcwcl.corpora._download import Archive
from speechcwcl.corpora.base import Corpus, Listing, find_folder, write_lines, write_spoken
from speechcwcl.data.rows import read_lines, read_table
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError

COLUMNS = (
    "file_id", "domain", "gender", "native", "utterance", "seqlogical", "normalized_utterance",
    "normalized_seqlogical", "decoupled_normalized_seqlogical",
)  # fmt: skip
"""The columns of `manifests/<split>.tsv`; found by name, so another order is as good."""

DOMAINS = ("alarm", "event", "messaging", "music", "navigation", "reminder", "timer", "weather")
_PARSE = "decoupled_normalized_seqlogical"
_INTENT = re.compile(r"\[IN:(\w+)")


def first_intent(parse: str) -> str | None:
    """`"[IN:CREATE_ALARM [SL:DATE_TIME for six ] ]"` -> `"CREATE_ALARM"`; or None.

    The first `[IN:` is the root of the tree: what the whole utterance asks for.
    """
    match = _INTENT.search(parse)
    return match[1] if match else None


class Stop(Corpus):
    """`stop/manifests/<split>.tsv` and `stop/<part>/<domain>_<split>/NNNNNNNN.wav`.

    The fields are `label` (the first intent of the parse) and `domain`; where the corpus names
    them, `gender` and `native` (speaker) too. It does not tell the speakers apart.
    """

    name = "stop"
    title = "STOP"
    licence = "CC-BY-SA-4.0 (text, TOPv2); audio as stated in its archive"
    url = "https://facebookresearch.github.io/spoken_task_oriented_parsing"
    version = "stop.tar.gz of 2022"
    splits = ("train", "eval", "test")
    label_fields = ("label", "domain", "gender", "native")

    def archives(self, splits: Iterable[str] | None = None) -> list[Archive]:
        """See `Corpus.archives`; neither size nor checksum are published."""
        self.check_splits(splits)
        return [Archive("https://dl.fbaipublicfiles.com/stop/stop.tar.gz")]

    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield the recordings of one split; see `Corpus.utterances`."""
        root = find_folder(source, ("manifests",), ("stop",), self.title)
        table = self.file(root / "manifests" / f"{split}.tsv")
        listing = Listing()
        for number, row in read_table(table, ("file_id", "utterance", _PARSE), problems):
            intent = first_intent(row[_PARSE])
            text = row.get("normalized_utterance") or row["utterance"]
            audio = _audio(root, row["file_id"], split, listing)
            if intent is None:
                problems.add(f"{table}:{number}: no [IN: in the parse {row[_PARSE][:40]!r}")
            elif not text.strip():
                problems.add(f"{table}:{number}: no utterance")
            elif audio is None:
                problems.add(f"{table}:{number}: {listing.missing(root / row['file_id'])}")
            else:
                labels = {"label": intent, "domain": row.get("domain", "")}
                labels |= {name: row[name] for name in ("gender", "native") if row.get(name)}
                key = Path(row["file_id"]).with_suffix("").as_posix().replace("/", "-")
                yield Utterance(key, str(audio), text, labels=labels)

    def fake(self, target: Path, seed: int = 0) -> Path:
        """One utterance of our own a domain and split, folders named as in the archive."""
        root = Path(target) / "stop"
        for place, split in enumerate(self.splits):
            lines = ["\t".join(COLUMNS)]
            for number, (domain, intent, text) in enumerate(_FAKE):
                name = f"{number:08d}.wav"
                # The archive lists eval and test clips under "_0" folders that it does not have.
                listed = f"{split}_0/{domain}_{split}_0/{name}"
                there = listed if split == "train" else f"{split}_0/{domain}_{split}/{name}"
                write_spoken(root / there, text, seed + 100 * place + number)
                parse = f"[IN:{intent} {text} ]"
                person = ("female", "male")[number % 2], ("no", "yes")[number % 2]
                texts = text.capitalize(), parse, text, parse, f"[IN:{intent} ]"
                lines.append("\t".join([listed, domain, *person, *texts]))
            write_lines(root / "manifests" / f"{split}.tsv", lines)
        return Path(target)


def _audio(root: Path, file_id: str, split: str, listing: Listing) -> Path | None:
    """The recording of a row: as listed, or in the folder without the listed `_0`."""
    if file_id.startswith("/") or ".." in Path(file_id).parts:
        return None
    head, _, tail = file_id.rpartition("/")
    for candidate in (file_id, f"{head.replace(f'_{split}_0', f'_{split}')}/{tail}"):
        if listing.has(root / candidate):
            return root / candidate
    return None


def read_topv2(folder: Path, split: str) -> list[tuple[str, str, str]]:
    """The sentences of TOPv2, which STOP reads aloud: `(domain, utterance, intent)`.

    Args:
        folder: holds `<domain>_<split>.tsv` with domain, utterance and semantic_parse.
        split: `train`, `eval` or `test`.

    Raises:
        UserError: a file is missing or is not such a table.
    """
    found = []
    for domain in DOMAINS:
        path = Path(folder) / f"{domain}_{split}.tsv"
        if not path.exists():
            raise UserError(f"{path}: no such file; give the folder of TOPv2's TSV files")
        for number, line in read_lines(path):
            values = line.split("\t")
            intent = first_intent(values[-1])
            if number == 1:
                continue
            if len(values) != 3 or intent is None:
                raise UserError(f"{path}:{number}: not domain, utterance and parse")
            found.append((values[0], values[1], intent))
    return found


_FAKE = (
    ("alarm", "CREATE_ALARM", "an alarm at a quarter to seven"),
    ("event", "GET_EVENT", "puppet shows in the old town"),
    ("messaging", "SEND_MESSAGE", "write to nina that the soup is ready"),
    ("music", "PLAY_MUSIC", "let me hear some accordion"),
    ("navigation", "GET_INFO_TRAFFIC", "is the ring road jammed"),
    ("reminder", "CREATE_REMINDER", "remind me of the spare key"),
    ("timer", "PAUSE_TIMER", "hold the egg timer for a second"),
    ("weather", "GET_WEATHER", "will the fog lift before lunch"),
)
