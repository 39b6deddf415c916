"""Odd lists and datasets of others: what `ROWS` says is read, or refused with its line."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from files import Maker, Refused, sound

from speechcwcl.corpora import get_corpus
from speechcwcl.corpora._convert import import_datadir
from speechcwcl.corpora._formats import Options
from speechcwcl.corpora.huggingface import HuggingFace
from speechcwcl.data.kaldi import read_datadir
from speechcwcl.data.shards import read_shard

AUDIO = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def tree(**contents: str | bytes) -> Maker:
    """A folder of files; `/` and `.` of their names are written `__` and `_D`."""

    def make(folder: Path) -> Path:
        for name, data in contents.items():
            path = folder / name.replace("__", "/").replace("_D", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return folder

    return make


def listed(name: str, data: str | bytes, encoding: str = "utf-8") -> Maker:
    """A list of that name beside `a.wav`, `b.wav` and `c.wav`."""

    def make(folder: Path) -> Path:
        for letter in "abc":
            (folder / f"{letter}.wav").write_bytes(sound("wav", 300))
        path = folder / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode(encoding))
        return path

    return make


def line(**values: Any) -> Maker:
    """A list of one JSON line."""
    return listed("m.jsonl", json.dumps({"audio_filepath": "a.wav", **values}) + "\n\n")


def converted(**options: Any) -> Callable[[Path], list[Any]]:
    """What `convert` makes of a list: texts, or labels where there are none."""

    def read(path: Path) -> list[Any]:
        folder = import_datadir(path, path.parent / "out", options=Options(**options))
        return [u.text or u.labels["label"] for u in read_datadir(folder)]

    return read


def ids(path: Path) -> list[str]:
    """The ids that `convert` gives."""
    return [u.id for u in read_datadir(import_datadir(path, path.parent / "out"))]


def prepared(*sets: str, **options: Any) -> Callable[[Path], dict[str, Any]]:
    """What `prepare huggingface --data` makes of a folder: set -> texts, or labels."""

    def read(folder: Path) -> dict[str, Any]:
        out = folder.parent / f"{folder.name}-out"
        made = HuggingFace(**options).prepare(folder, out, sets or None)
        return {
            data.name: [u.text or u.labels["label"] for u in read_datadir(data)] for data in made
        }

    return read


def common_voice(rows: list[tuple[str, str]]) -> Maker:
    """A test list of these paths and sentences, with three clips."""

    def make(folder: Path) -> Path:
        root = folder / "en"
        (root / "clips").mkdir(parents=True)
        for letter in "abc":
            (root / "clips" / f"{letter}.mp3").write_bytes(sound("mp3", 300))
        lines = ["client_id\tpath\tsentence", *(f"x\t{path}\t{text}" for path, text in rows)]
        (root / "test.tsv").write_text("\n".join(lines) + "\n")
        return folder

    return make


def sentences(folder: Path) -> list[str]:
    """The sentences of that list, prepared."""
    (made,) = get_corpus("common_voice").prepare(folder, folder / "out", ["test"])
    return [u.text for u in read_datadir(made)]


def parquet(**columns: Any) -> Maker:
    """A parquet file of two clips."""

    def make(folder: Path) -> Path:
        clips = [{"bytes": sound("wav", 300), "path": f"{i}.wav"} for i in range(2)]
        table = pyarrow.table({"audio": pyarrow.array(clips, type=AUDIO), **columns})
        pyarrow.parquet.write_table(table, folder / "train.parquet")
        return folder

    return make


def shard(**facts: Any) -> Maker:
    """A WebDataset tar of one clip and its `.json`."""

    def make(folder: Path) -> Path:
        with tarfile.open(folder / "s.tar", "w") as made:
            for name, data in (("k.wav", WAV), ("k.json", json.dumps(facts).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                made.addfile(info, io.BytesIO(data))
        return folder

    return make


def in_shard(folder: Path) -> list[Any]:
    """Text and labels of its clips."""
    return [(u.text, u.labels) for u in read_shard(folder / "s.tar")]


def cut(**recording: Any) -> Maker:
    """A lhotse cut of the whole of `a.wav`."""
    source = {"type": "file", "channels": [0], "source": "a.wav"}
    facts = {"id": "r", "sources": [source], "sampling_rate": 16000, "duration": 0.5}
    supervisions = [{"id": "s", "start": 0, "duration": 0.5, "text": "yes"}]
    value = {"id": "c", "start": 0, "duration": 0.5, "channel": 0, "supervisions": supervisions}
    value |= {"recording": facts | recording, "type": "MonoCut"}
    return listed("cuts.jsonl", json.dumps(value) + "\n")


def resample(rate: int) -> dict[str, Any]:
    """A transform as lhotse writes it."""
    return {"name": "Resample", "kwargs": {"target_sampling_rate": rate}}


def latin_1(folder: Path) -> Path:
    """A folder of labels; the name of one file is Latin-1."""
    for name in (b"yes/1.wav", b"no/1.wav", b"no/\xe9.wav"):
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sound("wav", 300))
    return folder


def stray_name(folder: Path) -> Path:
    """LibriSpeech with a clip more, whose name is Latin-1 and which has no transcript."""
    source = get_corpus("librispeech").fake(folder / "source")
    chapter = next((source / "LibriSpeech/dev-clean").glob("*/*"))
    Path(os.fsdecode(os.fsencode(chapter) + b"/\xe9.flac")).write_bytes(WAV)
    return source


def skipped(source: Path) -> list[str]:
    """What is left out of that corpus, from the file's name on."""
    out = source.parent / "out"
    (made,) = get_corpus("librispeech").prepare(source, out, ["dev-clean"], skip_bad=True)
    return [line.rpartition(": ")[2] for line in (made / "bad.tsv").read_text().splitlines()]


