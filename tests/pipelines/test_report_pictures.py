"""The pictures of `raygan report`, and the numbers in them."""

import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image

from pipelines.reports import curves as curves_module
from pipelines.reports import plots, summaries
from pipelines.results import SPENT, Curve
from tests.pipelines.findings import curve, drawn, found, screened, stopped, trial


def brute_force(values, share, *, higher):
    """Mean and lower quantile of the best over all subsets, for each size."""
    pick, means, quantiles = max if higher else min, [], []
    for size in range(1, len(values) + 1):
        bests = sorted(pick(subset) for subset in itertools.combinations(values, size))
        means.append(sum(bests) / len(bests))
        quantiles.append(bests[math.ceil(share * len(bests) - 1e-9) - 1])
    return means, quantiles


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_best_of_n_is_the_mean_and_the_quantile_over_all_subsets(higher, share):
    values = [0.3, 0.1, 0.9, 0.4, 0.4, -0.2, 0.75]
    means, quantiles = brute_force(values, share, higher=higher)
    assert summaries.expected_best(values, higher=higher) == pytest.approx(means, abs=1e-12)
    assert summaries.quantile_of_best(values, share, higher=higher).tolist() == quantiles


def test_ten_values_have_their_lowest_tenth_at_the_smallest():
    values = [float(value) for value in range(10)]
    assert summaries.quantile_of_best(values, 0.1, higher=True)[0] == 0.0
    assert summaries.quantile_of_best(values, 0.9, higher=True)[0] == 8.0
    assert summaries.expected_best(values, higher=True)[[0, -1]].tolist() == [4.5, 9.0]


def test_enough_is_the_first_n_with_nine_tenths_of_the_gain():
    assert summaries.enough(np.array([0.0, 5.0, 8.9, 9.0, 10.0])) == 4
    assert summaries.enough(np.array([3.0, 1.1, 1.0])) == 2
    assert summaries.enough(np.array([2.0, 2.0])) == 1


@pytest.mark.parametrize("higher", [True, False])
def test_the_front_is_what_no_other_complete_trial_beats(higher):
    random = np.random.default_rng(0)
    rows = [
        trial(index, score=float(random.integers(8)), device_seconds=float(random.integers(8)), reason=SPENT if index % 5 else "stopped")
        for index in range(60)
    ]
    complete = [row for row in rows if row.complete]
    sign = 1.0 if higher else -1.0

    def beaten(row):
        mine = (row.device_seconds, -sign * row.scores["score"])
        return any(
            (other.device_seconds, -sign * other.scores["score"]) != mine
            and other.device_seconds <= mine[0]
            and -sign * other.scores["score"] <= mine[1]
            for other in complete
        )

    expected = {row.number for row in complete if not beaten(row)}
    front = summaries.front(rows, "score", higher=higher)
    assert {row.number for row in front} == expected
    assert 1 < len(front) < 20
    assert [row.device_seconds for row in front] == sorted(row.device_seconds for row in front)


def test_a_square_of_the_heatmap_has_the_median_and_the_number_of_its_complete_trials():
    rows = [
        *screened(),
        *(trial(10 + seed, "r1", "1:1", value, seed=seed) for seed, value in enumerate((0.9, 0.86))),
        stopped(12, "r1", "1:1", 0.1),
        stopped(13, "r1", "1:1", 0.1, status="FAILED", reason="diverged: NaN"),
    ]
    cells = summaries.cells(found(rows))
    assert cells.rows == ["r1", "wgan", "dcgan"]
    assert cells.columns == ["1:2", "1:1", "5:1"]
    assert cells.squares["r1", "1:1"] == summaries.Cell(0.86, 3, True, 100.0, 100.0, {"diverged": 1})
    assert cells.squares["wgan", "5:1"] == summaries.Cell(0.9, 1, False, 10.0, 10.0, {})
    assert cells.squares["dcgan", "1:1"].words == {"collapse": 1}
    assert cells.squares["dcgan", "5:1"].words == {"diverged": 1}
    assert cells.squares["r1", "1:2"].words == {"refused": 1}
    assert ("wgan", "1:2") not in cells.squares
    assert cells.best(higher=True) == ("r1", "1:1")


