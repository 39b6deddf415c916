"""Zero-shot scoring: the classifier, its figures, and that batches and order do not matter."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from speechcwcl.data.utterance import Utterance
from speechcwcl.errors import UserError
from speechcwcl.evaluation.scores import (
    accuracy,
    build_classifier,
    evaluate_zeroshot,
    score_zeroshot,
)
from speechcwcl.zeroshot.protocol import Protocol

DIM = 48
WORDS = ("red", "green", "blue", "white", "black", "brown", "pink")
COLOURS = Protocol(
    name="colours",
    labels={word: (word,) for word in WORDS},
    templates=("{}", "it is {}", "the colour {}"),
)


def encode(texts):
    return np.stack([_vector(text) for text in texts])


def _vector(text):
    """The words' own vectors added up: related texts are near each other."""
    total = np.zeros(DIM)
    for word in text.split():
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
        total += np.random.default_rng(seed).standard_normal(DIM)
    return (total / np.linalg.norm(total)).astype(np.float32)


def make(n=70, noise=2.0, seed=0):
    said = [
        Utterance(f"u{i:03d}", "", f"a {WORDS[i % 7]} car", labels={"label": WORDS[i % 7]})
        for i in range(n)
    ]
    random = np.random.default_rng(seed).standard_normal((n, DIM)) / np.sqrt(DIM)
    return (encode([s.text for s in said]) + noise * random).astype(np.float32), said


def test_classifier_is_the_renormalised_mean_of_templates_and_synonyms():
    protocol = Protocol("p", {"a": ("red", "pink"), "b": ("blue",)}, ("{}", "it is {}"))
    got = build_classifier(protocol, encode)
    one = (_vector("red") + _vector("pink") + _vector("it is red") + _vector("it is pink")) / 4
    two = (_vector("blue") + _vector("it is blue")) / 2
    wanted = np.stack([one / np.linalg.norm(one), two / np.linalg.norm(two)])
    assert np.allclose(got, wanted, atol=1e-6)


def test_a_label_with_many_synonyms_weighs_no_more_and_texts_are_made_unit_norm():
    protocol = Protocol("p", {"a": ("red", "pink", "white"), "b": ("blue",)})
    scaled = build_classifier(protocol, lambda texts: 7 * encode(texts))
    assert np.allclose(np.linalg.norm(scaled, axis=1), 1)
    assert np.allclose(scaled, build_classifier(protocol, encode), atol=1e-6)


def test_figures_by_hand():
    said = [
        Utterance(str(i), "", labels={"label": label})
        for i, label in enumerate(["red", "red", "blue"])
    ]
    protocol = Protocol("p", {"red": ("red",), "green": ("green",), "blue": ("blue",)})
    speech = encode(["red", "green", "blue"])
    scores = score_zeroshot(speech, said, protocol, encode).scores
    assert scores["n"] == 3
    assert scores["top1"] == pytest.approx(2 / 3, abs=1e-6)
    assert scores["top5"] == 1.0
    assert scores["chance"] == pytest.approx(1 / 3, abs=1e-6)
    assert (scores["classes"], scores["classes_present"]) == (3, 2)
    assert (scores["majority_label"], scores["majority"]) == ("red", pytest.approx(2 / 3, abs=1e-6))
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1) / 2, abs=1e-6)
    assert scores["text_bound"] is None
    assert scores["cosine_to_text"] is None


def test_text_bound_and_cosine():
    speech, said = make(noise=0.0)
    said[0].text = "a blue car"  # its label is red: even the true words mislead
    said[1].text = None
    scores = score_zeroshot(speech, said, COLOURS, encode).scores
    assert scores["text_bound"]["n"] == 69
    assert scores["text_bound"]["top1"] == pytest.approx(68 / 69, abs=1e-6)
    assert scores["top1"] == 1.0
    assert scores["cosine_to_text"]["median"] == pytest.approx(1.0, abs=1e-6)
    assert scores["cosine_to_text"]["mean"] < 1.0


def test_bound_separates_wording_from_alignment():
    """With perfect alignment the score is the bound, however bad the wording."""
    speech, said = make(noise=0.0)
    bad = dataclasses.replace(COLOURS, labels={w: (f"{w[::-1]} {w[0]}",) for w in WORDS})
    scores = score_zeroshot(speech, said, bad, encode).scores
    assert scores["top1"] == scores["text_bound"]["top1"] < 0.9


