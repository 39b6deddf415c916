"""Streams: the same clips from everywhere, each once a pass, from any place again; clear errors."""

import json
import os
import subprocess
from collections import Counter

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from stream_sets import AUDIO, KINDS, WORDS, make_set, web_server

from speechcwcl.cli.main import main
from speechcwcl.data import stream_spec
from speechcwcl.data.audio import load_audio
from speechcwcl.data.stream import StreamReader, check_stream, open_pieces, share
from speechcwcl.data.stream_spec import StreamSpec, read_stream, write_stream
from speechcwcl.errors import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    return root, make_set(root)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def spec_of(made, kind, **options):
    place = str(made[0] / kind)
    return StreamSpec(
        shards=[place] if kind == "shards" else [],
        folder="" if kind == "shards" else place,
        **options,
    )


def one_pass(spec, part=0, parts=1, turn=0):
    return [
        clip for _, clip in StreamReader(spec, part, parts, block=4, ahead=2).rows((turn, 0, 0))
    ]


@pytest.mark.parametrize("kind", [*KINDS, "web"])
def test_the_same_clips_from_everywhere(made, kind):
    root, files = made
    with web_server(root / "shards") as address:
        spec = (
            StreamSpec(shards=[f"{address}/shard-00000{{0..4}}.tar"])
            if kind == "web"
            else spec_of(made, kind)
        )
        clips = one_pass(spec)
        assert len(open_pieces(spec)) == {"parquet": 3, "folder": 1}.get(kind, 5)
        assert Counter(clip.text for clip in clips) == Counter(WORDS)
        heard = {clip.load().tobytes(): clip.text for clip in clips}
        for path, word in zip(files, WORDS, strict=True):
            assert heard[load_audio(path).tobytes()] == word
        assert len({clip.id for clip in clips}) == len(clips)
        assert clips[0].measure().duration == pytest.approx(len(clips[0].load()) / 16000)


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 7, 12])
@pytest.mark.parametrize("pieces", [1, 2, 5, 8])
def test_every_row_goes_to_one_reader(pieces, parts):
    rows = 24
    taken = Counter(
        (piece, row)
        for part in range(parts)
        for piece, step, offset in share(pieces, part, parts)
        for row in range(offset, rows, step)
    )
    assert taken == Counter((piece, row) for piece in range(pieces) for row in range(rows))


