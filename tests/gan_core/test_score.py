import math
from itertools import pairwise

import pytest
import torch

from gan_core.measures import MEASURES, Evidence
from gan_core.metrics import score


def of(precision, coverage, **errors):
    return score.evaluate(precision=precision, coverage=coverage, **errors)["score"]


def test_the_score_is_the_harmonic_mean():
    assert of(0.6, 0.3) == pytest.approx(0.4, rel=1e-14)
    assert of(1.0, 1.0) == 1.0
    assert of(0.0, 0.0) == of(1.0, 0.0) == of(0.0, 1.0) == 0.0


def test_the_score_grows_with_fidelity_and_with_coverage():
    grid = [step / 10 for step in range(1, 11)]
    for a in grid:
        for low, high in pairwise(grid):
            assert of(a, high) > of(a, low)
            assert of(high, a) > of(low, a)


def test_the_error_is_that_of_small_changes():
    step = 1e-6
    by_precision, by_coverage = (of(0.6 + step, 0.3) - of(0.6, 0.3)) / step, (of(0.6, 0.3 + step) - of(0.6, 0.3)) / step
    found = score.evaluate(precision=0.6, coverage=0.3, precision_error=0.02, coverage_error=0.05)["score_error"]
    assert found == pytest.approx(math.hypot(by_precision * 0.02, by_coverage * 0.05), rel=1e-4)


@pytest.mark.parametrize(("precision", "coverage"), [(1.1, 0.5), (0.5, -0.1), (math.nan, 0.5)])
def test_values_that_are_no_shares_are_refused(precision, coverage):
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        of(precision, coverage)


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