def test_ratios_are_ordered_as_numbers_and_rows_by_the_objective():
    rows = [
        trial(index, loss, ratio, 0.1 * index)
        for index, (loss, ratio) in enumerate([("a", "10:1"), ("a", "2:1"), ("b", "1:2"), ("b", "3:2")])
    ]
    assert summaries.cells(found(rows)).columns == ["1:2", "3:2", "2:1", "10:1"]
    assert summaries.cells(found(rows)).rows == ["b", "a"]
    assert summaries.cells(found(rows, higher=False)).rows == ["a", "b"]


def test_the_heatmap_takes_two_other_keys_unless_their_values_are_continuous():
    def searched(*points):
        return found([trial(index, point=point) for index, point in enumerate(points)])

    grid = searched(*({"lr": lr, "batch_size": size, "width": 8} for lr in (1e-4, 2e-4) for size in (32, 64, 128)))
    cells = summaries.cells(grid)
    assert (cells.row_name, cells.column_name) == ("batch_size", "lr")
    assert cells.columns == ["0.0001", "0.0002"]
    assert len(cells.squares) == 6
    assert summaries.cells(searched({"lr": 0.1}, {"lr": 0.2})) is None
    assert summaries.cells(searched(*({"lr": 0.1 + 0.01 * index, "size": 8} for index in range(6)))) is None
    assert plots.heatmap(searched({"lr": 0.1}, {"lr": 0.2})) is None
    assert summaries.cells(searched()) is None


def test_nothing_is_drawn_where_there_is_nothing_to_draw():
    empty, one = found([]), found([trial(0)])
    assert drawn(empty, {}) == {}
    assert plots.grids(None, None, ("best", "worst")) is None
    assert list(drawn(one, {0: curve(100)})) == ["heatmap", "spending", "pareto"]


def test_curves_are_of_the_best_complete_trial_of_a_variant_or_of_its_longest():
    rows = [*screened(), stopped(8, "dcgan", "2:1", 0.1, kimg=40.0)]
    curves = {row.number: curve(10) for row in rows} | {1: curve(10)._replace(scores={"score": [math.nan] * 3})}
    chosen = curves_module.representatives(found(rows), curves, "score")
    assert [row.number for row in chosen] == [0, 2, 8]
    assert [row.number for row in curves_module.representatives(found(rows), {1: curve(10)}, "kid_lenet")] == []


def test_twelve_variants_have_a_look_of_their_own_and_the_best_come_first():
    rows = [trial(index, f"loss_{index}", "1:1", 0.01 * index) for index in range(15)]
    looks = curves_module.looks(found(rows))
    assert list(looks) == [f"loss_{index}" for index in range(14, 2, -1)]
    assert len(set(looks.values())) == 12
    figure = curves_module.spending(found(rows), {row.number: curve(100) for row in rows})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *(f"loss_{index} 1:1" for index in range(14, 2, -1)),
        "other variants",
    ]


def test_a_curve_is_drawn_on_a_logarithmic_scale_only_beyond_a_decade():
    def scale(low, high):
        drawn = Curve([1000, 2000], [1, 2], [1.0, 2.0], {"score": [low, high]})
        return curves_module.spending(found([trial(0)]), {0: drawn}).axes[0].get_yscale()

    assert (scale(1.0, 11.0), scale(1.0, 9.0), scale(-1.0, 11.0)) == ("log", "linear", "linear")


def test_sample_grids_stand_beside_each_other():
    pictures = []
    for shade in (0, 255):
        out = io.BytesIO()
        Image.new("L", (32, 16), shade).save(out, "PNG")
        pictures.append(out.getvalue())
    figure = plots.grids(*pictures, ("best", "worst"))
    assert [axes.get_title() for axes in figure.axes] == ["best", "worst"]
    with Image.open(io.BytesIO(plots.png(figure))) as drawn_picture:
        assert drawn_picture.width > 2.5 * drawn_picture.height
    assert [axes.get_title() for axes in plots.grids(pictures[0], None, ["best"]).axes] == ["best"]
    assert [axes.get_title() for axes in plots.grids(None, pictures[1], ("best", "worst")).axes] == ["worst"]
