import math
from itertools import pairwise

import pytest
import torch

from gan_core.measures import MEASURES, Evidence
from gan_core.metrics import score

SHARES = ("precision", "recall", "coverage")


def of(*values, **errors):
    return score.evaluate(**dict(zip(SHARES, values, strict=True)), **errors)["score"]


def test_the_score_is_the_harmonic_mean():
    assert of(0.6, 0.3, 0.4) == pytest.approx(3 / (1 / 0.6 + 1 / 0.3 + 1 / 0.4), rel=1e-14)
    assert of(1.0, 1.0, 1.0) == 1.0
    assert of(0.0, 1.0, 1.0) == of(1.0, 0.0, 1.0) == of(1.0, 1.0, 0.0) == 0.0


def test_the_score_grows_with_each_share():
    grid = [step / 10 for step in range(1, 11)]
    for a in grid:
        for b in grid:
            for low, high in pairwise(grid):
                assert of(a, b, high) > of(a, b, low)
                assert of(a, high, b) > of(a, low, b)
                assert of(high, a, b) > of(low, a, b)


def test_the_score_is_below_three_times_the_smallest_share():
    assert 0.02 < of(1.0, 1.0, 0.01) < 0.03


def test_the_error_is_that_of_small_changes():
    step, values, errors = 1e-6, (0.6, 0.3, 0.8), (0.02, 0.05, 0.03)
    slopes = [(of(*(value + step * (place == moved) for place, value in enumerate(values))) - of(*values)) / step for moved in range(3)]
    found = score.evaluate(**dict(zip(SHARES, values, strict=True)), **dict(zip([f"{name}_error" for name in SHARES], errors, strict=True)))
    expected = math.hypot(*(slope * error for slope, error in zip(slopes, errors, strict=True)))
    assert found["score_error"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("values", [(1.1, 0.5, 0.5), (0.5, -0.1, 0.5), (0.5, 0.5, math.nan)])
def test_values_that_are_no_shares_are_refused(values):
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        of(*values)


def measured(real, fake):
    return MEASURES["score"].run(Evidence("pixels", real, fake))["score"]


def test_a_collapsed_generator_of_perfect_fidelity_loses_against_a_diverse_mediocre_one():
    generator = torch.Generator().manual_seed(0)
    centres = 10.0 * torch.eye(10)
    real = centres.repeat(60, 1) + torch.randn(600, 10, generator=generator)
    one_mode = centres[:1] + torch.randn(600, 10, generator=generator)  # real images, of one class alone
    one_image = real[:1] + 1e-4 * torch.randn(600, 10, generator=generator)
    mediocre = centres.repeat(60, 1) + 1.7 * torch.randn(600, 10, generator=generator)
    perfect = centres.repeat(60, 1) + torch.randn(600, 10, generator=generator)
    noise = 10.0 * torch.randn(600, 10, generator=generator)
    scores = {
        name: measured(real, fake) for name, fake in locals().items() if name in ("one_mode", "one_image", "mediocre", "perfect", "noise")
    }
    precision = MEASURES["precision_recall"].run(Evidence("pixels", real, one_image))["precision_pixels"]
    assert precision == 1.0
    assert 0.0 < scores["one_image"] < 0.05  # it covers the few reals near whom that image lies
    assert scores["one_mode"] < 0.2
    assert 0.3 < scores["mediocre"] < 0.9 * scores["perfect"]
    assert scores["perfect"] > 0.85
    assert scores["noise"] < scores["mediocre"]
