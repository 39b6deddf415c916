"""Keywords: joined vectors, thresholds, files, and the spotting protocol on a small scene."""

import json

import numpy as np
import pytest
from test_streaming import SCENE, TRUTH, WORDS, Ears, noise, tone

from speechcwcl.data.audio import write_audio
from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.evaluation.evals import _refuse
from speechcwcl.evaluation.metrics import reliability
from speechcwcl.evaluation.scores import score_zeroshot
from speechcwcl.evaluation.spotting import (
    SPOTTING,
    Found,
    evaluate_spotting,
    judge,
    only,
    open_recordings,
)
from speechcwcl.zeroshot import enrolment
from speechcwcl.zeroshot.classifier import class_vectors, rank
from speechcwcl.zeroshot.enrolment import clip_vector, enrol, loud_part, read_examples
from speechcwcl.zeroshot.keywords import Keywords, check_apart, join, level_of_rate
from speechcwcl.zeroshot.protocol import Protocol

RATE = 16000


class Model(Ears):
    """Ears that can read: the first pitch is called low, the second high."""

    identity, logit_scale = "m1", 10.0
    enrol = enrol
    words = {"low": [1, 0, 0, 0], "high": [0, 1, 0, 0], "deep": [0.999, 0.04, 0, 0]}

    def encode_text(self, texts):
        rows = np.array([self.words[text] for text in texts], dtype=float)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def encode_labels(self, labels, templates=("{}",)):
        return class_vectors(labels, self.encode_text, templates)

    def encode_speech(self, audio):
        return np.stack([self.vector(wave) for wave in audio])


