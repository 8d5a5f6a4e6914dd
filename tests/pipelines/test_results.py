"""Ranking, means over fresh seeds, and the paired comparison, against figures worked out by hand."""

import math

import pytest
from scipy import stats

from pipelines.results import CONFIRM, SCREEN, SPENT, Row, compare, estimates, rank


def row(number, score, *, phase=SCREEN, configuration=None, seed=0, reason=SPENT):
    return Row(
        number=number,
        configuration=number if configuration is None else configuration,
        phase=phase,
        run_id=f"run{number}",
        point={},
        variant="hinge",
        step_ratio="1:1",
        seed=seed,
        status="FINISHED",
        reason=reason,
        scores={"score": score},
        kimg=1.0,
        d_steps=1,
        g_steps=1,
        device_seconds=1.0,
    )


def test_only_complete_trials_with_a_finite_score_are_ranked():
    rows = [row(0, 0.2), row(1, 0.9, reason="asha at 5 kimg"), row(2, math.nan), row(3, 0.5), row(4, 0.99, reason="diverged: x")]
    assert [found.number for found in rank(rows, "score", higher=True)] == [3, 0]
    assert [found.number for found in rank(rows, "score", higher=False)] == [0, 3]
    assert rank(rows, "kid", higher=True) == []


def repeated(values, configuration, first):
    return [row(first + index, value, phase=CONFIRM, configuration=configuration, seed=index + 1) for index, value in enumerate(values)]


def test_means_have_students_intervals_and_leave_the_screening_out():
    rows = [row(7, 0.99), *repeated([0.5, 0.6, 0.7], 7, 10)]
    (found,) = estimates(rows, "score", higher=True)
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # t(0.975, 2) times the standard error
    assert (found.configuration, found.seeds) == (7, 3)
    assert found.mean == pytest.approx(0.6, rel=1e-12)
    assert (found.low, found.high) == (pytest.approx(0.6 - half, rel=1e-9), pytest.approx(0.6 + half, rel=1e-9))


def test_one_seed_gives_no_interval():
    (found,) = estimates(repeated([0.5], 7, 10), "score", higher=True)
    assert found.mean == 0.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_configurations_are_ordered_by_their_means_once_they_have_as_many_seeds():
    rows = [*repeated([0.5, 0.6], 1, 10), *repeated([0.8, 0.7], 2, 20), *repeated([0.95], 3, 30)]
    assert [found.configuration for found in estimates(rows, "score", higher=True)] == [2, 1, 3]
    assert [found.configuration for found in estimates(rows, "score", higher=False)] == [1, 2, 3]


def test_the_comparison_is_the_paired_t_test_over_common_seeds():
    left, right = [0.50, 0.62, 0.71, 0.55], [0.45, 0.60, 0.65, 0.54]
    rows = [*repeated(left, 1, 10), *repeated([*right, 0.9], 2, 20)]
    found = compare(rows, "score", 1, 2)
    expected = stats.ttest_rel(left, right)
    interval = expected.confidence_interval(0.95)
    assert found.seeds == 4
    assert found.difference == pytest.approx(0.035, rel=1e-9)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == (pytest.approx(interval.low, rel=1e-9), pytest.approx(interval.high, rel=1e-9))


def test_one_common_seed_compares_nothing():
    assert compare([*repeated([0.5], 1, 10), *repeated([0.4, 0.3], 2, 20)], "score", 1, 2) is None


@pytest.mark.parametrize(("right", "p"), [([0.5, 0.5], 1.0), ([0.25, 0.25], 0.0)])
def test_differences_without_any_spread_have_a_defined_p(right, p):
    assert compare([*repeated([0.5, 0.5], 1, 10), *repeated(right, 2, 20)], "score", 1, 2).p == p
