import math

import pytest
import torch

from gan_core import Trainer
from gan_core.config import GanConfig
from gan_core.data import grid2d, mixture2d, ring2d
from gan_core.metrics import mode_coverage
from gan_core.overrides import flatten, merge, unflatten, validate
from tests.support import tiny_trainer, tiny_tree


def test_all_modes_of_the_data_are_found_and_nearly_all_points_are_good():
    """The share of a 2-D Gaussian within 3 deviations is 1 - e^(-9/2) = 0.98889."""
    for dataset, modes in ((ring2d.load(count=40_000), 8), (grid2d.load(count=40_000), 25)):
        found = mode_coverage.evaluate(dataset.images, dataset.mixture)
        assert found["modes"] == modes
        assert found["good_points"] == pytest.approx(0.98889, abs=0.002)


def test_a_mode_counts_with_one_good_point_and_a_point_beyond_three_deviations_does_not():
    mixture = grid2d.load(count=10).mixture
    points = torch.tensor([[4.0, 4.0], [4.0, 4.149], [-4.0, 0.151], [0.0, 1.0]]).view(4, 2, 1, 1)
    found = mode_coverage.evaluate(points, mixture)
    assert found == {"modes": 1.0, "good_points": 0.5, "mode_reverse_kl": pytest.approx(math.log(25))}


def test_the_reverse_divergence_is_that_of_the_good_points_alone():
    mixture = grid2d.load(count=10).mixture
    points = torch.tensor([[4.0, 4.0], [4.0, 4.0], [4.0, 4.0], [-4.0, 0.0], [0.0, 1.0]]).view(5, 2, 1, 1)
    expected = 0.75 * math.log(0.75 * 25) + 0.25 * math.log(0.25 * 25)
    assert mode_coverage.evaluate(points, mixture)["mode_reverse_kl"] == pytest.approx(expected)


def test_the_grid_is_that_of_pacgan():
    mixture = grid2d.load(count=10).mixture
    assert sorted(map(tuple, mixture.centres.tolist())) == [
        (x, y) for x in (-4.0, -2.0, 0.0, 2.0, 4.0) for y in (-4.0, -2.0, 0.0, 2.0, 4.0)
    ]
    assert mixture.standard_deviation == 0.05


def test_a_training_on_a_known_mixture_reports_its_modes():
    reports = []
    tiny_trainer(data__name="grid2d", data__count=500, network__generator__output="linear").run(reports.append)
    assert 0.0 <= reports[-1].metrics["quality/good_points"] <= 1.0
    assert reports[-1].metrics["quality/modes"] == int(reports[-1].metrics["quality/modes"]) <= 25


def test_points_of_a_mixture_with_weights_and_widths_are_judged_by_them():
    dataset = mixture2d.load(centres=[[0.0, 0.0], [4.0, 0.0]], standard_deviation=[0.1, 1.0], weights=[1.0, 9.0], count=50_000)
    found = mode_coverage.evaluate(dataset.images, dataset.mixture)
    assert found["modes"] == 2
    assert found["good_points"] == pytest.approx(1 - math.exp(-4.5), abs=0.002)  # of a Rayleigh variable, within 3
    assert found["mode_reverse_kl"] == pytest.approx(0.0, abs=1e-3)
    even = mixture2d.load(centres=[[0.0, 0.0], [4.0, 0.0]], standard_deviation=[0.1, 1.0], count=50_000)
    expected = 0.5 * math.log(0.5 / 0.1) + 0.5 * math.log(0.5 / 0.9)
    assert mode_coverage.evaluate(even.images, dataset.mixture)["mode_reverse_kl"] == pytest.approx(expected, abs=0.01)


def test_a_point_counts_for_the_mode_from_which_it_is_the_fewest_deviations_away():
    mixture = mixture2d.load(centres=[[0.0, 0.0], [4.0, 0.0]], standard_deviation=[0.1, 2.0], weights=[1.0, 9.0], count=1).mixture
    point = torch.tensor([[1.0, 0.0]])[:, :, None, None]  # 10 deviations from the first, 1.5 from the second
    assert mode_coverage.evaluate(point, mixture) == pytest.approx(
        {"modes": 1, "good_points": 1, "mode_reverse_kl": math.log(1 / 0.9)}, rel=1e-6
    )


def test_no_good_point_is_the_worst_that_could_be():
    mixture = mixture2d.load(centres=[[0.0, 0.0], [4.0, 0.0]], weights=[1.0, 9.0], count=1).mixture
    far = torch.full((5, 2, 1, 1), 99.0)
    assert mode_coverage.evaluate(far, mixture)["mode_reverse_kl"] == pytest.approx(math.log(10), rel=1e-6)


def test_a_training_on_any_mixture_reports_its_modes_and_its_params_make_it_again():
    options = {
        "data": {
            "name": "mixture2d",
            "centres": [[0.0, 0.0], [0.5, -0.25], [-1.0, 1.0]],
            "weights": [1.0, 2.0, 3.0],
            "standard_deviation": [0.1, 0.2, 0.3],
        },
        "network.generator.output": "linear",
    }
    config = validate(merge(tiny_tree(), options), GanConfig)
    assert validate(unflatten(flatten(config)), GanConfig) == config
    reports = []
    Trainer(config, device="cpu").run(reports.append)
    assert 0.0 <= reports[-1].metrics["quality/modes"] <= 3.0
    assert 0.0 <= reports[-1].metrics["quality/mode_reverse_kl"] <= math.log(6) + 1e-6