def test_template_sensitivity_is_each_template_alone():
    speech, said = make(noise=3.0)
    protocol = dataclasses.replace(COLOURS, templates=("{}", "it is {}", "not {}"))
    following = dict(zip(WORDS, WORDS[1:] + WORDS[:1], strict=True))

    def encode_not(texts):
        return encode([following[t[4:]] if t.startswith("not ") else t for t in texts])

    scores = score_zeroshot(speech, said, protocol, encode_not).scores["templates"]
    for one in scores["each"]:
        alone = dataclasses.replace(protocol, templates=(one["template"],))
        wanted = score_zeroshot(speech, said, alone, encode_not).scores
        assert one["top1"] == wanted["top1"]
        assert one["text_bound"] == wanted["text_bound"]["top1"]
    assert [one["text_bound"] for one in scores["each"]] == [1.0, 1.0, 0.0]
    values = [one["top1"] for one in scores["each"]]
    assert (scores["min"], scores["max"]) == (min(values), max(values))
    assert scores["mean"] == pytest.approx(np.mean(values), abs=1e-6)


def test_same_bytes_for_any_order_of_the_set(tmp_path):
    speech, said = make(noise=2.5)
    order = np.random.default_rng(3).permutation(len(said))
    evaluate_zeroshot(speech, said, COLOURS, encode, tmp_path / "a")
    evaluate_zeroshot(speech[order], [said[i] for i in order], COLOURS, encode, tmp_path / "b")
    evaluate_zeroshot(speech, said, COLOURS, encode, tmp_path / "c")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert "scores.json" in names
    assert "predictions.tsv" in names
    for name in names:
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "c" / name).read_bytes(), name
        other = (tmp_path / "b" / name).read_bytes()
        if name == "predictions.tsv":  # in the order of the set
            assert sorted(first.splitlines()) == sorted(other.splitlines())
        else:
            assert first == other, name


def test_embedding_in_parts_gives_the_same_figures():
    speech, said = make(noise=2.5)
    whole = score_zeroshot(speech, said, COLOURS, encode)
    parts = [score_zeroshot(speech[i : i + 1], said[i : i + 1], COLOURS, encode) for i in range(70)]
    ranking = np.concatenate([part.ranking for part in parts])
    scores = np.concatenate([part.class_scores for part in parts])
    assert np.array_equal(ranking, whole.ranking)
    assert np.array_equal(scores, whole.class_scores)


def test_every_text_is_embedded_once():
    seen = []

    def counting(texts):
        seen.extend(texts)
        return encode(texts)

    speech, said = make()
    score_zeroshot(speech, said, COLOURS, counting)
    assert len(seen) == len(set(seen)) == 7 * 3 + 7


def test_ignored_utterances_are_left_out_and_counted():
    speech, said = make()
    protocol = dataclasses.replace(COLOURS, labels={w: (w,) for w in WORDS[:6]}, ignore=("pink",))
    result = score_zeroshot(speech, said, protocol, encode)
    assert (result.scores["n"], result.scores["ignored"]) == (60, 10)
    kept, wanted = protocol.assign(said)
    assert len(said) - len(kept) == 10
    quick = accuracy(speech[kept], build_classifier(protocol, encode), wanted)
    assert quick == pytest.approx(result.scores["top1"], abs=1e-6)


def test_similarity_sample_is_sorted_by_class_and_small():
    speech, said = make(n=7 * 200)
    result = score_zeroshot(speech, said, COLOURS, encode)
    labels = result.targets[result.sample]
    assert len(labels) == 420
    assert (np.diff(labels) >= 0).all()
    assert np.bincount(labels).tolist() == [60] * 7
    order = np.random.default_rng(1).permutation(len(said))
    other = score_zeroshot(speech[order], [said[i] for i in order], COLOURS, encode)
    ids = [result.utterances[i].id for i in result.sample]
    assert ids == [other.utterances[i].id for i in other.sample]
    assert ids[:60] != sorted(s.id for s in said if s.labels["label"] == WORDS[0])[:60]
    contrast = result.scores["similarity"]
    assert contrast["within"] > contrast["between"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda speech: speech[:-1], "69 speech embeddings for 70 utterances"),
        (lambda speech: speech[:, :-1], "47 dimensions, text embeddings 48"),
        (lambda speech: np.where(np.arange(70)[:, None] == 4, np.nan, speech), "row 4"),
    ],
)
def test_embeddings_that_do_not_fit(change, says, tmp_path):
    speech, said = make()
    with pytest.raises(UserError, match=says):
        evaluate_zeroshot(change(speech), said, COLOURS, encode, tmp_path / "out")
    assert not (tmp_path / "out").exists()
