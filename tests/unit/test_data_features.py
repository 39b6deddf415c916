"""The feature cache: what goes in comes out; kills, repeats and full disks do no harm."""

import contextlib
import json
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from speechcwcl.cache.features import FeatureCache
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.files import atomic_path


class Made:
    """A manifest of utterances of many lengths."""

    def __init__(self, count=60, hash="m1"):
        self.durations = (0.5 + np.arange(count) * 37 % 50 / 10).astype(np.float32)
        self.hash = hash

    def __len__(self):
        return len(self.durations)

    def __getitem__(self, i):
        return Utterance(f"u{i}", f"{i}.wav", duration=float(self.durations[i]))


def value_of(utterance, copy):
    """What the fake encoder makes of an utterance: 10 frames a second, 2 layers of 3."""
    number = int(utterance.id[1:])
    frames = round(utterance.duration * 10) + copy
    base = np.arange(frames * 6, dtype=np.float32).reshape(frames, 2, 3) % 50
    return base + number + 100 * copy


class Encoder:
    def __init__(self):
        self.batches = []

    def __call__(self, utterances, copy):
        self.batches.append((copy, [u.id for u in utterances], [u.duration for u in utterances]))
        return [value_of(u, copy) for u in utterances]


def build(folder, manifest=None, extract=None, key="k", **options):
    options = {"batch_seconds": 20, "shard_seconds": 40, "progress": False, **options}
    return FeatureCache.build(folder, manifest or Made(), extract or Encoder(), key, **options)


def check_contents(cache, manifest, copies=1):
    assert len(cache) == len(manifest) and cache.copies == copies
    for copy in range(copies):
        for i in range(len(manifest)):
            found = cache.get(i, copy)
            assert found.dtype == np.float16
            assert np.array_equal(found, value_of(manifest[i], copy).astype(np.float16))


def test_every_utterance_comes_back_at_its_position(tmp_path):
    cache = build(tmp_path, copies=3)
    check_contents(cache, Made(), 3)
    assert cache.frame_shape == (2, 3)
    assert np.array_equal(cache.get(-1), cache.get(59))
    for i, copy in ((60, 0), (-61, 0), (0, 3), (0, -1)):
        with pytest.raises(IndexError):
            cache.get(i, copy)


def test_what_comes_back_is_a_read_only_view_of_the_file(tmp_path):
    found = build(tmp_path).get(3)
    base = found
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert type(base).__name__ == "memmap" or type(base.base).__name__ == "mmap"
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_batches_are_of_like_length_and_within_their_limit(tmp_path):
    encoder = Encoder()
    build(tmp_path, extract=encoder, shard_seconds=1e9)
    for _, ids, durations in encoder.batches:
        assert len(ids) == 1 or len(ids) * max(durations) <= 20
        assert max(durations) - min(durations) < 3
    assert sorted(sum((ids for _, ids, _ in encoder.batches), [])) == sorted(
        f"u{i}" for i in range(60)
    )
    single = Encoder()
    build(tmp_path / "long", extract=single, batch_seconds=0.1)  # longer than a batch: alone
    assert all(len(ids) == 1 for _, ids, _ in single.batches)


def test_a_finished_cache_is_not_computed_again_and_copies_can_be_added(tmp_path):
    build(tmp_path)
    encoder = Encoder()
    build(tmp_path, extract=encoder)
    assert encoder.batches == []
    check_contents(build(tmp_path, extract=encoder, copies=2), Made(), 2)
    assert {copy for copy, _, _ in encoder.batches} == {1}
    encoder.batches.clear()
    assert build(tmp_path, extract=encoder, copies=1).copies == 2
    assert encoder.batches == []


def test_another_key_is_another_cache(tmp_path):
    one, two = build(tmp_path, key="one"), build(tmp_path, Made(7), key="two")
    assert one.folder != two.folder
    check_contents(FeatureCache.open(tmp_path, "one"), Made())
    check_contents(FeatureCache.open(tmp_path, "two"), Made(7))
    with pytest.raises(UserError, match=r"no features for key 'twoo' \(closest: 'two'\)"):
        FeatureCache.open(tmp_path, "twoo")


def test_the_same_key_with_another_manifest_is_refused(tmp_path):
    build(tmp_path)
    with pytest.raises(UserError, match="another manifest under the same key"):
        build(tmp_path, Made(hash="m2"))