def linked(folder: Path) -> Path:
    """A folder of labels, one of them a link, and a circle of links."""
    here = folder / "here"
    for path in (here / "yes/1.wav", folder / "there/1.wav"):
        path.parent.mkdir(parents=True)
        path.write_bytes(WAV)
    (here / "no").symlink_to(folder / "there")
    (here / "loop").symlink_to(here)
    return here


def linked_splits(folder: Path) -> Path:
    """A folder of links to splits that lie elsewhere."""
    for name in ("train", "test"):
        tree(a_Dwav=WAV, metadata_Dcsv=f"file_name,text\na.wav,{name}\n")(folder / "real" / name)
        (folder / "here").mkdir(exist_ok=True)
        (folder / "here" / name).symlink_to(folder / "real" / name)
    return folder / "here"


def arrays(*waves: Any) -> Maker:
    """A parquet file of decoded samples."""

    def make(folder: Path) -> Path:
        rows = [{"array": wav, "sampling_rate": 16000} for wav in waves]
        table = pyarrow.table({"audio": rows, "text": ["yes"] * len(rows)})
        pyarrow.parquet.write_table(table, folder / "train.parquet")
        return folder

    return make


WAV = sound("wav", 300)
TABLE = "audio,text\na.wav,one\nb.wav,two\n"
README = "---\nconfigs:\n- config_name: en\n  data_files: en/*\n- config_name: fr\n"
README += "  data_files: fr/*\n---\n"
LANGUAGES = tree(
    en__1_Dwav=WAV, en__metadata_Dcsv="file_name,text\n1.wav,yes\n",
    fr__1_Dwav=WAV, fr__metadata_Dcsv="file_name,text\n1.wav,oui\n",
)  # fmt: skip
SHARED = tree(
    train__1_Dwav=WAV, test__1_Dwav=WAV,
    metadata_Dcsv="file_name,text\ntrain/1.wav,mine\ntest/1.wav,yours\n",
)  # fmt: skip
DEEP = '{"audio_filepath": "a.wav", "text": ' + "[" * 3000 + "]" * 3000 + "}"
LONG = '{"audio_filepath": "a.wav", "offset": ' + "9" * 5000 + "}"

