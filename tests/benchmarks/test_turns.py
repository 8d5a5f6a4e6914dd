"""The statistics of comparisons: intervals that hold what they say, alarms that are seldom false and find a tenth."""

import math

import numpy as np
import pytest

from tests.benchmarks import compare
from tests.benchmarks.turns import interval, ratio, spread


def test_an_interval_is_student_s_on_logarithms():
    found = interval([1.0, math.e**2], confidence=0.5, alarm=0.25)
    # Mean log 1, standard error 1; the quartile of Student's t with one degree of freedom is 1.
    assert found == pytest.approx((math.e, 1.0, math.e**2, 1.0))


def test_an_interval_needs_two_positive_ratios():
    for given in ([1.0], [1.0, 0.0]):
        with pytest.raises(ValueError, match="two positive ratios"):
            interval(given)


def test_a_ratio_is_taken_turn_by_turn():
    pairs = [
        ({"round": [1.0, 1.0, 9.0]}, {"round": [1.2]}),
        ({"round": [3.0]}, {"round": [3.6, 3.6, 30.0]}),
        ({"round": [1.0]}, {"round": [2.0]}),
    ]
    assert ratio(pairs) == pytest.approx(1.2)


def test_a_spread_tells_median_and_quartiles():
    assert spread([0.001, 0.002, 0.003]) == "2.00 (1.00..3.00)"
    assert spread([0.005]) == "5.00 (5.00..5.00)"


def runs(slower, noise, *, count, heavy):
    """How many of `count` made-up comparisons of three cases raise an alarm; ratios scatter by `noise` from start to start."""
    source = np.random.default_rng(1)
    alarms = 0
    for _ in range(count):
        scatter = source.standard_t(3, (3, compare.STARTS)) if heavy else source.standard_normal((3, compare.STARTS))
        ratios = {name: list(slower * np.exp(noise * row)) for name, row in enumerate(scatter)}
        alarms += bool(compare.judge(ratios)[1])
    return alarms


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("noise", [0.005, 0.03, 0.2])
def test_equal_commits_and_those_within_the_margin_raise_an_alarm_in_one_run_of_a_hundred_at_most(noise, heavy):
    assert runs(1.0, noise, count=500, heavy=heavy) <= 5
    assert runs(1.0 + compare.MARGIN, noise, count=500, heavy=heavy) <= 12  # at a rate of 0.01 more come once in 500 tests


def test_a_tenth_slower_is_found():
    assert runs(1.1, 0.01, count=200, heavy=False) >= 195
    assert runs(1.1, 0.02, count=200, heavy=False) >= 150