@pytest.mark.parametrize("parts", [2, 4, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_readers_share_a_set_out(made, kind, parts):
    shares = [one_pass(spec_of(made, kind), part, parts, turn=1) for part in range(parts)]
    ids = [clip.id for clips in shares for clip in clips]
    assert len(ids) == len(set(ids)) == len(WORDS)
    assert all(shares)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_can_be_come_back_to(made, kind):
    def reader():
        return StreamReader(spec_of(made, kind), 1, 2, block=3, ahead=2, seed=4)

    def ids(block):
        return [clip.id for clip in block[2]]

    blocks = [block for block, _ in zip(reader().blocks(), range(12), strict=False)]
    for block, following in zip(blocks, blocks[1:], strict=False):
        assert block[1] == following[0]
        assert ids(next(reader().blocks(block[0]))) == ids(block)
    passes = {}
    for block in blocks:
        passes.setdefault(block[0][0], []).append(block)
    first, second = ([key for block in passes[turn] for key in ids(block)] for turn in (0, 1))
    assert Counter(first) == Counter(second) and len(set(first)) == len(first)
    sizes = [len(block[2]) for block in passes[0]]
    assert all(size == 3 for size in sizes[:-1]) and 2 <= sizes[-1] < 5, "no dregs at the end"


def test_passes_differ_in_order(made):
    first, second = (
        [clip.id for clip in one_pass(spec_of(made, "shards"), turn=turn)] for turn in (0, 1)
    )
    assert first != second and sorted(first) == sorted(second)


def test_too_short_and_too_long_clips_are_passed_over(made):
    spec = spec_of(made, "folder", min_duration=0.35, max_duration=0.4)
    block = next(StreamReader(spec, 0, 1, block=100, ahead=2).blocks())
    assert 0 < len(block[2]) < len(WORDS)
    assert all(0.35 <= clip.duration <= 0.4 for clip in block[2])
    blocks = StreamReader(
        spec_of(made, "folder", min_duration=5.0), 0, 1, block=4, ahead=2
    ).blocks()
    with pytest.raises(UserError, match="found no clip of 5 to 30 s"):
        list(blocks)


def test_more_readers_than_clips_is_an_error(made):
    readers = StreamReader(spec_of(made, "folder"), 30, 31, block=4, ahead=2)
    with pytest.raises(UserError, match=r"reader 31 of 31 .* take fewer workers"):
        list(readers.blocks())


def broken_parquet(root, files):
    data = [files[0].read_bytes(), b"no audio", None, files[1].read_bytes()]
    rows = [{"bytes": bytes_, "path": None} for bytes_ in data]
    table = {"audio": pyarrow.array(rows, type=AUDIO), "text": ["a", "b", "c", " "]}
    root.mkdir()
    pyarrow.parquet.write_table(pyarrow.table(table), root / "train.parquet")
    return root


def test_broken_rows_stop_or_are_passed_over(made, tmp_path, capsys):
    folder = str(broken_parquet(tmp_path / "broken", made[1]))
    with pytest.raises(UserError, match=r"train:0:1: not audio .*skip_bad.*skips such clips"):
        next(StreamReader(StreamSpec(folder=folder), 0, 1, block=9, ahead=2).blocks())
    block = next(
        StreamReader(StreamSpec(folder=folder, skip_bad=True), 0, 1, block=9, ahead=2).blocks()
    )
    assert [clip.text for clip in block[2]] == ["a"]
    said = capsys.readouterr().err
    assert "0:1: not audio" in said and "0:2: has no audio" in said and "0:3: has no text" in said


def written(tmp_path, **values):
    path = tmp_path / "stream.json"
    path.write_text(json.dumps({"version": 1, "folder": "x", **values}))
    return path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shufle": 3}, "no such key 'shufle' (closest: 'shuffle')"),
        ({"version": 2}, "version 2; this speechcwcl reads version 1"),
        ({"dataset": "a/b"}, "give one of dataset, folder and shards, not dataset and folder"),
        ({"folder": ""}, "give one of dataset, folder and shards, not none"),
        ({"shuffle": "many"}, "shuffle: 'many' is no whole number"),
        ({"shuffle": True}, "shuffle: True is no whole number"),
        ({"shuffle": 1}, "shuffle: 1 clips cannot be mixed"),
        ({"revision": 3}, "revision: 3 is no text"),
        ({"max_duration": 0}, "min_duration 0.1 is not below max_duration 0"),
        ({"folder": "", "shards": ["pipe:cat x.tar"]}, "runs no command"),
        ({"folder": "", "shards": [1]}, "shards.0: 1 is no text"),
    ],
)
def test_a_wrong_stream_json_is_one_line(tmp_path, values, message):
    path = written(tmp_path, **values)
    with pytest.raises(UserError) as caught:
        read_stream(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_json_is_no_stream(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="x.json: has no version: not a stream.json"):
        read_stream(tmp_path / "x.json")


def test_a_stream_json_comes_back_and_may_name_folders_beside_it(tmp_path):
    spec = StreamSpec(dataset="a/b", config="en", text="said", shuffle=50, skip_bad=True)
    write_stream(tmp_path / "stream.json", spec)
    assert read_stream(tmp_path / "stream.json") == spec
    assert read_stream(written(tmp_path, folder="beside")).folder == str(tmp_path / "beside")
    (tmp_path / "tars").mkdir()
    path = written(tmp_path, folder="", shards="tars")
    assert read_stream(path).shards == [str(tmp_path / "tars")]
    path = written(tmp_path, folder="", shards=["a.tar", "/b.tar", "http://host/c.tar"])
    assert read_stream(path).shards == [str(tmp_path / "a.tar"), "/b.tar", "http://host/c.tar"]


def test_shards_are_streamed_by_one_command(made, tmp_path, capsys):
    out = tmp_path / "data/train"
    with web_server(made[0] / "shards") as address:
        url = address + "/shard-00000{0..4}.tar"
        assert main(["shards", "--stream", url, "--out", str(out), "--shuffle", "9"]) == 0
        spec = read_stream(out / "stream.json")
        assert spec.shards == [url] and spec.shuffle == 9 and check_stream(spec) == 5
        assert sorted(p.name for p in out.iterdir()) == ["corpus.json", "stream.json"]
        wrong = address + "/shard-7.tar"
        assert main(["shards", "--stream", wrong, "--out", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert "shard-7.tar: damaged, cut off or unreachable (HTTP Error 404" in said
    assert not (tmp_path / "x").exists()
    assert main(["shards", "--stream", "m.jsonl", "--out", str(tmp_path / "x")]) == 2
    assert "m.jsonl: a manifest; pack it first" in capsys.readouterr().err
    assert main(["shards", "a", "b", "--out", str(tmp_path / "x")]) == 2
    assert "several with --stream only" in capsys.readouterr().err


def test_a_cut_off_shard_is_named(made, tmp_path):
    whole = (made[0] / "shards/shard-000000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:9000])
    with pytest.raises(UserError, match=r"cut.tar: damaged, .* \(unexpected end of data\)"):
        one_pass(StreamSpec(shards=[str(tmp_path / "cut.tar")]))
    with pytest.raises(UserError, match="gone.tar: no such shard"):
        one_pass(StreamSpec(shards=[str(tmp_path / "gone.tar")]))


SPELLINGS = [
    "{pipe,pipe}:touch X #://", "pipe:touch X", "PIPE:touch X", " pipe:touch X", "\npipe:touch X",
    "\tpipe:touch X", "pi\npe:touch X", "{p}ipe:touch X", "{p,p}ipe:touch X", "pip{e..e}:touch X",
    "pipe{:,:}touch X", "\\pipe:touch X", "http://x::pipe:touch X", "a.tar::{pipe,pipe}:touch X",
    "a{:,:}:pipe:touch X", "http://h/a.tar{::pipe:touch X,}", "pipe::touch X", "pipe://touch X",
    "simplecache::pipe:touch X", "ais://h/x;touch X", "gs://h/$(touch X)", "http://h/$(touch X)",
    "http://h/x'; touch X; '", "http://h/`touch X`", "hf://datasets/a/b/x.tar;touch X", "htgs://X",
    "sftp://h/x", "ftp://h/x", "-o X", "file:///x;touch X", "{file,pipe}:///touch X", "touch X |",
    "${pipe}:touch X", "ssh://-oProxyCommand=touch X/x", "{pipe:touch X,{pipe:touch X,x}}://",
]  # fmt: skip


@pytest.mark.parametrize("word", SPELLINGS)
def test_no_spelling_of_a_stream_runs_a_command(tmp_path, word, monkeypatch):
    started, asked = [], []

    def start(*words, **options):
        started.append(words)
        raise FileNotFoundError(2, "not here")

    def ask(url, **options):
        asked.append(url)
        raise OSError("no network in this test")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WDS_pipe", "pipe")
    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(os, "system", start)
    monkeypatch.setattr(stream_spec, "urlopen", ask)
    path = written(tmp_path, folder="", shards=[word])
    for call in (lambda: read_stream(path), lambda: StreamSpec(shards=[word])):
        with pytest.raises(UserError):
            one_pass(call())
    assert not list(tmp_path.rglob("X*"))
    assert not started and all(url.startswith("http") for url in asked)


@pytest.mark.parametrize(
    "word, message",
    [
        ("x-{1..1000000000}.tar", "means 1,000,000 shards or more"),
        ("x-{0..999}{0..999}.tar", "means 1,000,000 shards or more"),
        ("x-{0..9.tar", "braces cannot be expanded: Unbalanced"),
        ("{" * 1500 + "a,b" + "}" * 1500, "braces cannot be expanded"),
        ("x" * 5000, "5,000 letters; 4,000 are allowed"),
    ],
)
def test_braces_without_bounds_are_refused(tmp_path, word, message):
    with pytest.raises(UserError, match=message):
        read_stream(written(tmp_path, folder="", shards=[word]))


def test_files_and_addresses_are_still_named_in_every_way(made, tmp_path):
    from speechcwcl.data.stream import shard_list

    shards = made[0] / "shards"
    names = [str(shards / f"shard-00000{n}.tar") for n in range(5)]
    assert shard_list(shards) == shard_list(str(shards)) == names
    assert shard_list(str(shards / "shard-00000{0..4}.tar")) == names
    assert shard_list("::".join(names)) == shard_list(names) == names
    assert shard_list(f"file://{names[0]}") == names[:1]
    assert shard_list("HTTPS://h/a{1,2}.tar") == ["https://h/a1.tar", "https://h/a2.tar"]
    odd = tmp_path / "a{1" / "pipe:x.tar"
    odd.parent.mkdir()
    odd.write_bytes((shards / "shard-000000.tar").read_bytes())
    assert shard_list(str(odd)) == [str(odd)]


def prepare(tmp_path, *words):
    return main(["prepare", "huggingface", "--out", str(tmp_path / "data"), *words])


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_prepare_writes_a_stream_json_and_no_audio(made, tmp_path, kind, capsys):
    words = ["--data", str(made[0] / kind), "--sets", "train", "--stream", "train"]
    assert prepare(tmp_path, *words) == 0
    out = tmp_path / "data/train"
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "corpus.json", "stream.json",
    ]  # fmt: skip
    assert json.loads((out / "corpus.json").read_text())["name"] == "huggingface"
    assert Counter(c.text for c in one_pass(read_stream(out / "stream.json"))) == Counter(WORDS)
    for wrong, message in (
        (["--text", "txt"], "text: no column 'txt' (closest: 'text')"),
        (["--stream", "trian"], "--stream trian: no such set (closest: 'train')"),
        (["--limit", "3"], "leave it out with --stream"),
    ):
        assert prepare(tmp_path / "x", *words, *wrong) == 2
        assert message in capsys.readouterr().err
    assert main(["check", str(out)]) == 0
    assert "piece(s); the first rows are sound" in capsys.readouterr().out
    assert main(["format", str(out), str(tmp_path / "m.jsonl")]) == 2
    assert "only a training set can be" in capsys.readouterr().err
    # the ordinary way takes its place again, and the other way round
    assert prepare(tmp_path, *words[:4]) == 0 and not (out / "stream.json").exists()
    assert prepare(tmp_path, *words) == 0 and not (out / "wav.scp").exists()


def test_a_first_row_that_cannot_be_used_shows_at_once(made, tmp_path, capsys):
    folder = broken_parquet(tmp_path / "broken", made[1])
    assert prepare(tmp_path, "--data", str(folder), "--sets", "train", "--stream", "train") == 2
    assert "train:0:1: not audio" in capsys.readouterr().err
    assert not (tmp_path / "data/train").exists()


def test_the_hub_goes_the_same_way(made, tmp_path, monkeypatch):
    import datasets

    root, files = made
    real = datasets.load_dataset
    secret = pyarrow.array([{"bytes": None, "path": str(files[0])}], type=AUDIO)
    table = pyarrow.table({"audio": secret, "text": ["x"]})
    pyarrow.parquet.write_table(table, tmp_path / "secret.parquet")
    sources = {"train": str(root / "parquet/*.parquet"), "bad": str(tmp_path / "secret.parquet")}

    def load(path, *args, split, **options):
        if path != "org/name":
            return real(path, *args, split=split, **options)
        assert options["streaming"] is True and options["revision"] == "abc"
        assert "trust_remote_code" not in options
        return real("parquet", data_files={"x": sources[split]}, split="x", streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *a, **k: ["train", "bad"])
    words = ["--dataset", "org/name", "--revision", "abc", "--downloads", str(tmp_path / "dl")]
    assert prepare(tmp_path, *words, "--sets", "train", "--stream", "train") == 0
    spec = read_stream(tmp_path / "data/train/stream.json")
    assert (spec.dataset, spec.split, spec.revision) == ("org/name", "train", "abc")
    assert Counter(clip.text for clip in one_pass(spec)) == Counter(WORDS)
    assert not (tmp_path / "dl").exists()
    with pytest.raises(UserError, match="has no audio"):
        check_stream(StreamSpec(dataset="org/name", split="bad", revision="abc"))


def test_arrow_folders_and_arrays(tmp_path):
    import datasets

    wave = np.sin(np.arange(4000) / 20).astype(np.float32)
    rows = {"audio": [{"array": wave.tolist(), "sampling_rate": 8000}] * 3, "text": list("abc")}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "d")
    clips = one_pass(StreamSpec(folder=str(tmp_path / "d")))
    assert [clip.text for clip in clips] == list("abc")
    assert clips[0].measure().duration == pytest.approx(0.5) and len(clips[0].load()) == 8000
