"""Tar shards: the same audio as from files, from anywhere in them, whole or not at all."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechcwcl.cli.main import main
from speechcwcl.data.audio import audio_info, load_audio, write_audio
from speechcwcl.data.audio.opening import find_member
from speechcwcl.data.compiling import compile_manifest
from speechcwcl.data.kaldi import write_datadir
from speechcwcl.data.manifest import Manifest
from speechcwcl.data.shards import read_shard, write_manifest
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def tone(number, seconds=0.6, rate=16000):
    draw = np.random.default_rng(number)
    time = np.arange(int(seconds * rate)) / rate
    wave = 0.2 * np.sin(2 * np.pi * (200 + 90 * number) * time)
    return (wave + 0.01 * draw.standard_normal(len(time))).astype(np.float32)


@pytest.fixture
def manifest(tmp_path):
    """Seven utterances: a file of each format, two segments; awkward ids."""
    utterances = []
    for number, suffix in enumerate(SUFFIXES):
        path = tmp_path / "audio" / f"clip{number}{suffix}"
        write_audio(path, tone(number))
        key = f"speaker/a.{number}-é"
        utterances.append(Utterance(key, str(path), f"words {number}", "s1", labels={"label": "x"}))
    write_audio(tmp_path / "audio/long.wav", tone(9, 4.0, 22050), 22050)
    long = str(tmp_path / "audio/long.wav")
    utterances.append(Utterance("seg1", long, "first part", "s2", 0.5, 1.25))
    utterances.append(Utterance("seg2", long, "second part", "s2", 2.0))
    folder = write_datadir(tmp_path / "data", utterances, corpus={"name": "seven"})
    path = tmp_path / "files" / "manifest.jsonl"
    compile_manifest(folder, path, progress=False)
    (path.parent / "corpus.json").write_text('{"name": "seven"}')
    return path


def shards(manifest, out, *words):
    return main(["shards", str(manifest), "--out", str(out), "--per_shard", "3", *words])


def same(one, other):
    assert (one.id, one.text, one.speaker, one.labels) == (
        other.id, other.text, other.speaker, other.labels,
    )  # fmt: skip
    assert other.duration == pytest.approx(one.duration, abs=1e-4)
    wav, back = one.load(), other.load()
    if one.start is None and one.end is None:
        assert np.array_equal(wav, back)
    else:  # cut out before it is resampled, so the resampler's edge differs
        assert np.abs(wav[200:-200] - back[200 : len(wav) - 200]).max() < 1e-3
        assert abs(len(wav) - len(back)) <= 1


def test_the_same_audio_from_shards(manifest, tmp_path):
    assert shards(manifest, tmp_path / "dump") == 0
    before, after = Manifest(manifest), Manifest(tmp_path / "dump/manifest.jsonl")
    assert len(after) == 7
    for one, other in zip(before, after, strict=True):
        same(one, other)
        assert find_member(other.audio) and audio_info(other.audio).frames > 0
    assert json.loads((tmp_path / "dump/corpus.json").read_text()) == {"name": "seven"}
    assert len(list((tmp_path / "dump/shards").glob("*.tar"))) == 3
    assert pickle.loads(pickle.dumps(after))[5].load().size  # as a DataLoader's worker reads it


def test_two_processes_write_the_same_bytes_and_a_second_run_does_nothing(manifest, tmp_path):
    assert (
        shards(manifest, tmp_path / "a") == 0 and shards(manifest, tmp_path / "b", "--nj", "2") == 0
    )
    names = sorted(p.name for p in (tmp_path / "a/shards").glob("*.tar"))
    for name in names:
        one, other = (tmp_path / x / "shards" / name for x in "ab")
        assert one.read_bytes() == other.read_bytes()
    stamps = [(tmp_path / "a/shards" / n).stat().st_mtime_ns for n in names]
    assert shards(manifest, tmp_path / "a") == 0
    assert stamps == [(tmp_path / "a/shards" / n).stat().st_mtime_ns for n in names]


def test_a_run_that_was_cut_off_goes_on(manifest, tmp_path, capsys):
    second = Path(Manifest(manifest)[4].audio)
    data = second.read_bytes()
    second.write_bytes(b"")
    out = tmp_path / "dump"
    assert shards(manifest, out) == 2
    assert "empty file" in capsys.readouterr().err
    assert [p.name for p in out.glob("shards/*.tar")] == ["shard-000000.tar"]
    assert not (out / "manifest.jsonl").exists()
    assert main(["shards", str(out / "shards"), "--out", str(tmp_path / "x")]) == 2
    assert "only half there" in capsys.readouterr().err
    first = out / "shards/shard-000000.tar"
    stamp = first.stat().st_mtime_ns
    second.write_bytes(data)
    assert shards(manifest, out) == 0
    assert first.stat().st_mtime_ns == stamp and len(Manifest(out / "manifest.jsonl")) == 7


def test_another_manifest_makes_them_anew(manifest, tmp_path):
    out = tmp_path / "dump"
    assert shards(manifest, out) == 0
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:2]))
    assert shards(manifest, out) == 0
    assert len(list(out.glob("shards/*.tar"))) == 1 and len(Manifest(out / "manifest.jsonl")) == 2


def test_a_cut_or_lost_shard_is_named(manifest, tmp_path, capsys):
    out = tmp_path / "dump"
    shards(manifest, out)
    last = Manifest(out / "manifest.jsonl")[2].audio
    tar = out / "shards/shard-000000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:3000])
    with pytest.raises(UserError, match="truncated shard"):
        load_audio(last)
    assert main(["shards", str(out / "shards"), "--out", str(tmp_path / "x")]) == 2
    assert "shard-000000.tar: has 3000 bytes" in capsys.readouterr().err
    with pytest.raises(UserError, match="cut off"):
        list(read_shard(tar))
    assert shards(manifest, out) == 0 and tar.read_bytes() == whole  # made again
    tar.unlink()
    with pytest.raises(UserError, match=r"no such shard .closest: 'shard-00000"):
        load_audio(last)
    assert main(["shards", str(out / "shards"), "--out", str(tmp_path / "x")]) == 2
    assert "is missing" in capsys.readouterr().err


def test_shards_that_were_copied_elsewhere(manifest, tmp_path):
    shards(manifest, tmp_path / "dump")
    (tmp_path / "dump/shards").rename(tmp_path / "elsewhere")
    assert main(["shards", str(tmp_path / "elsewhere"), "--out", str(tmp_path / "new")]) == 0
    for one, other in zip(
        Manifest(manifest), Manifest(tmp_path / "new/manifest.jsonl"), strict=True
    ):
        same(one, other)


def test_anybodys_webdataset(tmp_path):
    stream = io.BytesIO()
    soundfile.write(stream, tone(1), 16000, format="FLAC")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in (
            ("d/a.flac", stream.getvalue()), ("d/a.txt", b"hello there\n"), ("d/a.cls", b"3"),
            ("d/b.flac", stream.getvalue()), ("d/b.json", b'{"text": "bye", "label": "stop"}'),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    summary = write_manifest(tmp_path, tmp_path / "m.jsonl", progress=False)
    one, two = Manifest(tmp_path / "m.jsonl")
    assert (one.id, one.text, one.labels) == ("d/a", "hello there", {"label": "3"})
    assert (two.id, two.text, two.labels) == ("d/b", "bye", {"label": "stop"})
    assert summary.seconds == pytest.approx(1.2) and len(one.load()) == 9600


def test_the_source_is_not_overwritten(manifest, capsys):
    assert shards(manifest, manifest.parent) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert main(["shards", "/no/such", "--out", str(manifest.parent / "x")]) == 2
    assert "/no/such: no such manifest" in capsys.readouterr().err


def test_the_feature_cache_and_full_training_read_from_shards(
    manifest, tmp_path, tiny_speech, tiny_text
):
    from speechcwcl.cache.embed import embed_manifest, feature_cache
    from speechcwcl.models.aligner import Aligner
    from speechcwcl.training.dataset import AlignmentSet

    shards(manifest, tmp_path / "dump")
    files, packed = Manifest(manifest), Manifest(tmp_path / "dump/manifest.jsonl")
    model = Aligner.build(tiny_speech, tiny_text, freeze="all")
    caches = [
        feature_cache(model.speech_encoder, m, tmp_path / f"c{n}")
        for n, m in enumerate((files, packed))
    ]
    for at in range(5):  # files as they are; segments are cut before resampling
        assert np.allclose(caches[0].get(at), caches[1].get(at), atol=2e-3)  # float16
    waves = [AlignmentSet(m, np.zeros(7, dtype=np.int64))[1][0] for m in (files, packed)]
    assert np.array_equal(*waves)
    one, two = (embed_manifest(model, m) for m in (files, packed))
    assert np.allclose(one[:5], two[:5], atol=1e-6)
