import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starkiln.evaluate.passk import binomial, interval, pass_at_k, score


@given(st.data())
def test_equals_brute_force(data):
    n = data.draw(st.integers(1, 9))
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    picks = list(itertools.combinations(range(n), k))
    expected = sum(any(i < correct for i in pick) for pick in picks) / len(picks)
    assert pass_at_k(n, correct, k) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 200), st.data())
def test_equals_the_binomial_form_where_factorials_are_huge(n, data):
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    expected = 1 - math.comb(n - correct, k) / math.comb(n, k)
    assert pass_at_k(n, correct, k) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("n", "correct", "k"), [(3, 0, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_nonsense_is_refused(n, correct, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, correct, k)


def test_interval_covers_as_often_as_it_says():
    """Of 60 samples of 164 problems at a known rate, about 95% give an interval around it."""
    from starkiln.core import keyed

    inside = 0
    for trial in range(60):
        values = (keyed.generator("trial", trial).random(164) < 0.33).astype(float)
        low, high = interval(values, trial)
        inside += low <= 0.33 <= high
    assert 51 <= inside <= 60


def test_score_is_the_mean_over_problems_and_repeats():
    counts = [(4, 4), (4, 0), (2, 1), (2, 0)]
    one = score(counts, 1, 7)
    assert one == score(counts, 1, 7)
    assert one["score"] == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert one["low"] < one["score"] < one["high"]


def test_nothing_right_or_nothing_wrong_is_not_certainty():
    """The bounds of the exact binomial: 0 of 9, and 9 of 9."""
    all_, none = score([(5, 5)] * 9, 1), score([(5, 0)] * 9, 1)
    assert (none["low"], all_["high"]) == (0.0, 1.0)
    assert none["high"] == pytest.approx(0.3363, abs=1e-4)
    assert all_["low"] == pytest.approx(1 - none["high"])


@given(st.integers(1, 60), st.data())
def test_the_binomial_s_interval_by_its_definition(n, data):
    correct = data.draw(st.integers(0, n))
    low, high = binomial(n, correct)

    def between(first, last, p):
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(first, last + 1))

    assert low == 0 if correct == 0 else between(correct, n, low) == pytest.approx(0.025)
    assert high == 1 if correct == n else between(0, correct, high) == pytest.approx(0.025)


@given(st.integers(1, 40), st.data())
def test_one_problem_is_as_sure_as_its_samples(n, data):
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    found = score([(n, correct)], k)
    assert 0 <= found["low"] <= found["score"] <= found["high"] <= 1
    assert found["low"] < found["high"] or k > 1  # of many draws all but certain
    low, high = binomial(n, correct)
    assert found["low"] == pytest.approx(1 - (1 - low) ** k)
    once = score([(n, correct)], 1)
    assert (once["low"], once["high"]) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ([(48, 8)], 0.0748, 0.3022),  # scipy.stats.binomtest(8, 48).proportion_ci()
        ([(2, 1)] * 60, 0.4074, 0.5926),  # binomtest(60, 120)
        ([(2, 1), (4, 2)] * 10, 0.3680, 0.6320),  # binomtest(30, 60)
        ([(48, 48)], 0.9260, 1.0),
    ],
)
def test_equal_values_are_not_certainty(counts, low, high):
    found = score(counts, 1)
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=5e-4)


def test_as_many_trials_as_there_are_draws_of_k():
    found = score([(10, 1)] * 60, 5)
    assert (found["low"], found["score"], found["high"]) == pytest.approx(
        (0.4074, 0.5, 0.5926), abs=5e-4
    )
    assert score([(10, 1)], 10)["low"] == pytest.approx(0.025)  # one trial, which went well