KILLED = """
import os, signal, sys
sys.path.insert(0, os.path.dirname(sys.argv[2]))
from test_data_features import Encoder, Made, build
class Deadly(Encoder):
    def __call__(self, utterances, copy):
        if len(self.batches) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(utterances, copy)
build(sys.argv[1], extract=Deadly(), copies=2)
"""


@pytest.mark.parametrize("batches", [0, 5, 20])
def test_a_killed_build_goes_on_where_it_was(tmp_path, batches):
    arguments = [str(tmp_path / "cache"), __file__, str(batches)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True)
    assert done.returncode == -9
    with pytest.raises(UserError, match="not finished; run the same command again"):
        FeatureCache.open(tmp_path / "cache", "k")
    encoder = Encoder()
    check_contents(build(tmp_path / "cache", extract=encoder, copies=2), Made(), 2)
    fresh = Encoder()
    build(tmp_path / "fresh", extract=fresh, copies=2)
    saved = len(fresh.batches) - len(encoder.batches)
    assert (0 < saved <= batches) if batches else saved == 0
    left = [name for _, _, names in os.walk(tmp_path / "cache") for name in names]
    assert not [name for name in left if name.startswith(".")]
    for path in (tmp_path / "fresh").rglob("*.f16"):
        same = tmp_path / "cache" / path.relative_to(tmp_path / "fresh")
        assert path.read_bytes() == same.read_bytes()


def test_a_shard_size_that_changes_between_runs_does_no_harm(tmp_path):
    class Stopped(Exception):
        pass

    class Failing(Encoder):
        def __call__(self, utterances, copy):
            if len(self.batches) == 6:
                raise Stopped
            return super().__call__(utterances, copy)

    with pytest.raises(Stopped):
        build(tmp_path, extract=Failing())
    check_contents(build(tmp_path, shard_seconds=15, batch_seconds=7), Made())


@pytest.mark.parametrize("damage", ["cut", "gone", "no index", "index cut"])
def test_damaged_shards_are_noticed_and_made_again(tmp_path, damage):
    cache = build(tmp_path)
    data = cache.folder / "c000-s00001.f16"
    index = cache.folder / "c000-s00001.npz"
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-2])
    elif damage == "gone":
        data.unlink()
    elif damage == "no index":
        index.unlink()
    else:
        index.write_bytes(index.read_bytes()[:50])
    with pytest.raises(UserError, match="c000-s00001.* missing or damaged"):
        FeatureCache.open(tmp_path, "k")
    encoder = Encoder()
    check_contents(build(tmp_path, extract=encoder), Made())
    shard = {u for _, ids, _ in encoder.batches for u in ids}
    assert 0 < len(shard) < 60


