"""Speech-text retrieval against a naive count, with equal texts, ties and chunks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from speechcwcl.errors import UserError
from speechcwcl.evaluation.metrics import unit_rows
from speechcwcl.evaluation.retrieval import (
    evaluate_retrieval,
    retrieval_scores,
    right_ranks,
    unique_texts,
)

N, M, DIM = 60, 25, 16


@pytest.fixture
def made():
    random = np.random.default_rng(0)
    text = unit_rows(random.standard_normal((M, DIM)), "text")
    owner = np.concatenate([np.arange(M), random.integers(0, M, N - M)])
    speech = unit_rows(text[owner] + 0.5 * random.standard_normal((N, DIM)), "speech")
    return speech, text, owner


def test_ranks_against_a_naive_count(made):
    speech, text, owner = made
    ranks, best, score = right_ranks(speech, text, owner, np.arange(M))
    back = right_ranks(text, speech, np.arange(M), owner)[0]
    cosine = speech @ text.T
    for i in range(N):
        order = sorted(range(M), key=lambda j: -cosine[i, j])
        assert ranks[i] == order.index(owner[i]) + 1
        assert best[i] == order[0]
        assert score[i] == pytest.approx(cosine[i].max(), abs=1e-6)
    for j in range(M):
        wrong = [cosine[i, j] for i in range(N) if owner[i] != j]
        own = max(cosine[i, j] for i in range(N) if owner[i] == j)
        assert back[j] == 1 + sum(value > own for value in wrong)
    assert 1 < ranks.mean() < M / 2  # neither trivial nor chance


@pytest.mark.parametrize("cells", [1, 100, 777])
def test_chunks_change_nothing(made, cells):
    speech, text, owner = made
    for sides in ((speech, text, owner, np.arange(M)), (text, speech, np.arange(M), owner)):
        for one, two in zip(right_ranks(*sides), right_ranks(*sides, cells), strict=True):
            assert np.array_equal(one, two)


def test_equal_texts_are_one_text():
    unique, owner = unique_texts(["stop", "go on", "Stop", "go  on", "go on"])
    assert unique == ["go on", "Stop"]
    assert owner.tolist() == [1, 0, 1, 0, 0]


def test_finding_another_recording_of_the_same_words_is_right(tmp_path):
    one, two = np.eye(2)
    vectors = {"a": one, "b": two}
    speech = np.stack([one, one, two])
    scores = evaluate_retrieval(
        speech, ["a", "A", "b"], lambda ts: np.stack([vectors[t.lower()] for t in ts]), tmp_path
    )
    assert scores["texts"] == 2
    assert scores["speech_to_text"]["R@1"] == 1.0
    assert scores["text_to_speech"]["R@1"] == 1.0


def test_a_collapsed_model_is_near_chance_and_not_perfect(tmp_path):
    texts = [f"text {i}" for i in range(40)]
    scores = evaluate_retrieval(np.ones((40, 8)), texts, lambda ts: np.ones((len(ts), 8)), tmp_path)
    for way in ("speech_to_text", "text_to_speech"):
        assert scores[way]["R@10"] == 0.0
        assert scores[way]["median_rank"] == 20.5


def test_figures_from_embeddings_that_are_there_already(made, tmp_path):
    speech, text, owner = made
    texts = [f"text {j:02d}" for j in owner]
    table = {f"text {j:02d}": text[j] for j in range(M)}
    wanted = evaluate_retrieval(
        speech, texts, lambda ts: np.stack([table[t] for t in ts]), tmp_path
    )
    assert retrieval_scores(speech, text[owner], texts) == wanted


def test_files(tmp_path, made):
    speech, text, owner = made
    texts = [f"text {j:02d}" for j in owner]
    scores = evaluate_retrieval(
        speech,
        texts,
        lambda ts: np.stack([text[int(t[-2:])] for t in ts]),
        tmp_path,
        ids=[f"u{i}" for i in range(N)],
    )
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    lines = (tmp_path / "predictions.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["id", "text", "rank", "best_text", "best_score"]
    assert lines[1].startswith("u0\ttext 00\t")
    found = np.mean([float(line.split("\t")[2]) <= 1 for line in lines[1:]])
    assert scores["speech_to_text"]["R@1"] == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize(
    ("texts", "says"),
    [(["a"], "2 speech embeddings, 1 texts"), (["a", " "], "utterance '1' has no text")],
)
def test_bad_texts(texts, says, tmp_path):
    with pytest.raises(UserError, match=says):
        evaluate_retrieval(np.eye(2), texts, lambda ts: np.eye(len(ts)), tmp_path)


def test_no_utterance_and_another_models_texts(tmp_path):
    with pytest.raises(UserError, match="no utterance"):
        evaluate_retrieval(np.zeros((0, 2)), [], lambda ts: np.zeros((0, 2)), tmp_path)
    with pytest.raises(UserError, match="different models"):
        evaluate_retrieval(np.eye(2), ["a", "b"], lambda ts: np.eye(3)[:2], tmp_path)
