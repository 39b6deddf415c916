"""Datasets of the `datasets` library: parquet, arrow and audio folders made here; no network."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from speechcwcl.corpora import get_corpus
from speechcwcl.corpora.huggingface import HuggingFace
from speechcwcl.data import remote
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import read_datadir
from speechcwcl.data.stream import open_pieces
from speechcwcl.data.stream_spec import StreamSpec
from speechcwcl.errors import UserError

AUDIO = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test here may look anything up; and torchcodec is not there to help."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setitem(sys.modules, "torchcodec", None)


def clip(number: int, format: str = "WAV") -> bytes:
    stream = io.BytesIO()
    time = np.arange(4000) / 16000
    soundfile.write(stream, 0.1 * np.sin(2000 * (number + 1) * time), 16000, format=format)
    return stream.getvalue()


def write_parquet(path: Path, columns: dict, features: dict | None = None) -> Path:
    table = pyarrow.table(columns)
    if features:
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)
    return path


def audio(*clips: bytes | None, names: str = "c{}.wav") -> object:
    rows = [{"bytes": data, "path": names.format(i)} for i, data in enumerate(clips)]
    return pyarrow.array(rows, type=AUDIO)


def prepared(source: Path, out: Path, *splits: str, skip_bad: bool = False, **options) -> list:
    folders = HuggingFace(**options).prepare(source, out, splits or None, skip_bad=skip_bad)
    return [read_datadir(folder) for folder in folders]


def test_the_fake_parquet_prepares_and_compiles(tmp_path):
    corpus = get_corpus("huggingface")
    source = corpus.fake(tmp_path / "source")
    folders = corpus.prepare(source, tmp_path / "data")
    assert sorted(f.name for f in folders) == ["test", "train", "validation"]
    for folder in folders:
        got = read_datadir(folder)
        assert [u.text for u in got][:2] == ["turn the heating on", "it is far too warm in here"]
        assert [u.labels["label"] for u in got][:2] == ["heating_on", "heating_off"], "names"
        assert {u.speaker for u in got} == {f"{folder.name}0", f"{folder.name}1"}
        assert all(u.audio.endswith(".flac") for u in got)
        summary = compile_manifest(folder, tmp_path / f"{folder.name}.jsonl", progress=False)
        assert summary.utterances == 4
    assert [u.name for u in corpus.prepare(source, tmp_path / "data", corpus.splits)] == sorted(
        u.name for u in folders
    ), "the usual three names mean: those that are there"


def test_columns_by_name(tmp_path):
    write_parquet(
        tmp_path / "d" / "validation.parquet",
        {
            "recording": audio(clip(0), clip(1)),
            "said": ["one", "two"],
            "who": [7, 8],
            "key": ["a b", "c"],
            "room": ["kitchen", "hall"],
            "act": ["on", "off"],
        },
    )
    options = {
        "audio": "recording", "text": "said", "speaker": "who", "id": "key",
        "labels": {"label": "act", "room": "room"},
    }  # fmt: skip
    (got,) = prepared(tmp_path / "d", tmp_path / "data", "validation", **options)
    assert [(u.id, u.text, u.speaker, u.labels) for u in got] == [
        ("a_b", "one", "7", {"label": "on", "room": "kitchen"}),
        ("c", "two", "8", {"label": "off", "room": "hall"}),
    ]
    for wrong in ({"text": "sad"}, {"audio": "recordin"}, {"labels": "acts"}):
        with pytest.raises(UserError, match="no column .*closest"):
            prepared(tmp_path / "d", tmp_path / "x", "validation", **{**options, **wrong})


def test_bytes_are_written_as_they_are_in_shards(tmp_path):
    data = [clip(i) for i in range(5)]
    write_parquet(tmp_path / "d" / "train.parquet", {"audio": audio(*data), "text": list("abcde")})
    (got,) = prepared(tmp_path / "d", tmp_path / "data", "train", shard=2)
    assert [Path(u.audio).read_bytes() for u in got] == data
    assert [Path(u.audio).parent.name for u in got] == [
        "shard-00000", "shard-00000", "shard-00001", "shard-00001", "shard-00002",
    ]  # fmt: skip
    (few,) = prepared(tmp_path / "d", tmp_path / "few", "train", shard=2, limit=3)
    assert len(few) == 3


def test_suffixes_come_from_the_bytes(tmp_path):
    data = [clip(0, "FLAC"), clip(1, "WAV"), clip(2, "OGG"), clip(3, "MP3")]
    names = audio(*data, names="{}")
    write_parquet(tmp_path / "d" / "train.parquet", {"audio": names, "text": list("abcd")})
    (got,) = prepared(tmp_path / "d", tmp_path / "data")
    assert [Path(u.audio).suffix for u in got] == [".flac", ".wav", ".ogg", ".mp3"]
    compile_manifest(tmp_path / "data" / "train", tmp_path / "m.jsonl", progress=False)


def test_many_files_of_a_split_and_several_splits(tmp_path):
    root = tmp_path / "d" / "data"
    for split, number in (("train", 0), ("train", 1), ("test", 0)):
        path = root / f"{split}-{number:05d}-of-00002.parquet"
        write_parquet(path, {"audio": audio(clip(number)), "text": [f"{split} {number}"]})
    assert remote.local_splits(tmp_path / "d") == ["test", "train"]
    test, train = prepared(tmp_path / "d", tmp_path / "data")
    assert [u.text for u in train] == ["train 0", "train 1"] and len(test) == 1
    with pytest.raises(UserError, match=r"no split 'tst' \(closest: 'test'\)"):
        prepared(tmp_path / "d", tmp_path / "x", "tst")


def test_a_cut_off_run_goes_on_after_the_last_whole_shard(tmp_path, monkeypatch):
    data = [clip(i) for i in range(6)]
    write_parquet(tmp_path / "d" / "train.parquet", {"audio": audio(*data), "text": list("abcdef")})
    from speechcwcl.corpora import _hf_disk

    real, calls = _hf_disk._store, []

    def store(value, stem, **options):
        calls.append(stem)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(value, stem, **options)

    monkeypatch.setattr(_hf_disk, "_store", store)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path / "d", tmp_path / "data", shard=2)
    folder = tmp_path / "data" / "audio" / "train"
    assert not (folder / ".completed").exists()
    assert [p.name for p in sorted(folder.glob("shard-*"))] == ["shard-00000"]
    calls[:] = [None] * 10
    (got,) = prepared(tmp_path / "d", tmp_path / "data", shard=2)
    assert len(calls) == 10 + 4, "only what was missing was written"
    assert [Path(u.audio).read_bytes() for u in got] == data
    prepared(tmp_path / "d", tmp_path / "data", shard=2)
    assert len(calls) == 14, "nothing is written twice"
    write_parquet(tmp_path / "d" / "train.parquet", {"audio": audio(data[0]), "text": ["new"]})
    (got,) = prepared(tmp_path / "d", tmp_path / "data", shard=2)
    assert [u.text for u in got] == ["new"], "another source is written anew"


def test_problems_are_counted_and_listed(tmp_path):
    write_parquet(
        tmp_path / "d" / "train.parquet",
        {"audio": audio(clip(0), None, clip(2), names=""), "text": ["a", "b", " "]},
    )
    with pytest.raises(UserError) as caught:
        prepared(tmp_path / "d", tmp_path / "data")
    assert "record 1 has no audio" in str(caught.value)
    assert "record 2 has an empty text" in str(caught.value)
    (got,) = prepared(tmp_path / "d", tmp_path / "data", skip_bad=True)
    assert [u.text for u in got] == ["a"]
    assert len((tmp_path / "data" / "train" / "bad.tsv").read_text().splitlines()) == 2


def test_arrow_folders_of_save_to_disk(tmp_path):
    import datasets

    path = write_parquet(
        tmp_path / "p" / "train.parquet",
        {"audio": audio(clip(0), clip(1)), "sentence": ["x", "y"], "intent": [1, 0]},
        {
            "audio": {"_type": "Audio", "sampling_rate": 16000},
            "sentence": {"_type": "Value", "dtype": "string"},
            "intent": {"_type": "ClassLabel", "names": ["off", "on"]},
        },
    )
    loaded = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    loaded.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": loaded, "dev": loaded}).save_to_disk(tmp_path / "two")
    (got,) = prepared(tmp_path / "one", tmp_path / "a")
    assert [(u.text, u.labels) for u in got] == [("x", {"label": "on"}), ("y", {"label": "off"})]
    both = prepared(tmp_path / "two", tmp_path / "b")
    assert len(both) == 2 and [u.text for u in both[1]] == ["x", "y"]


def test_audiofolders(tmp_path, capsys):
    root = tmp_path / "labels"
    for word in ("yes", "no"):
        (root / word).mkdir(parents=True)
        (root / word / "1.wav").write_bytes(clip(1))
    (got,) = prepared(root, tmp_path / "a")
    assert sorted(u.labels["label"] for u in got) == ["no", "yes"]
    assert all(str(root.resolve()) in u.audio for u in got), "files are used where they are"
    for split in ("train", "test"):
        folder = tmp_path / "meta" / split
        (folder / "clips").mkdir(parents=True)
        (folder / "clips" / "1.wav").write_bytes(clip(2))
    (tmp_path / "meta" / "train" / "metadata.csv").write_text("file_name,text\nclips/1.wav,hello\n")
    (tmp_path / "meta" / "test" / "clips" / "2.wav").write_bytes(clip(3))
    row = {"file_name": "clips/1.wav", "text": "bye"}
    (tmp_path / "meta" / "test" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    test, train = prepared(tmp_path / "meta", tmp_path / "b")
    said = capsys.readouterr().err
    assert "1 audio files of 'test' are in no metadata.jsonl and are left out" in said
    assert (test[0].text, train[0].text) == ("bye", "hello")
    (tmp_path / "meta" / "test" / "clips" / "1.wav").unlink()
    with pytest.raises(UserError, match=r"1.wav is not there"):
        prepared(tmp_path / "meta", tmp_path / "c", "test")


def test_arrays_are_written_as_flac(tmp_path):
    wave = [0.0, 0.5, -0.5, 0.25] * 500
    rows = [{"array": wave, "sampling_rate": 8000}]
    write_parquet(tmp_path / "d" / "train.parquet", {"audio": rows, "text": ["x"]})
    (got,) = prepared(tmp_path / "d", tmp_path / "data")
    data, rate = soundfile.read(got[0].audio)
    assert rate == 8000 and np.allclose(data, wave, atol=1e-4)


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        prepared(tmp_path / "absent", tmp_path / "data")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "notes.txt").touch()
    with pytest.raises(UserError, match="no dataset: .*notes.txt"):
        prepared(tmp_path / "d", tmp_path / "data")
    write_parquet(tmp_path / "e" / "train.parquet", {"x": [1], "y": [2]})
    with pytest.raises(UserError, match="no column of audio; name it; there are x, y"):
        prepared(tmp_path / "e", tmp_path / "data")
    write_parquet(tmp_path / "f" / "train.parquet", {"audio": audio(clip(0)), "y": [2]})
    with pytest.raises(UserError, match="neither a column of text nor of labels"):
        prepared(tmp_path / "f", tmp_path / "data")


def streamed(tmp_path: Path, monkeypatch) -> HuggingFace:
    """A corpus whose hub is a local parquet folder: the real code, but for the two look-ups."""
    import datasets

    files = {
        split: str(write_parquet(
            tmp_path / "hub" / f"{split}.parquet",
            {"audio": audio(clip(0), clip(1), clip(2)), "text": ["a", "b", split]},
        ))
        for split in ("train", "test")
    }  # fmt: skip
    real, seen = datasets.load_dataset, []

    def load(path, *args, split, **options):
        if path != "org/name":
            return real(path, *args, split=split, **options)
        seen.append(options)
        assert options["streaming"] is True and "trust_remote_code" not in options
        return real("parquet", data_files={"train": [files[split]]}, split="train", streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *a, **k: list(files))
    return HuggingFace("org/name", revision="abc", shard=2)


def test_the_hub_is_streamed_to_shards(tmp_path, monkeypatch):
    corpus = streamed(tmp_path, monkeypatch)
    folder = corpus.download(tmp_path / "got")
    assert json.loads((folder / "test" / ".completed").read_text())["records"] == 3
    shutil.rmtree(tmp_path / "hub")
    folders = HuggingFace().prepare(folder, tmp_path / "data")
    assert [f.name for f in folders] == ["test", "train"]
    assert [u.text for u in read_datadir(folders[0])] == ["a", "b", "test"]
    with pytest.raises(UserError, match=r"no split 'trian' \(closest: 'train'\)"):
        corpus.download(tmp_path / "got", ["trian"])
    (folder / "train" / ".completed").unlink()
    with pytest.raises(UserError, match="only half there; run the same download again"):
        HuggingFace().prepare(folder, tmp_path / "data")


def test_the_hub_may_hold_a_folder_of_audio_files(tmp_path, monkeypatch):
    import datasets
    import fsspec

    files = {f"hf://datasets/org/name@abc/{i}.wav": clip(i) for i in range(3)}

    def rows():  # as the audiofolder builder gives them, streaming
        yield from ({"audio": path, "label": i % 2} for i, path in enumerate(files))

    def load(path, *args, **options):
        kinds = {"audio": datasets.Audio(), "label": datasets.ClassLabel(names=["no", "yes"])}
        found = datasets.IterableDataset.from_generator(rows, features=datasets.Features(kinds))
        found.info.builder_name = "audiofolder"
        return found

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *a, **k: ["train"])
    monkeypatch.setattr(fsspec, "open", lambda path, mode: io.BytesIO(files[path]))
    folder = HuggingFace("org/name").download(tmp_path / "got")
    (data,) = HuggingFace().prepare(folder, tmp_path / "data")
    utterances = list(read_datadir(data))
    assert [u.labels["label"] for u in utterances] == ["no", "yes", "no"]
    assert [Path(u.audio).read_bytes() for u in utterances] == list(files.values())
    spec = StreamSpec(dataset="org/name", split="train", audio="audio", text="label")
    (piece,) = open_pieces(spec)
    clips = list(piece())
    assert [c.measure().audio for c in clips[:2]] == list(files.values())[:2]
    files.clear()
    with pytest.raises(UserError, match=r"hf://datasets/org/name@abc/2.wav: "):
        clips[2].measure()


def test_paths_in_a_dataset_of_the_hub_are_not_files_of_this_machine(tmp_path, monkeypatch):
    corpus = streamed(tmp_path, monkeypatch)
    secret = tmp_path / "secret.wav"
    secret.write_bytes(clip(5))
    rows = pyarrow.array([{"bytes": None, "path": str(secret)}], type=AUDIO)
    write_parquet(tmp_path / "hub" / "test.parquet", {"audio": rows, "text": ["x"]})
    folder = corpus.download(tmp_path / "got", ["test"])
    with pytest.raises(UserError, match="record 0 has no audio"):
        HuggingFace().prepare(folder, tmp_path / "data")


def test_errors_of_the_hub_are_one_line(tmp_path):
    with pytest.raises(UserError, match="dataset 'no/such-dataset'") as caught:
        HuggingFace("no/such-dataset").download(tmp_path / "got")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot be downloaded unattended"):
        HuggingFace().download(tmp_path / "got")