@pytest.fixture(autouse=True)
def background(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("background")
    parts = [noise(0.4, 0.1, seed) + tone(700 + 97 * seed, 0.4) for seed in range(30)]
    write_audio(folder / "a.ogg", np.concatenate(parts))
    monkeypatch.setattr(enrolment, "BACKGROUND", folder)
    monkeypatch.setattr(enrolment, "cache_folder", lambda: folder)


def test_text_and_examples_are_joined():
    texts = np.eye(2, 4)
    clips = np.array([[0, 0, 1.0, 0], [0, 0, 0.6, 0.8]])
    rows = join(texts, [None, clips])
    assert np.array_equal(rows[0], texts[0])
    mean = clips.mean(axis=0) / np.linalg.norm(clips.mean(axis=0))
    both = texts[1] + np.sqrt(2) * mean
    assert np.allclose(rows[1], both / np.linalg.norm(both))
    check_apart(["a", "b"], rows, [None, clips])


def test_labels_that_cannot_be_told_apart_are_named():
    with pytest.raises(UserError, match=r"'low' and 'deep' cannot be .* cosine is 0\.999"):
        enrol(Model(), ["low", "high", "deep"])
    same = [tone(3000, 0.5)]
    with pytest.raises(UserError, match=r"'low' and 'high' .* cosine is 1\.000"):
        enrol(Model(), ["low", "high"], {"low": same, "high": same})


def test_an_example_is_heard_where_it_is_loud():
    wave = np.concatenate([noise(1.5), tone(3000, 0.5), noise(2.0, seed=1)])
    first, last = loud_part(wave)
    assert abs(first / RATE - 1.5) < 0.05 and abs(last / RATE - 2.0) < 0.05
    assert clip_vector(Model(), wave)[2] > 0.95
    assert clip_vector(Model(), tone(3000, 0.05)).shape == (4,)
    found = enrol(Model(), ["low", "high"], {"low": [wave]})
    assert found.examples == [1, 0] and found.rows[0, 2] > 0.5 > found.rows[1, 2]


def test_thresholds_and_files(tmp_path):
    made = enrol(Model(), ["low", "high"], false_alarms_per_hour=0.5)
    speech = Model().encode_speech([tone(500, 1.0), noise(1.0)])
    said = made.z(speech) >= made.level
    assert np.array_equal(said, speech @ made.rows.T >= made.thresholds(speech))
    assert said.tolist() == [[True, False], [False, False]]
    stricter = enrol(Model(), ["low", "high"], false_alarms_per_hour=0.05)
    assert stricter.level > made.level
    made.save(tmp_path / "k.json")
    again = Keywords.load(tmp_path / "k.json")
    assert again.labels == made.labels and np.allclose(again.rows, made.rows, atol=1e-4)
    assert again.set_by == {"by": "ordinary speech", "false_alarms_per_hour": 0.5}
    assert np.allclose(again.ready(made.cohort).z(speech), made.z(speech), rtol=1e-3)
    for rate in (0, -1.0):
        with pytest.raises(UserError, match="is not above 0"):
            enrolment.open_keywords(Model(), again, rate)
    short = enrolment.open_keywords(Model(), again, far=0.05)
    assert short.set_by == {"by": "ordinary speech", "far": 0.05}
    assert short.level == enrol(Model(), ["low", "high"], far=0.05).level
    other = Model()
    other.identity = "m2"
    with pytest.raises(UserError, match="another model"):
        again.check(other)
    value = json.loads((tmp_path / "k.json").read_text())
    for change, words in (
        ({"format": "x"}, "not a file of keywords"),
        ({"version": 1}, "version 1"),
        ({"rows": [[1, 0]]}, "not as expected"),
        ({"tail": [0, 1]}, "not as expected"),
        ({"more": 1}, "not as expected"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps(value | change))
        with pytest.raises(UserError, match=words):
            Keywords.load(tmp_path / "bad.json")


def test_a_label_is_ranked_by_its_own_threshold():
    speech = np.array([[0.5, 0.6]])
    (found,) = rank(speech, np.eye(2), ["a", "b"], 10.0, threshold=np.array([[0.2, 0.7]]))
    assert [row["label"] for row in found] == ["a", "unknown", "b"]
    assert [row["cosine"] for row in found] == pytest.approx([0.5, 0.45, 0.6])
    (same,) = rank(speech, np.eye(2), ["a", "b"], 10.0, threshold=np.array([0.4, 0.4]))
    assert same == rank(speech, np.eye(2), ["a", "b"], 10.0, threshold=0.4)[0]


def test_the_rate_of_false_alarms_is_kept_on_further_speech():
    """Exponential tails, as those of cosines are: from one hour to a tenth of its rate."""
    rng = np.random.default_rng(0)
    for target in (0.5, 5.0, 30.0):
        levels = [level_of_rate(target, 1, rng.exponential(size=200), 1.0) for _ in range(4000)]
        further = 200 * np.exp(-np.array(levels))  # of 200 events in an hour, in expectation
        assert further.mean() == pytest.approx(target, rel=0.1), target
    ordinary = [level_of_rate(target, 4, np.zeros(0), 0.0) for target in (0.5, 5.0)]
    assert ordinary[0] > ordinary[1] > level_of_rate(5.0, 1, np.zeros(0), 0.0)


def test_own_negatives_set_the_level_of_a_stream(tmp_path):
    wave = np.concatenate([part for n in range(40) for part in (tone(900 + 20 * n, 0.4), noise(1))])
    write_audio(tmp_path / "n.wav", wave)
    made = enrol(Model(), ["low", "high"], negatives=[tmp_path / "n.wav"], false_alarms_per_hour=60)
    assert made.set_by["by"] == "negatives" and made.set_by["hours"] > 0.01
    clips = [tone(900 + 20 * n, 0.4) for n in range(40)]
    by_clip = enrol(Model(), ["low", "high"], negatives=clips, far=0.1)
    built_in = enrol(Model(), ["low", "high"], far=0.1)
    assert built_in.set_by == {"by": "ordinary speech", "far": 0.1}
    assert enrol(Model(), ["low"], far=0.1).level < built_in.level
    assert by_clip.set_by == {"by": "negatives", "far": 0.1, "clips": 40}


def test_examples_of_a_folder(tmp_path):
    write_audio(tmp_path / "mine/hey_you/a.wav", tone(500, 0.4))
    write_audio(tmp_path / "mine/stop/b.wav", tone(500, 0.4))
    assert {k: len(v) for k, v in read_examples(tmp_path / "mine").items()} == {
        "hey you": 1,
        "stop": 1,
    }


# -- the protocol ---------------------------------------------------------------------------------

PROTOCOL = Protocol("two", {"low": ("low",), "high": ("high",)}, task="spotting")


@pytest.fixture
def said(tmp_path):
    path = tmp_path / "scene.wav"
    write_audio(path, SCENE)
    rows = [
        Utterance(f"u{n}", str(path), label, start=start, end=end, labels={"label": label})
        for n, (start, end, label) in enumerate(TRUTH)
    ]
    other = Utterance("o", str(path), "so high", start=4.0, end=4.6, labels={"label": "_other_"})
    return [*rows, other]


def test_a_scene_is_judged(said, tmp_path):
    model = Model()
    recordings = open_recordings(model, said, tmp_path / "cache")
    blocks = model.blocks
    found = judge(recordings, WORDS, PROTOCOL)
    assert len(found.right) == 4 and (found.right > 4).all()
    assert found.hours == pytest.approx((len(SCENE) / RATE - 0.6 / 2) / 3600, abs=1e-4)
    assert (found.latency > 0).all() and (found.latency < 1.9).all()
    hits, rate = found.at(found.level(1e-6))
    assert hits.all() and rate == 0
    wrong = [u for u in said if u.id != "u1"]  # what was not said is a false alarm
    again = open_recordings(model, wrong, tmp_path / "cache")
    assert model.blocks == blocks, "the windows were kept"
    fewer = judge(again, WORDS, PROTOCOL)
    assert len(fewer.right) == 3 and len(fewer.false) == len(found.false) + 1
    # A single label hears the other one as itself at some level; as ordinary speech it is left out.
    counted = judge(recordings, only(WORDS, 0), PROTOCOL)
    left_out = counted.ordinary
    assert len(counted.false) > len(left_out.false)
    others = sum(end - start for start, end, label in TRUTH if label != WORDS.labels[0])
    assert counted.hours - left_out.hours == pytest.approx(others / 3600, abs=1e-6)


def test_scores_of_a_set(said, tmp_path):
    model = Model()
    scores = evaluate_spotting(model, said, PROTOCOL, tmp_path / "out", tmp_path / "cache")
    assert scores == json.loads((tmp_path / "out" / SPOTTING).read_text())
    for way in ("ordinary", "alone", "together"):
        assert [one["per_hour"] for one in scores[way]["recall"]] == [0.5, 1.0, 5.0, 10.0]
    assert scores["together"]["recall"][0]["recall"] == 1.0
    missed = scores["together"]["curve"]["missed"]
    assert missed == sorted(missed, reverse=True)
    assert scores["n"] == 4 and scores["latency"]["median"] > 0
    assert scores["reliability"][-1]["right"] == 1.0
    with pytest.raises(UserError, match="no utterance has the label"):
        evaluate_spotting(model, said[:1], PROTOCOL, tmp_path / "out", tmp_path / "cache")


def test_examples_and_sounds_of_another_protocol_are_refused():
    _refuse(Model(), PROTOCOL, "streams", enrol=True)
    words = Protocol("words", PROTOCOL.labels)
    for protocol, name in ((words, "words"), (None, "retrieval")):
        _refuse(Model(), protocol, "test", enrol=False)
        with pytest.raises(UserError, match=f"test:{name}: examples and spoken are for"):
            _refuse(Model(), protocol, "test", enrol=True)


def test_levels_and_reliability():
    found = Found(np.array([9.0, 4.0, -np.inf]), np.array([5.0, 3.0, 1.0]), 1.0, np.zeros(2))
    assert found.at(found.level(0.5))[0].tolist() == [True, False, False]
    assert found.at(found.level(1.0))[0].tolist() == [True, True, False]
    assert found.at(found.level(1.0))[1] == 1.0
    score, right = np.array([0.1, 0.2, 0.9, 1.0, 0.8]), np.array([0, 1, 1, 1, 0], dtype=bool)
    rows = reliability(score, right, [1, 3, 1, 1, 1], bins=2)
    assert rows == [
        {"score": 0.175, "right": 0.75, "n": 2},
        {"score": 0.9, "right": 0.666667, "n": 3},
    ]


def test_unknown_is_below_the_thresholds_of_the_others():
    """What is said of the unknown label's words does not matter: its text is never compared."""
    rng = np.random.default_rng(0)
    ordinary = np.repeat(rng.normal(size=(80, 16)), 5, axis=0)  # windows that overlap are alike
    ordinary /= np.linalg.norm(ordinary, axis=1, keepdims=True)
    rows = np.eye(3, 16)
    protocol = Protocol("p", {"a": ("a",), "b": ("b",), "u": ("u",)}, unknown="u")
    said = [Utterance(str(n), "x", None, labels={"label": w}) for n, w in enumerate("abuu")]
    speech = np.stack([rows[0], rows[1], rows[2], ordinary[3]])
    text = dict(zip("abu", rows, strict=True))

    def encode(texts):
        return np.stack([text[one] for one in texts])

    scored = score_zeroshot(speech, said, protocol, encode, ordinary, 20.0)
    assert sum(row["n"] for row in scored.scores["reliability"]) == 4
    assert all(row["right"] == 1.0 for row in scored.scores["reliability"])
    assert [protocol.ids[k] for k in scored.ranking[:, 0]] == ["a", "b", "u", "u"]
    assert (scored.class_scores[:, 2] == 0).all()
    with pytest.raises(UserError, match="needs ordinary speech"):
        score_zeroshot(speech, said, protocol, encode)
