import pytest

from tests.benchmarks.overhead import median_ratio, over_starts, seconds_per_step, verdict


def test_only_intervals_that_lie_whole_within_a_turn_count():
    times = [0.0, 1.0, 2.0, 7.0, 8.5, 10.0, 30.0]
    turns = [(0.5, 2.5), (6.9, 10.1), (20.0, 25.0), (29.0, 31.0)]
    assert seconds_per_step(times, turns, 10) == [0.1, 0.15, None, None]


def test_a_ratio_is_the_median_of_pairs_and_rounds_without_one_are_left_out():
    below = [1.0, 2.0, 4.0, None, 8.0, 1.0]
    above = [1.5, 3.0, 6.0, 9.0, 12.0, None]
    assert median_ratio(above, below) == pytest.approx((1.5, 1.5, 1.5))
    with pytest.raises(RuntimeError, match="no turn held a whole interval"):
        median_ratio([None], [1.0])


def test_the_interval_of_a_ratio_covers_its_median_and_narrows_with_more_rounds():
    ratios = [0.9, 1.1, 1.0, 1.05, 0.95, 1.2, 0.8, 1.02]
    middle, low, high = median_ratio(ratios, [1.0] * 8)
    assert middle == pytest.approx(1.01)
    assert 0.8 <= low < middle < high <= 1.2
    _, lower, higher = median_ratio(ratios * 16, [1.0] * 128)
    assert higher - lower < 0.5 * (high - low)


def test_the_interval_of_several_starts_is_that_of_their_ratios_and_not_of_their_rounds():
    once = ([1.1, 1.1, 1.1], [1.0, 1.0, 1.0])
    assert over_starts([once]) == (pytest.approx(1.1), pytest.approx(1.1), pytest.approx(1.1), [pytest.approx(1.1)])
    ratio, low, high, each = over_starts([once, ([0.9] * 3, [1.0] * 3), ([1.0] * 3, [1.0] * 3)])
    assert each == pytest.approx([1.1, 0.9, 1.0])
    assert ratio == pytest.approx((1.1 * 0.9) ** (1 / 3))
    assert low < 0.9 < 1.1 < high


def test_an_interval_decides_only_where_it_lies_on_one_side_of_the_limit():
    assert verdict(0.97, 1.02) == "kept"
    assert verdict(1.021, 1.1) == "not kept"
    assert verdict(0.99, 1.05) == "undecided"
