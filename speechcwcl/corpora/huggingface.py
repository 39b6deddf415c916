"""Any audio dataset of the `datasets` library: by hub id, or a parquet, arrow or audio folder.

Audio is never decoded here (neither torchcodec nor FFmpeg is needed) and no code of a dataset is
run. Where the audio lies in parquet or arrow it is written out as it is stored; a run that was cut
off goes on.
"""

from __future__ import annotations

import argparse
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from speechcwcl.corpora._formats import GUESSES, LABELS, NO_ID
from speechcwcl.corpora._hf_disk import DONE, STATE, repeats, write_parquet, write_split, written
from speechcwcl.corpora.base import Corpus
from speechcwcl.data import remote
from speechcwcl.data.remote import Records
from speechcwcl.data.rows import named_column, no_column
from speechcwcl.data.stream import write_streamed
from speechcwcl.data.stream_spec import StreamSpec
from speechcwcl.data.tables import Problems
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError, closest, require
from speechcwcl.files import read_json


@dataclass(eq=False)
class HuggingFace(Corpus):
    """A dataset of the hub or of the disk.

    Examples:
        >>> corpus = HuggingFace("org/name", text="sentence", labels={"label": "intent"})
        >>> folder = corpus.download(Path("downloads/org-name"), ["train"])  # doctest: +SKIP
        >>> corpus.prepare(folder, Path("data"), ["train"])  # doctest: +SKIP
    """

    name = "huggingface"
    title = "a dataset of the datasets library"
    licence = "see the dataset's card"
    url = "https://huggingface.co/datasets"
    synthetic_speech: ClassVar[bool | None] = None  # its card may say
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    label_fields: ClassVar[tuple[str, ...]] = ("label",)

    dataset: str = ""  # hub id, `org/name`; empty for a local folder
    _: KW_ONLY
    config: str | None = None  # its configuration (subset) on the hub
    revision: str | None = None  # a commit or tag of it; pin one for figures to be published
    audio: str = ""  # names of the columns, as the next three; guessed from the usual ones if empty
    text: str = ""
    speaker: str = ""
    id: str = ""
    labels: Any = ""  # label field -> column; a single column means the field `label`
    split_map: dict[str, str] = field(default_factory=dict)  # set -> split that it is made of
    shard: int = 1000  # files in a folder
    limit: int | None = None  # take only so many records a split; for a first look
    stream: Sequence[str] = ()  # sets not written out: `stream.json` says how they are read

    def __post_init__(self) -> None:
        roles = ("audio", "text", "speaker", "id")
        self.columns = {role: getattr(self, role) for role in roles}
        if isinstance(self.labels, str):
            self.labels = {"label": self.labels} if self.labels else {}

    def configure(self, words: list[str]) -> None:
        """Take `--dataset ID --text COLUMN --labels FIELD=COLUMN ...` from `words`."""
        parser = argparse.ArgumentParser(prog=f"speechcwcl prepare {self.name}", allow_abbrev=False)
        parser.add_argument("--dataset", default="", metavar="ORG/NAME", help="id on the hub")
        parser.add_argument("--config", help="configuration (subset), or folder")
        parser.add_argument("--revision", help="commit or tag of it")
        for role in self.columns:
            parser.add_argument(f"--{role}", default="", metavar="COLUMN", help=f"of the {role}")
        pairs: dict[str, Any] = {"nargs": "+", "default": []}
        parser.add_argument("--labels", metavar="[FIELD=]COLUMN", help="of the labels", **pairs)
        parser.add_argument("--split", metavar="SET=SPLIT", help="set made of that split", **pairs)
        parser.add_argument("--limit", type=int, help="only so many records a split")
        parser.add_argument(
            "--stream",
            metavar="SET",
            help="not kept on the disk: for training only, which reads it as it goes",
            **pairs,
        )
        options = vars(parser.parse_args(words))
        labels = dict(named_column(word, default="label") for word in options.pop("labels"))
        split_map = dict(named_column(word) for word in options.pop("split"))
        vars(self).update(vars(HuggingFace(**options, labels=labels, split_map=split_map)))

    @property
    def folder(self) -> str:
        """Where below the downloads; one folder a dataset and configuration."""
        parts = (self.dataset.replace("/", "--"), (self.config or "").replace("/", "--"))
        return "/".join([self.name, *filter(None, parts)])

    def check_splits(self, splits: Iterable[str] | None) -> list[str]:
        """Any name may be a split of some dataset: the source has the last word."""
        if isinstance(splits, str):
            return [splits]
        return list(self.splits if splits is None else splits)

    def _wanted(self, splits: Iterable[str] | None, there: list[str]) -> list[str]:
        """The given sets; for none, or for the usual three names: all that there are."""
        given = self.check_splits(splits)
        if splits is not None and tuple(given) != self.splits:
            return given
        taken = {*self.split_map, *self.split_map.values()}
        return [*self.split_map, *(name for name in there if name not in taken)]

    def download(self, target: Path, splits: Iterable[str] | None = None) -> Path:
        """Stream splits of a hub dataset to the disk; what was written by a cut-off run is kept.

        Raises:
            UserError: no such dataset or split, no network, no such column.
        """
        if not self.dataset:
            return super().download(target, splits)
        names = remote.hub_splits(self.dataset, self.config, self.revision)
        for name in self._wanted(splits, names):
            split = self.split_map.get(name, name)
            if name in self.stream:
                continue
            if split not in names:
                near = closest(split, names)
                raise UserError(
                    f"dataset {self.dataset!r}: no split {split!r}{near}; it has {', '.join(names)}"
                    "; --split SET=SPLIT makes a set of a split with another name"
                )
            self._write(self._records(target, split), Path(target) / name)
        return Path(target)

    def prepare(
        self,
        source: Path,
        out: Path,
        splits: Iterable[str] | None = None,
        *,
        skip_bad: bool = False,
    ) -> list[Path]:
        """See `Corpus.prepare`; without `splits`, every split of the source.

        Audio that lies in parquet or arrow files is written to `out/audio/<split>`.
        """
        source, of_owner = self.opened(Path(source))
        if of_owner:
            return super().prepare(source, out, splits, skip_bad=skip_bad)
        streamed = self._streamed(source, out, splits)
        nothing_else = bool(self.dataset) and not source.is_dir()
        if streamed and (nothing_else or set(self.check_splits(splits)) <= set(self.stream)):
            return streamed
        if not source.is_dir():
            raise UserError(f"{source}: no such folder (a dataset of the hub is fetched first)")
        there = sorted(p.parent.name for p in source.glob(f"*/{DONE}"))
        begun = {p.parent.name for p in source.glob(f"*/{STATE}")}
        if cut := sorted(begun - set(there)):
            raise UserError(f"{source / cut[0]}: only half there; run the same download again")
        if not there:
            there = remote.local_splits(source, self.config)
            for name in self._kept(splits, there):
                split = self.split_map.get(name, name)
                local = remote.local_records(source, split, self.config)
                self._write(local, Path(out) / "audio" / name)
            source = Path(out) / "audio"
        kept = self._kept(splits, there)
        return streamed + super().prepare(source, out, kept, skip_bad=skip_bad)

    def opened(self, source: Path) -> tuple[Path, bool]:
        """The folder to read, checked, and whether it is in the layout of the corpus' owner."""
        return source, False

    def _kept(self, splits: Iterable[str] | None, there: list[str]) -> list[str]:
        """Those of the wanted sets that are written to the disk."""
        return [name for name in self._wanted(splits, there) if name not in self.stream]

    def _streamed(self, source: Path, out: Path, splits: Iterable[str] | None) -> list[Path]:
        """Write the data folders of the sets that are streamed: `stream.json`, no tables."""
        given = self.check_splits(splits)
        for name in self.stream:
            require(
                splits is None or name in given,
                f"--stream {name}: no such set{closest(name, given)}; there are {', '.join(given)}",
            )
        require(
            not self.stream or self.limit is None,
            "--limit: counts what is written to the disk; leave it out with --stream",
        )
        folders = []
        for name in self.stream:
            split = self.split_map.get(name, name)
            place: dict[str, Any] = {"dataset": self.dataset, "revision": self.revision}
            if not self.dataset:
                place = {"folder": str(source.resolve())}
            records = self._records(source, split)
            columns = self._choose(records)
            require(
                columns["text"] is not None,
                "no column of text, which a set to train from needs; name it with --text; there "
                f"are {', '.join(records.columns)}",
            )
            roles: dict[str, Any] = {role: columns[role] or "" for role in ("audio", "text", "id")}
            spec = StreamSpec(**place, config=self.config, split=split, **roles)
            folders.append(write_streamed(Path(out) / name, spec, self.facts(name)))
        return folders

    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield what was written out; see `Corpus.utterances`."""
        folder = self.file(source / split)
        facts = read_json(self.file(folder / DONE))
        guessed = self.columns["id"] != NO_ID and not facts.get("id_given", self.columns["id"])
        numbered = self.columns["id"] == NO_ID or (guessed and repeats(folder))
        for index, (shard, row) in enumerate(written(folder)):
            where = f"{folder}: record {index}"
            audio = row["audio"] and os.path.join(shard.resolve(), row["audio"])
            if row.get("problem"):
                problems.add(f"{where}{row['problem']}")
            elif not audio:
                problems.add(f"{where} has no audio")
            elif not os.path.exists(audio):
                problems.add(f"{where}: {audio} is not there")
            elif row["text"] is not None and not row["text"].strip():
                problems.add(f"{where} has an empty text")
            else:
                key = "" if numbered else "_".join(row["id"].split())
                key = key or f"{split}-{index:08d}"
                speaker = "_".join(row["speaker"].split())
                yield Utterance(key, audio, row["text"], speaker, labels=row["labels"])

    def fake(self, target: Path, seed: int = 0) -> Path:
        """A parquet dataset of three splits, written as `datasets` writes them."""
        return write_parquet(Path(target), seed)

    def _records(self, source: Path, split: str) -> Records:
        """A split of the hub, or of a folder."""
        if self.dataset:
            return remote.hub_records(self.dataset, split, self.config, self.revision)
        return remote.local_records(source, split, self.config)

    def _write(self, records: Records, folder: Path) -> None:
        write_split(
            records,
            self._choose(records),
            folder,
            shard=self.shard,
            limit=self.limit,
            id_given=self.columns["id"],
        )

    def _choose(self, records: Records) -> dict[str, Any]:
        """Column of each role, given or guessed."""
        chosen: dict[str, Any] = {}
        for role, given in self.columns.items():
            if role == "id" and given == NO_ID:
                chosen[role] = None
            elif given:
                chosen[role] = self._given(given, role, records)
            else:
                options = (*(records.audio_columns if role == "audio" else ()), *GUESSES[role])
                chosen[role] = next((c for c in options if c in records.columns), None)
        if chosen["audio"] is None:
            raise UserError(f"no column of audio; name it; there are {', '.join(records.columns)}")
        labels = {f: self._given(c, f, records) for f, c in self.labels.items()}
        if not labels:
            guesses = [c for c in (*LABELS, *records.class_names) if c in records.columns]
            labels = {"label": guesses[0]} if guesses else {}
        if chosen["text"] is None and not labels:
            raise UserError(
                f"neither a column of text nor of labels; name one; there are "
                f"{', '.join(records.columns)}"
            )
        return {**chosen, "labels": labels}

    def _given(self, column: str, role: str, records: Records) -> str:
        require(column in records.columns, f"{role}: {no_column(column, records.columns)}")
        return column


class ByLanguage(HuggingFace):
    """A dataset of the hub, or a copy of it, with a folder of parquet files for each locale."""

    def configure(self, words: list[str]) -> None:
        """Take `--language LOCALE`."""
        parser = argparse.ArgumentParser(prog=f"speechcwcl prepare {self.name}", allow_abbrev=False)
        parser.add_argument(
            "--language", default=self.config, metavar="LOCALE", help="such as de-DE"
        )
        self.config = parser.parse_args(words).language

    def opened(self, source: Path) -> tuple[Path, bool]:
        """See `HuggingFace.opened`; a language that is not there is refused."""
        there = sorted({path.parent.name for path in source.glob("*/*.parquet")})
        if there and self.config not in there:
            known = ", ".join(there)
            raise UserError(f"{source}: no language {self.config!r} in it; there are {known}")
        return super().opened(source)

    @abstractmethod
    def fake(self, target: Path, seed: int = 0) -> Path:
        """See `Corpus.fake`: a folder for each language."""