def test_it_can_be_pickled_and_read_by_workers(tmp_path):
    torch = pytest.importorskip("torch")
    cache = build(tmp_path)
    cache.get(0)
    again = pickle.loads(pickle.dumps(cache))
    assert np.array_equal(again.get(5), cache.get(5))
    loader = torch.utils.data.DataLoader(
        _Lengths(cache), batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    assert [int(n) for n in loader] == [len(cache.get(i)) for i in range(len(cache))]


class _Lengths:
    def __init__(self, cache):
        self.cache = cache

    def __len__(self):
        return len(self.cache)

    def __getitem__(self, i):
        return len(self.cache.get(i))


def test_utterances_without_frames_are_allowed(tmp_path):
    cache = build(tmp_path, extract=lambda us, copy: [np.zeros((0, 4), np.float32) for _ in us])
    assert cache.get(3).shape == (0, 4) and not any(len(cache.get(i)) for i in range(len(cache)))


def test_features_that_do_not_fit_float16_are_refused_by_name(tmp_path):
    def extract(utterances, copy):
        arrays = [value_of(u, copy) for u in utterances]
        for utterance, array in zip(utterances, arrays, strict=True):
            if utterance.id == "u17":
                array[2] = 1e6
        return arrays

    with pytest.raises(UserError, match="17.wav: features of 'u17' are not finite in float16"):
        build(tmp_path, extract=extract)


@pytest.mark.parametrize(
    "extract, what",
    [
        (lambda us, copy: [np.zeros((3, 4))] * (len(us) - 1), "arrays for"),
        (lambda us, copy: [np.zeros((3, 4 + int(u.id[1:]))) for u in us], "gave shape"),
        (lambda us, copy: [np.zeros(3) for _ in us], "gave shape"),
    ],
)
def test_wrong_extractors_are_explained(tmp_path, extract, what):
    with pytest.raises(ValueError, match=what):
        build(tmp_path, extract=extract)


def test_too_little_space_is_said_before_the_hours(tmp_path, monkeypatch):
    encoder = Encoder()
    usage = types.SimpleNamespace(free=5000)
    monkeypatch.setattr("speechcwcl.cache.features.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"need about 0.00 GB, 0.00 GB are free") as caught:
        build(tmp_path, extract=encoder)
    assert len(encoder.batches) == 1 and "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_the_build_can_go_on(tmp_path, monkeypatch):
    from speechcwcl.cache import features

    opened = []

    @contextlib.contextmanager
    def full(name):
        opened.append(name)
        with atomic_path(name) as temporary:
            yield Path("/dev/full") if len(opened) == 3 else temporary

    monkeypatch.setattr(features, "atomic_path", full)
    with pytest.raises(UserError, match="cannot write: No space left on device") as caught:
        build(tmp_path)
    assert "\n" not in str(caught.value)
    (folder,) = (p for p in tmp_path.iterdir())
    assert not list(folder.glob(".*")) and len(list(folder.glob("*.f16"))) == 2
    monkeypatch.undo()
    check_contents(build(tmp_path), Made())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        build(tmp_path / "file" / "cache")


def test_two_builders_at_once_do_no_harm(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, os.path.dirname(sys.argv[2]))\n"
        "import time; from test_data_features import Encoder, build\n"
        "class Slow(Encoder):\n"
        "    def __call__(self, utterances, copy):\n"
        "        time.sleep(0.02); return super().__call__(utterances, copy)\n"
        "encoder = Slow(); build(sys.argv[1], extract=encoder); print(len(encoder.batches))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), __file__]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = sorted(int(process.communicate(timeout=300)[0]) for process in running)
    assert counts[0] == 0 and counts[1] > 0  # one waited, then found everything done
    check_contents(FeatureCache.open(tmp_path, "k"), Made())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plan.json", "[" * 3000),
        ("plan.json", '{"key": "k", "manifest": "m1", "starts": [0, 9, 3, 60]}'),
        ("plan.json", '{"key": "k", "manifest": "m1", "starts": "all"}'),
        ("plan.json", '{"key": "k", "manifest": "m1", "starts": []}'),
        ("plan.json", '{"key": "k", "manifest": "m1", "starts": [0, 1000000000000000]}'),
        ("meta.json", "[]"),
        ("meta.json", '{"version": 1, "key": "k", "copies": 1e999, "frame_shape": [2, 3]}'),
        ("meta.json", '{"version": 1, "key": "k", "copies": 99, "frame_shape": [2, 3]}'),
        ("meta.json", '{"version": 1, "key": "k", "copies": 1, "frame_shape": ["a"]}'),
        ("meta.json", '{"version": 1, "key": "k", "copies": 0, "frame_shape": [2, 3]}'),
    ],
)
def test_whatever_stands_in_its_json_is_one_line(tmp_path, name, text):
    cache = build(tmp_path)
    (cache.folder / name).write_text(text)
    with pytest.raises(UserError) as caught:
        FeatureCache.open(tmp_path, "k")
    assert str(cache.folder) in str(caught.value) and "\n" not in str(caught.value)


def test_an_index_that_points_beyond_its_file_is_damaged(tmp_path):
    cache = build(tmp_path)
    path = cache.folder / "c000-s00000.npz"
    with np.load(path) as stored:
        table, shape = stored["table"], stored["frame_shape"]
    table[0, 0] = 10**9
    np.savez(path, table=table, frame_shape=shape)
    with pytest.raises(UserError, match="c000-s00000.* missing or damaged"):
        FeatureCache.open(tmp_path, "k")


def test_another_version_is_refused(tmp_path):
    cache = build(tmp_path)
    meta = json.loads((cache.folder / "meta.json").read_text())
    (cache.folder / "meta.json").write_text(json.dumps({**meta, "version": 99}))
    with pytest.raises(UserError, match="another version or key"):
        FeatureCache.open(tmp_path, "k")
