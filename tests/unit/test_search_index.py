"""The index of recordings: incremental, resumable, atomic, refused when broken."""

import os
import threading

import numpy as np
import pytest

from speechcwcl.apps import recordings
from speechcwcl.apps.recordings import Cutting, scan
from speechcwcl.apps.search import SearchIndex
from speechcwcl.data.audio import write_audio
from speechcwcl.errors import UserError

DIM = 16


class Toy:
    """Embeds by the spectrum: the same for the same samples, whatever else is in the batch."""

    dim = DIM

    def __init__(self):
        self.seen = 0

    def encode_speech(self, audio):
        rows = []
        for wave in audio:
            self.seen += 1
            bands = np.array_split(np.abs(np.fft.rfft(wave))[: len(wave) // 4], DIM)
            power = np.array([band.sum() for band in bands])
            rows.append(power / np.linalg.norm(power))
        return np.stack(rows).astype(np.float32)


def tone(path, pitch, seconds=0.3):
    time = np.arange(int(seconds * 16000)) / 16000
    write_audio(path, (0.3 * np.sin(2 * np.pi * pitch * time)).astype(np.float32))
    return path


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "recordings"
    for number in range(6):
        tone(folder / f"{number % 2}" / f"{number}.wav", 300 * (number + 1))
    (folder / "notes.txt").write_text("not a recording")
    (folder / ".hidden.wav").write_text("nor this")
    return folder


def create(tmp_path, root, name="ix", identity="model-a", cutting=None):
    cutting = cutting or Cutting()
    options = {"dim": DIM, "identity": identity, "model": "a", "cutting": cutting}
    return SearchIndex.create(tmp_path / name, root, **options)


def contents(index):
    """Names, times and scores against a fixed question, in a fixed order."""
    hits = index.search(np.eye(DIM, dtype=np.float32)[:1], 1000)[0]
    return sorted((h.path, h.start, h.end, round(h.score, 2)) for h in hits)


def test_finds_what_it_was_given(tmp_path, root):
    index, toy = create(tmp_path, root), Toy()
    done = index.update(toy)
    assert (done.new, done.changed, done.removed, done.kept, done.clips) == (6, 0, 0, 0, 6)
    for path in sorted(root.rglob("[0-9].wav")):
        question = toy.encode_speech([next(Cutting().pieces(path))[2]])
        (hits,) = SearchIndex.open(tmp_path / "ix").search(question, 3)
        assert hits[0].path == str(path) and hits[0].score == pytest.approx(1, abs=1e-5)
        assert len(hits) == 3 and hits[0].score >= hits[1].score >= hits[2].score


def test_an_update_does_only_what_is_needed_and_equals_a_fresh_index(tmp_path, root):
    index = create(tmp_path, root)
    index.update(Toy())
    tone(root / "new.flac", 3333)
    (root / "0" / "2.wav").unlink()
    tone(root / "1" / "3.wav", 777, 0.5)
    os.utime(root / "1" / "5.wav", ns=(1, 1))
    toy = Toy()
    done = index.update(toy)
    assert (done.new, done.changed, done.removed, done.kept) == (1, 2, 1, 3)
    assert toy.seen == 3
    fresh = create(tmp_path, root, "fresh")
    fresh.update(Toy())
    assert contents(index) == contents(fresh) and len(contents(index)) == 6
    toy = Toy()
    assert index.update(toy).kept == 6 and toy.seen == 0
    assert sorted(path.name for path in (tmp_path / "ix").glob("*.npz")) == ["index.npz"]


def test_a_build_that_was_interrupted_goes_on(tmp_path, root, monkeypatch):
    monkeypatch.setattr(recordings, "PART_FILES", 2)

    class Interrupted(Toy):
        def encode_speech(self, audio):
            if self.seen >= 4:
                raise KeyboardInterrupt
            return super().encode_speech(audio)

    index = create(tmp_path, root)
    with pytest.raises(KeyboardInterrupt):
        index.update(Interrupted())
    with pytest.raises(UserError, match="first build has not ended; run `speechcwcl search upd"):
        SearchIndex.open(tmp_path / "ix").search(np.eye(DIM, dtype=np.float32)[:1])
    toy = Toy()
    done = index.update(toy)
    assert toy.seen == 2 and (done.kept, done.new, done.clips) == (4, 2, 6)
    fresh = create(tmp_path, root, "fresh")
    fresh.update(Toy())
    assert contents(index) == contents(fresh)


def test_a_search_during_an_update_sees_the_last_that_ended(tmp_path, root, monkeypatch):
    monkeypatch.setattr(recordings, "PART_FILES", 1)
    index = create(tmp_path, root)
    index.update(Toy())
    before = contents(index)
    tone(root / "a.wav", 2000)
    tone(root / "b.wav", 2500)
    seen = []

    class Looking(Toy):
        def encode_speech(self, audio):
            seen.append(contents(SearchIndex.open(tmp_path / "ix")))
            return super().encode_speech(audio)

    index.update(Looking())
    assert seen == [before, before] and len(contents(index)) == 8


def test_two_updates_at_once_do_not_disturb_each_other(tmp_path, root):
    create(tmp_path, root)
    toys = [Toy(), Toy()]

    def work(toy):
        SearchIndex.open(tmp_path / "ix").update(toy)

    threads = [threading.Thread(target=work, args=(toy,)) for toy in toys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(toy.seen for toy in toys) == [0, 6]
    assert len(contents(SearchIndex.open(tmp_path / "ix"))) == 6


def test_files_that_are_not_audio_are_named_and_not_tried_again(tmp_path, root):
    (root / "bad.wav").write_bytes(b"RIFF but not really")
    (root / "empty.flac").write_bytes(b"")
    index = create(tmp_path, root)
    done = index.update(Toy())
    assert done.clips == 6 and sorted(done.broken) == ["bad.wav", "empty.flac"]
    assert "bad.wav: not audio" in done.broken["bad.wav"]
    again = index.update(Toy())
    assert again.kept == 8 and sorted(again.broken) == ["bad.wav", "empty.flac"]
    tone(root / "bad.wav", 900)
    assert index.update(Toy()).changed == 1 and index.describe()["recordings"] == 7


def test_a_recording_that_breaks_off_leaves_nothing_behind(tmp_path, root, monkeypatch):
    long = tone(root / "long.wav", 500, 3.0)
    long.write_bytes(long.read_bytes()[:-40000])
    index = create(tmp_path, root, cutting=Cutting(0.5, 0.25))
    done = index.update(Toy())
    assert "truncated" in done.broken["long.wav"]
    assert not [c for c in contents(index) if "long" in c[0]]


def test_windows_cover_a_long_recording_once(tmp_path, root):
    assert Cutting(2, 1).windows(1.5) == [(0.0, 1.5)]
    assert Cutting(2, 1).windows(2.02) == [(0.0, 2.02)]
    assert Cutting(2, 1).windows(4.5) == [(0.0, 2.0), (1.0, 3.0), (2.0, 4.0), (2.5, 4.5)]
    assert Cutting(0, 1).windows(4.5) == [(0.0, 4.5)]
    for bad in ((2, 3), (-1, 1), (2, 0), (float("nan"), 1)):
        with pytest.raises(UserError):
            Cutting(*bad)
    parts = [tone(tmp_path / f"{p}.wav", p, 1.0) for p in (600, 2200, 1100)]
    waves = [next(Cutting().pieces(p))[2] for p in parts]
    write_audio(root / "long.wav", np.concatenate(waves))
    index, toy = create(tmp_path, root, cutting=Cutting(1.0, 0.5)), Toy()
    assert index.update(toy).clips == 6 + 5
    (hits,) = index.search(toy.encode_speech(waves[1:2]), 4)
    best = hits[0]
    assert (best.path, best.start, best.end) == (str(root / "long.wav"), 1.0, 2.0)
    spans = sorted((h.start, h.end) for h in hits if h.path == best.path)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_as_many_answers_as_are_asked_for(tmp_path, root):
    index = create(tmp_path, root)
    index.update(Toy())
    question = np.eye(DIM, dtype=np.float32)[:1]
    assert index.search(question, 100)[0][:3] == index.search(question, 3)[0]
    with pytest.raises(UserError, match="top_k"):
        index.search(question, 0)


def test_texts_of_every_recording(tmp_path, root):
    index = create(tmp_path, root)
    index.update(Toy())
    found = list(index.texts_of(np.eye(DIM, dtype=np.float32)[:3], ["a", "b", "c"], 2))
    assert [hit.path for hit, _ in found] == sorted(str(p) for p in root.rglob("[0-9].wav"))
    for hit, pairs in found:
        assert len(pairs) == 2 and pairs[0][1] >= pairs[1][1]
        assert hit.score == pytest.approx(pairs[0][1], abs=1e-5)


def damaged(path, how):
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] if how == "cut" else raw[:40] + b"\xff" * 40 + raw[80:])


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_a_damaged_index_is_refused_and_made_again(tmp_path, root, how):
    index = create(tmp_path, root)
    index.update(Toy())
    expected = contents(index)
    damaged(tmp_path / "ix" / "index.npz", how)
    with pytest.raises(UserError, match=r"truncated or changed; run `speechcwcl search update"):
        contents(SearchIndex.open(tmp_path / "ix"))
    index.update(Toy())
    assert contents(SearchIndex.open(tmp_path / "ix")) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "index.json:1: not valid JSON"),
        (b"[1]", "holds a list, not a dict"),
        (b'{"format": "speechcwcl-search", "version": 2}', "not an index of this version"),
        (
            b'{"format": "speechcwcl-search", "version": 3, "dim": 3}',
            "index.json: .*root",
        ),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, root, content, message):
    create(tmp_path, root).update(Toy())
    (tmp_path / "ix" / "index.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        SearchIndex.open(tmp_path / "ix")


def test_an_index_of_an_earlier_version_is_refused_in_words(tmp_path, root):
    (tmp_path / "ix").mkdir()
    (tmp_path / "ix" / "table.sqlite").write_bytes(b"SQLite format 3")
    with pytest.raises(UserError, match="not empty and not an index; choose another folder"):
        create(tmp_path, root)
    assert (tmp_path / "ix" / "table.sqlite").exists()


def test_what_does_not_belong_together_is_refused(tmp_path, root):
    index = create(tmp_path, root)
    index.update(Toy())
    with pytest.raises(UserError, match="another model"):
        create(tmp_path, root, identity="model-b")
    with pytest.raises(UserError, match="window 15 and hop 7.5, not 2 and 1"):
        create(tmp_path, root, cutting=Cutting(2, 1))
    tone(tmp_path / "other" / "a.wav", 400)
    with pytest.raises(UserError, match="is the index of"):
        create(tmp_path, tmp_path / "other")
    with pytest.raises(UserError, match="not empty and not an index"):
        create(tmp_path, root, "other")
    with pytest.raises(UserError, match="no index there; make one with"):
        SearchIndex.open(tmp_path / "nothing")
    assert len(contents(index)) == 6


def test_recordings_that_moved_are_known_again(tmp_path, root):
    create(tmp_path, root).update(Toy())
    moved = tmp_path / "moved"
    root.rename(moved)
    index, toy = create(tmp_path, moved), Toy()
    assert index.update(toy).kept == 6 and toy.seen == 0
    assert all(c[0].startswith(str(moved)) for c in contents(index))


def test_an_empty_or_missing_folder_drops_nothing(tmp_path, root):
    index = create(tmp_path, root)
    index.update(Toy())
    for path in root.rglob("*.wav"):
        path.unlink()
    with pytest.raises(UserError, match=r"no audio in this folder .*\.wav"):
        index.update(Toy())
    assert index.describe()["clips"] == 6
    with pytest.raises(UserError, match="no such folder"):
        scan(tmp_path / "nowhere")


def test_a_full_disk_while_saving_keeps_the_old_vectors(tmp_path, root, monkeypatch):
    index = create(tmp_path, root)
    index.update(Toy())
    before = contents(index)
    tone(root / "a.wav", 2000)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            index.update(Toy())
    assert contents(SearchIndex.open(tmp_path / "ix")) == before
    assert index.update(Toy()).clips == 7
    assert not [path for path in (tmp_path / "ix").glob(".*") if path.name != ".lock"]


def test_names_that_are_not_utf8_are_kept(tmp_path, root):
    name = os.fsencode(root) + b"/caf\xe9.wav"
    tone(root / "cafe.wav", 1234)
    os.rename(root / "cafe.wav", name)
    index = create(tmp_path, root)
    assert index.update(Toy()).clips == 7
    hits = SearchIndex.open(tmp_path / "ix").search(np.eye(DIM, dtype=np.float32)[:1], 10)[0]
    assert os.fsdecode(name) in [hit.path for hit in hits]
    assert index.update(Toy()).kept == 7
