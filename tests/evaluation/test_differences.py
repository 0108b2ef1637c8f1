"""Paired differences against SciPy's paired t-test."""

import math

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from hf_mmalign.evaluation.differences import Difference, holds_among, paired_difference
from hf_mmalign.evaluation.scores import Score


@pytest.mark.parametrize("n", [3, 4, 6, 20])
def test_the_interval_is_that_of_the_paired_t_test(n):
    rng = np.random.default_rng(n)
    directions = set()
    for shift in (-0.3, -0.05, 0.0, 0.05, 0.3):
        reference = rng.normal(0.7, 0.2, n)
        values = reference + rng.normal(shift, 0.05, n)
        found = paired_difference(Score(tuple(values)), Score(tuple(reference)))
        test = ttest_rel(values, reference)
        assert found.p_value == pytest.approx(test.pvalue)
        assert found.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
        assert found.direction == (int(np.sign(test.statistic)) if test.pvalue < 0.05 else 0)
        directions.add(found.direction)
    assert directions == {-1, 0, 1}


def test_few_pairs_say_nothing():
    none, one, two = (paired_difference(Score((0.9,) * n), Score((0.1,) * n)) for n in (0, 1, 2))
    assert (str(none), str(one), str(two)) == ("–", "+0.800", "+0.800 ± 0.000")
    assert math.isnan(none.mean)
    assert [each.direction for each in (none, one, two)] == [0, 0, 0]
    assert none.to_dict() == {
        "mean": None,
        "std": None,
        "n": 0,
        "interval": [None, None],
        "p_value": None,
        "values": [],
    }


def test_equal_scores_differ_in_no_direction():
    equal = paired_difference(Score((0.1, 0.2, 0.7)), Score((0.1, 0.2, 0.7)))
    assert (equal.interval, equal.direction, str(equal)) == ((0.0, 0.0), 0, "+0.000 ± 0.000")


def with_p(p_value: float) -> Difference:
    """Four pairs whose test has this p-value."""
    spread = np.array([-1.0, 1.0, -1.0, 1.0])
    shift = t.isf(p_value / 2, 3) * spread.std(ddof=1) / 2
    return Difference(tuple(spread + shift))


def test_what_holds_among_several_by_holm():
    """Against an example by hand: 0.05 / 4 = 0.0125, 0.05 / 3 = 0.0167, 0.05 / 2 = 0.025."""
    assert holds_among([with_p(p) for p in (0.04, 0.01, 0.03, 0.012)]) == [False, True, False, True]
    assert holds_among([with_p(p) for p in (0.02, 0.001, 0.016, 0.049)]) == [True, True, True, True]
    assert holds_among([with_p(p) for p in (0.013, 0.013, 0.013, 0.013)]) == [False] * 4
    assert holds_among([with_p(0.04)]) == [True]
    assert holds_among([]) == []
    # What cannot be tested takes no part.
    few, equal = Difference((0.5, 0.5)), Difference((0.0, 0.0, 0.0))
    assert holds_among([few, with_p(0.04)]) == [False, True]
    assert holds_among([equal, with_p(0.04)]) == [False, False]
    assert holds_among([Difference((0.5, 0.5, 0.5)), with_p(0.04)]) == [True, True]
