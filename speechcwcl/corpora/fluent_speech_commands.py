"""Fluent Speech Commands: 248 phrasings of 31 commands to a home assistant, 97 speakers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from speechcwcl.corpora.base import Corpus, Listing, find_folder, write_lines, write_spoken
from speechcwcl.corpora.huggingface import HuggingFace
from speechcwcl.data.rows import read_table
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance

SLOTS = ("action", "object", "location")
_COLUMNS = ("path", "speakerId", "transcription", *SLOTS)


class FluentSpeechCommands(HuggingFace):
    """`data/{train,valid,test}_data.csv` and `wavs/speakers/<speaker>/<clip>.wav`, or parquet.

    Parquet is a copy of a dataset of the hub with the columns of SUPERB's `ic`: audio, speaker_id,
    text, action, object, location. The field `label` is action_object_location (31 classes); the
    three are fields too.
    """

    name = "fluent_speech_commands"
    title = "Fluent Speech Commands"
    licence = "academic research only; its archive has the whole licence"
    url = "https://fluent.ai/fluent-speech-commands-a-dataset-for-spoken-language-understanding-research"
    version = "fluent_speech_commands_dataset of 2019"
    synthetic_speech = False
    splits = ("train", "valid", "test")
    label_fields = ("label", *SLOTS)
    configure, check_splits = Corpus.configure, Corpus.check_splits

    def __init__(self) -> None:
        slots = {name: name for name in SLOTS}
        super().__init__(id="none", labels=slots, split_map={"valid": "validation"})

    def opened(self, source: Path) -> tuple[Path, bool]:
        """See `HuggingFace.opened`."""
        return source, not any(source.rglob("*.parquet"))

    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield the recordings, of the archive or of what was written out of parquet."""
        if not (source / split).is_dir():
            yield from self._of_archive(source, split, problems)
            return
        for found in super().utterances(source, split, problems):
            if missing := [name for name in SLOTS if name not in found.labels]:
                problems.add(f"{source / split}: {found.id}: no {missing[0]}")
            else:
                yield replace(found, labels=_labels(found.labels))

    def _of_archive(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        root = find_folder(source, ("data",), ("fluent_speech_commands_dataset",), self.title)
        table, listing = self.file(root / "data" / f"{split}_data.csv"), Listing()
        for number, row in read_table(table, _COLUMNS, problems):
            audio = root / row["path"]
            if row["path"].startswith("/") or ".." in Path(row["path"]).parts:
                problems.add(f"{table}:{number}: a recording's path must lie in the corpus")
            elif not row["transcription"].strip():
                problems.add(f"{table}:{number}: no transcription")
            elif not listing.has(audio):
                problems.add(f"{table}:{number}: {listing.missing(audio)}")
            else:
                key, text = f"{row['speakerId']}-{audio.stem}", row["transcription"]
                yield Utterance(key, str(audio), text, row["speakerId"], labels=_labels(row))

    def fake(self, target: Path, seed: int = 0) -> Path:
        """Commands in words of our own by one speaker a split, in the archive's layout."""
        root = Path(target) / "fluent_speech_commands_dataset"
        for place, split in enumerate(self.splits):
            lines = ["," + ",".join(_COLUMNS)]
            for number, (text, *slots) in enumerate(_FAKE):
                path = f"wavs/speakers/speaker{place}/{split}-{number:04d}.wav"
                write_spoken(root / path, text, seed + 100 * place + number)
                lines.append(f"{number},{path},speaker{place},{text},{','.join(slots)}")
            write_lines(root / "data" / f"{split}_data.csv", lines)
        return Path(target)


def _labels(row: Mapping[str, str]) -> dict[str, str]:
    """The three slots, and the intent that they make together."""
    slots = {name: "_".join(row[name].split()) for name in SLOTS}
    return {"label": "_".join(slots.values()), **slots}


_FAKE = (
    ("lamps on please", "activate", "lights", "none"),
    ("make the kitchen dark", "deactivate", "lights", "kitchen"),
    ("a bit more volume", "increase", "volume", "none"),
    ("it is cold in the bedroom", "increase", "heat", "bedroom"),
    ("where are my shoes", "bring", "shoes", "none"),
    ("speak chinese from now on", "change language", "Chinese", "none"),
)