ROWS: list[tuple[str, Maker, Any, Any]] = [
    # tables
    ("csv with a BOM", listed("m.csv", TABLE, "utf-8-sig"), converted(), ["one", "two"]),
    ("csv in UTF-16", listed("m.csv", TABLE, "utf-16"), converted(), ["one", "two"]),
    ("tsv in UTF-16", listed("m.tsv", TABLE.replace(",", "\t"), "utf-16"), converted(),
     ["one", "two"]),
    ("csv in UTF-16 without a BOM", listed("m.csv", TABLE, "utf-16-le"), converted(),
     Refused("m.csv: no format|not UTF-8")),
    ("csv in Latin-1", listed("m.csv", TABLE.replace("two", "zwölf"), "latin-1"), converted(),
     Refused("m.csv:3: not UTF-8")),
    ("csv with semicolons", listed("m.csv", TABLE.replace(",", ";")), converted(), ["one", "two"]),
    ("csv with sep=;", listed("m.csv", "sep=;\n" + TABLE.replace(",", ";")), converted(),
     ["one", "two"]),
    ("CSV", listed("m.CSV", TABLE), converted(), ["one", "two"]),
    ("csv of a Mac", listed("m.csv", TABLE.replace("\n", "\r")), converted(), ["one", "two"]),
    ("csv with blank lines", listed("m.csv", TABLE + "\n\n"), converted(), ["one", "two"]),
    ("csv without a column", listed("m.csv", TABLE), converted(text="txet"),
     Refused(r"m.csv:1: no column 'txet' \(closest: 'text'\); it has audio, text")),
    ("csv with a column twice", listed("m.csv", "audio,text,text\na.wav,x,y\n"), converted(),
     Refused("m.csv:1: two columns are called 'text'")),
    ("csv with a short row", listed("m.csv", TABLE + "c.wav\n"), converted(),
     Refused("m.csv:4: 1 columns instead of 2")),
    ("jsonl without a key", line(text="x"), converted(speaker="whom"),
     Refused("m.jsonl: no line has 'whom'")),
    # quotes
    ("csv with quotes", listed("m.csv", 'audio,text\na.wav,"say ""yes"", please"\n'), converted(),
     ['say "yes", please']),
    ("csv with a quote that does not end", listed("m.csv", 'audio,text\na.wav,"yes\nb.wav,no\n'),
     converted(), Refused("m.csv:2: a quote does not end on its line")),
    ("csv with a line end in quotes", listed("m.csv", 'audio,text\na.wav,"x\nb.wav,y"\n'),
     converted(), Refused("m.csv:2: a quote does not end on its line")),
    ("csv with a stray quote", listed("m.csv", 'audio,text\na.wav,"yes" no\n'), converted(),
     Refused("m.csv:2: a quote does not end on its line, or ends in the middle")),
    ("tsv with quotes", listed("m.tsv", 'audio\ttext\na.wav\t"yes\nb.wav\tno"\n'), converted(),
     ['"yes', 'no"']),
    ("Common Voice with quotes", common_voice([("a", '"Yes'), ("b", 'No"'), ("c", '"Go"')]),
     sentences, ['"Yes', 'No"', '"Go"']),
    ("Common Voice with a carriage return", common_voice([("a", "Yes\r please")]), sentences,
     ["Yes please"]),
    ("Common Voice with a folder in a name", common_voice([("../a.mp3", "x")]), sentences,
     Refused("test.tsv:2: a clip's name must not hold a folder")),
    # texts and labels that are none
    ("jsonl with several texts", line(text=["", "yes"]), converted(), ["yes"]),
    ("jsonl with an object as text", line(text={"a": 1}), converted(),
     Refused("m.jsonl:1: the text is an object")),
    ("jsonl with numbers as text", line(text=[1, 2]), converted(),
     Refused("m.jsonl:1: the text is a list of int")),
    ("jsonl with a number as text", line(text=7), converted(),
     Refused("m.jsonl:1: the text is int 7")),
    ("jsonl with a list of lists as text", line(text=[["a"]]), converted(),
     Refused("m.jsonl:1: the text is a list of list")),
    ("jsonl with a list as label", line(label=[0, 2]), converted(),
     Refused("m.jsonl:1: the label 'label' is a list of int")),
    ("csv with a printed list as text", listed("m.csv", 'audio,text\na.wav,"[\'yes\']"\n'),
     converted(), ["yes"]),
    ("csv with a printed array as text", listed("m.csv", "audio,text\na.wav,['a' 'b']\n"),
     converted(), Refused("m.csv:2: .*a printed array")),
    ("csv with a printed list as label", listed("m.csv", 'audio,label\na.wav,"[0, 2]"\n'),
     converted(), Refused("m.csv:2: the label 'label' is a list of int")),
    ("csv with brackets in a text", listed("m.csv", "audio,text\na.wav,[laughs]\n"), converted(),
     ["[laughs]"]),
    ("parquet with several texts", parquet(text=[["yes"], ["", "no"]]), prepared(),
     {"train": ["yes", "no"]}),
    ("parquet with numbers as texts", parquet(text=[[1], [2]]), prepared(limit=1),
     Refused("record 0: the text is a list of int")),
    ("parquet with objects as texts", parquet(text=[{"a": 1}, {"a": 2}]), prepared(limit=1),
     Refused("record 0: the text is an object")),
    ("parquet with a list as label", parquet(label=[[0, 2], [1]]), prepared(limit=1),
     Refused("record 0: the label 'label' is a list of int")),
    ("tar with several texts", shard(text=["yes", " "]), in_shard, [("yes", {})]),
    ("tar with an object as text", shard(text={"a": "b"}), in_shard,
     Refused("s.tar: 'k': the text is an object")),
    ("tar with a list as label", shard(text="yes", label=[0, 2]), in_shard,
     Refused("s.tar: 'k': the label 'label' is a list of int")),
    ("tar as a dataset", shard(text="yes"), prepared(), {"train": ["yes"]}),
    # ids
    ("csv whose ids repeat", listed("m.csv", "id,audio,text\n7,a.wav,x\n7,b.wav,y\n"), ids,
     ["00000002-a", "00000003-b"]),
    ("parquet whose ids repeat", parquet(id=[7, 7], text=["yes", "no"]), prepared(),
     {"train": ["yes", "no"]}),
    ("parquet whose named ids repeat", parquet(id=[7, 7], text=["yes", "no"]), prepared(id="id"),
     Refused("7")),
    ("parquet without ids", parquet(id=[7, 7], text=["yes", "no"]), prepared(id="none"),
     {"train": ["yes", "no"]}),
    # splits and configurations
    ("folders that are splits", tree(train__1_Dwav=WAV, test__1_Dwav=WAV), prepared(),
     Refused("neither a column of text nor of labels")),
    ("folders of labels in splits",
     tree(train__yes__1_Dwav=WAV, train__no__1_Dwav=WAV, test__no__2_Dwav=WAV),
     prepared(), {"test": ["no"], "train": ["no", "yes"]}),
    ("one list for two splits", SHARED, prepared(), {"test": ["yours"], "train": ["mine"]}),
    ("a folder a language", LANGUAGES, prepared(config="en"), {"train": ["yes"]}),
    ("no folder of that language", LANGUAGES, prepared(config="eng"),
     Refused(r"no configuration 'eng' \(closest: 'en'\)")),
    ("a README with configurations",
     lambda folder: tree(README_Dmd=README)(LANGUAGES(folder)), prepared(config="fr"),
     {"train": ["oui"]}),
    ("a README, and none is named",
     lambda folder: tree(README_Dmd=README)(LANGUAGES(folder)), prepared(),
     Refused("Config name is missing. Please pick one among the available configs: .*en")),
    ("an old name of a split",
     tree(dev__1_Dwav=WAV, dev__metadata_Dcsv="file_name,text\n1.wav,yes\n"),
     prepared("dev"), {"dev": ["yes"]}),
    ("hidden files", tree(yes__1_Dwav=WAV, yes___D_1_Dwav=b"\0", no__1_Dwav=WAV), prepared(),
     {"train": ["no", "yes"]}),
    ("metadata with a BOM and ;",
     tree(a_Dwav=WAV, metadata_Dcsv="\ufefffile_name;text\na.wav;yes\n"), prepared(),
     {"train": ["yes"]}),
    ("metadata without file_name", tree(a_Dwav=WAV, metadata_Dcsv="filename,text\na.wav,yes\n"),
     prepared(), Refused(r"metadata.csv:1: no column 'file_name' \(closest: 'filename'\)")),
    ("metadata.jsonl with a blank last line",
     tree(a_Dwav=WAV, metadata_Djsonl='{"file_name": "a.wav", "text": "yes"}\n\n'), prepared(),
     {"train": ["yes"]}),
    ("metadata of a file that is not there",
     tree(a_Dwav=WAV, metadata_Dcsv="file_name,text\na.wav,yes\nb.wav,no\n"), prepared(),
     Refused("b.wav is not there")),
    ("a name in Latin-1", latin_1, prepared(), Refused("udce9.wav': the name is not UTF-8")),
    ("a linked folder", linked, prepared(), {"train": ["yes", "no"]}),
    ("linked splits", linked_splits, prepared(), {"test": ["test"], "train": ["train"]}),
    # samples
    ("samples", arrays([0.5, -0.5] * 4000), prepared(), {"train": ["yes"]}),
    ("16-bit samples as floats", arrays([30000.0, -30000.0] * 4000), prepared(),
     Refused("record 0: its array: samples up to 30000, .* divide 16-bit numbers by 32768")),
    ("samples that are no number", arrays([float("nan")] * 4000), prepared(),
     Refused("record 0: its array: 4000 samples are NaN")),
    ("samples of two channels", arrays([[0.5] * 4000] * 2), prepared(),
     Refused(r"record 0: its array has the shape \(2, 4000\)")),
    ("a name in Latin-1, skipped", stray_name, skipped,
     ["no transcript of \\udce9.flac, which lies beside it"]),
    # lhotse
    ("a cut that is resampled as it is read", cut(transforms=[resample(16000)]), converted(),
     ["yes"]),
    ("a cut that loses its highs", cut(transforms=[resample(8000)]), converted(),
     Refused("cuts.jsonl:1: not a cut of one file: .*Resample")),
    ("a cut that is sped up", cut(transforms=[resample(16000), {"name": "Speed"}]), converted(),
     Refused("cuts.jsonl:1: not a cut of one file: .*Speed")),
    ("a cut whose transforms are no list", cut(transforms=3), converted(),
     Refused("cuts.jsonl:1: not a cut")),
    # JSON
    ("jsonl that is too deep", listed("m.jsonl", DEEP), converted(), Refused("m.jsonl")),
    ("jsonl with a huge number", listed("m.jsonl", LONG), converted(), Refused("m.jsonl")),
    ("jsonl with NaN", listed("m.jsonl", '{"audio_filepath": "a.wav", "text": "x"}\n{"a": NaN}'),
     converted(), Refused("m.jsonl:2: not valid JSON")),
    ("jsonl with half a character", line(text="\ud800"), converted(),
     Refused("m.jsonl:1: .*half a char|no format known")),
    ("jsonl with a NUL in a path", line(audio_filepath="a\0.wav", text="x"), converted(),
     Refused("m.jsonl:1: ")),
    ("jsonl with a list as time", line(text="x", offset=[1]), converted(),
     Refused(r"m.jsonl:1: start '\[1\]' is not a time")),
    ("jsonl with a huge time", line(text="x", offset=1e300, duration=1), converted(),
     Refused("m.jsonl:1: |no stretch")),
    ("gz that is cut off", listed("m.jsonl.gz", gzip.compress(DEEP.encode())[:-9]), converted(),
     Refused("m.jsonl.gz: cannot read")),
    ("gz that is none", listed("m.jsonl.gz", b"hello"), converted(),
     Refused("m.jsonl.gz: cannot read")),
    ("speechbrain json of a list", listed("m.json", '{"a": {"wav": ["a.wav"], "words": "x"}}'),
     converted(), Refused("m.json: 'a': no audio file is named")),
]  # fmt: skip
