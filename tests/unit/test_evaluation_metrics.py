"""Figures of merit against hand-made and independent computations."""

from __future__ import annotations

import numpy as np
import pytest

from speechcwcl.errors import UserError
from speechcwcl.evaluation import metrics


def test_interval_agrees_with_a_plain_bootstrap():
    correct = np.arange(200) % 10 < 7
    low, high = metrics.accuracy_interval(correct)
    random = np.random.default_rng(9)
    plain = random.choice(correct, (20_000, 200)).mean(axis=1)
    assert low == pytest.approx(np.quantile(plain, 0.025), abs=0.006)
    assert high == pytest.approx(np.quantile(plain, 0.975), abs=0.006)


def test_interval_does_not_depend_on_the_order():
    correct = np.random.default_rng(0).random(500) < 0.6
    shuffled = np.random.default_rng(1).permutation(correct)
    assert metrics.accuracy_interval(correct) == metrics.accuracy_interval(shuffled)


def test_interval_where_all_or_none_are_right_is_the_exact_bound():
    low, high = metrics.accuracy_interval(np.ones(20, dtype=bool))
    assert high == 1.0
    assert low**20 == pytest.approx(0.025)
    assert metrics.accuracy_interval(np.zeros(20, dtype=bool)) == pytest.approx((0.0, 1 - low))


def test_paired_difference_is_narrower_than_two_intervals_and_signed():
    random = np.random.default_rng(0)
    first = random.random(1000) < 0.7
    second = first.copy()
    second[np.flatnonzero(~first)[:30]] = True
    value, low, high = metrics.paired_difference(first, second)
    assert value == pytest.approx(0.03)
    assert 0 < low < 0.03 < high < 0.05
    assert metrics.paired_difference(second, first)[0] == pytest.approx(-0.03)
    assert metrics.paired_difference(first, first) == (0.0, 0.0, 0.0)


def test_paired_difference_needs_the_same_utterances():
    with pytest.raises(UserError, match="cannot pair 2 with 3"):
        metrics.paired_difference(np.ones(2, bool), np.ones(3, bool))


def test_class_figures_by_hand():
    targets = np.array([0, 0, 0, 1, 1, 2])
    predictions = np.array([0, 0, 1, 1, 0, 0])
    figures = metrics.class_figures(targets, predictions, 4)
    confusion = figures.confusion
    assert confusion.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert figures.support.tolist() == [3, 2, 1, 0]
    assert figures.precision == pytest.approx([0.5, 0.5, 0, 0])
    assert figures.recall == pytest.approx([2 / 3, 0.5, 0, 0])
    assert figures.f1 == pytest.approx([4 / 7, 0.5, 0, 0])
    # the fourth class does not occur, so it is not averaged in
    assert figures.macro_f1 == pytest.approx((4 / 7 + 0.5 + 0) / 3)


def test_top_confusions():
    confusion = np.array([[9, 2, 0], [5, 1, 0], [0, 1, 0]])
    assert metrics.top_confusions(confusion) == [(1, 0, 5), (0, 1, 2), (2, 1, 1)]
    assert metrics.top_confusions(confusion, 1) == [(1, 0, 5)]
    assert metrics.top_confusions(np.eye(3, dtype=int)) == []


def test_equal_scores_go_to_the_first_column():
    scores = np.array([[0.5, 0.7, 0.7, 0.1]])
    assert metrics.top_columns(scores, 3).tolist() == [[1, 2, 0]]
    # more columns than the insertion sort that hides an unstable order on short rows
    assert metrics.top_columns(np.ones((1, 200)), 200)[0].tolist() == list(range(200))


def test_cosines_do_not_depend_on_the_chunk():
    random = np.random.default_rng(0)
    rows = metrics.unit_rows(random.standard_normal((101, 64)).astype(np.float32), "rows")
    columns = metrics.unit_rows(random.standard_normal((7, 64)).astype(np.float32), "columns")
    whole = metrics.cosine_scores(rows, columns)
    for chunk in (1, 3, 100):
        assert np.array_equal(metrics.cosine_scores(rows, columns, chunk), whole)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([[1.0, np.nan]], r"not finite \(first: row 0\)"),
        ([[1.0, 0.0], [0.0, 0.0]], r"all zero \(first: row 1\)"),
        ([1.0, 2.0], "expected a matrix"),
    ],
)
def test_bad_embeddings_are_refused(rows, says):
    with pytest.raises(UserError, match=f"speech: .*{says}"):
        metrics.unit_rows(np.array(rows), "speech")


def test_rank_summary():
    found = metrics.rank_summary(np.array([1, 1, 1.5, 4, 11]))
    assert found == {"R@1": 0.4, "R@5": 0.8, "R@10": 0.8, "median_rank": 1.5}
