"""Reading manifests: lazily, by position, in workers; broken ones are named."""

import pickle

import numpy as np
import pytest
import soundfile
from test_data_manifest import compiled

from speechcwcl.data.kaldi import Utterance
from speechcwcl.data.manifest import Manifest
from speechcwcl.errors import UserError
from speechcwcl.files import sha256_file


def test_positions_work_like_those_of_a_list(tmp_path):
    _, manifest, utterances = compiled(tmp_path)
    assert manifest[-1].id == "u002" and manifest[np.int64(1)].id == "u001"
    for wrong in (3, -4):
        with pytest.raises(IndexError):
            manifest[wrong]


def test_a_manifest_can_be_pickled_and_read_by_forked_and_spawned_workers(tmp_path):
    torch = pytest.importorskip("torch")
    _, manifest, utterances = compiled(tmp_path, [0.2] * 30)
    manifest[3]
    assert len(pickle.dumps(manifest)) < 2000
    assert pickle.loads(pickle.dumps(manifest))[5].id == "u005"
    loader = torch.utils.data.DataLoader(
        manifest, batch_size=4, num_workers=2, collate_fn=_ids, multiprocessing_context="fork"
    )
    assert [key for batch in loader for key in batch] == manifest.ids


def _ids(batch):
    return [u.id for u in batch]


def test_a_manifest_that_was_changed_by_hand_is_read_as_it_is(tmp_path):
    summary, manifest, _ = compiled(tmp_path, [0.5] * 6)
    again = Manifest(manifest.path)
    assert again.hash == summary.hash and np.array_equal(again.durations, manifest.durations)
    lines = manifest.path.read_text().splitlines(keepends=True)
    manifest.path.write_text("".join(lines[3:]))
    shorter = Manifest(manifest.path)
    assert shorter.ids == ["u003", "u004", "u005"] and shorter[0].id == "u003"
    assert shorter.hash == sha256_file(manifest.path)


def test_a_manifest_written_by_hand_needs_only_id_and_audio(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "a", "audio": "a.wav"}\n\n{"audio": "b.wav", "id": "b"}')
    manifest = Manifest(path)
    assert (
        list(manifest)
        == [manifest[0], manifest[1]]
        == [
            Utterance("a", "a.wav", speaker="a"),
            Utterance("b", "b.wav", speaker="b"),
        ]
    )
    assert np.isnan(manifest.durations).all() and manifest.seconds == 0


@pytest.mark.parametrize(
    "raw, what",
    [
        (b'{"id": "a", "audio": "x"}\n{"id": ]\n', ":2: not valid JSON"),
        (b'{"id": "a", "audio": "x"}\n{"id": "b"}\n', ":2: a JSON object with a text for 'audio'"),
        (b'{"id": "a", "audio": "x"}\n["b"]\n', ":2: a JSON object"),
        (b'{"id": "a", "audio": "\xe9"}\n', ":1: not UTF-8"),
        (b"", "zero utterances"),
        (b'{"id": "a", "audio": "x", "duration": NaN}\n', ":1: not valid JSON: NaN is no number"),
        (b'{"id": "a", "audio": "x", "start": "0"}\n', ":1: start: seconds, 0 or more"),
        (b'{"id": "a", "audio": "x", "end": true}\n', ":1: end: seconds, 0 or more"),
        (b'{"id": "a", "audio": "x", "duration": -1}\n', ":1: duration: seconds"),
        (b'{"id": "a", "audio": "x", "text": ["y"]}\n', ":1: text: a text expected"),
        (b'{"id": "a", "audio": "x", "labels": "y"}\n', ":1: labels: an object of texts"),
        (b'{"id": "a", "audio": "x", "labels": {"y": 1}}\n', ":1: labels: an object of texts"),
        (b'{"id": "a", "audio": "x\\u0000.wav"}\n', ":1: audio: a NUL byte"),
        (b'{"id": "a", "audio": "x", "text": "\\ud800"}\n', ":1: not valid JSON: half a character"),
        (b'{"id": "a", "audio": "x", "duration": ' + b"9" * 5000 + b"}\n", ":1: not valid JSON"),
        (
            b'{"id": "a", "audio": "x", "duration": ' + b"9" * 400 + b"}\n",
            ":1: not valid JSON: an int",
        ),
        (b"[" * 3000 + b"]" * 3000 + b"\n", ":1: "),
    ],
)
def test_broken_manifests_are_named_with_their_line(tmp_path, raw, what):
    path = tmp_path / "m.jsonl"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=what) as caught:
        Manifest(path)
    assert str(caught.value).startswith(str(path))


def test_unknown_keys_and_missing_files_are_explained(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "a", "audio": "x", "speakr": "s"}\n')
    with pytest.raises(UserError, match=r":1: unknown key 'speakr' \(closest: 'speaker'\)"):
        Manifest(path)[0]
    with pytest.raises(UserError, match="no such manifest .*run stage 2"):
        Manifest(tmp_path / "none.jsonl")


def test_the_state_is_another_one_when_audio_changes_under_the_same_manifest(tmp_path):
    _, manifest, utterances = compiled(tmp_path)
    before = manifest.state
    assert Manifest(manifest.path).state == before
    noise = np.random.default_rng(0).uniform(-1, 1, 8000).astype(np.float32)
    soundfile.write(utterances[1].audio, noise, 8000)  # as long as before
    again = Manifest(manifest.path)
    assert again.hash == manifest.hash and again.state != before
