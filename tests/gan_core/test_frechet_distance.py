import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from gan_core.metrics import frechet_distance
from gan_core.metrics.frechet_distance import Moments, evaluate, require_enough


def normal(count, dimensions, seed, dtype=torch.float64):
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(dimensions, seed):
    return torch.linalg.qr(normal(dimensions, dimensions, seed)).Q


def moments(mean, covariance, count=101):
    mean, covariance = (torch.as_tensor(value, dtype=torch.float64) for value in (mean, covariance))
    return Moments(count, mean, covariance * (count - 1))


def fidelity(real, fake):
    """The same by torch-fidelity: eigenvalues of the product of covariances."""
    statistics = [fid_features_to_statistics(features) for features in (real, fake)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def test_covariances_that_commute_give_the_sum_over_axes():
    axes, left, right = rotation(6, 0), torch.tensor([4.0, 1, 9, 0.25, 1, 16]).double(), torch.tensor([1.0, 1, 4, 0.01, 25, 0]).double()
    shift = torch.arange(6.0).double() / 10
    found = evaluate(moments(shift, axes * left @ axes.T), moments(torch.zeros(6), axes * right @ axes.T), extractor="lenet")
    expected = shift.square().sum() + (left.sqrt() - right.sqrt()).square().sum()
    assert found == {"fd_lenet": pytest.approx(float(expected), rel=1e-12)}


def test_covariances_in_two_dimensions_agree_with_the_closed_form():
    """The root's trace is sqrt(tr AB + 2 sqrt(det AB)) for 2 x 2."""
    a, b = torch.tensor([[2.0, 0.7], [0.7, 1.0]]).double(), torch.tensor([[1.0, -0.4], [-0.4, 3.0]]).double()
    trace = math.sqrt(float((a @ b).trace() + 2 * (a @ b).det().sqrt()))
    found = evaluate(moments([1.0, 2.0], a), moments([0.0, 0.0], b))["fd_pixels"]
    assert found == pytest.approx(5.0 + 3.0 + 4.0 - 2 * trace, rel=1e-13)


def test_covariances_without_full_rank_are_exact():
    """Projections: the root's trace is the sum of cosines of the angles between the two subspaces."""
    dimensions, rank = 120, 7
    axes, angles = rotation(dimensions, 1), torch.linspace(0.1, 1.2, rank).double()
    one, two = axes[:, :rank], axes[:, :rank] * angles.cos() + axes[:, rank : 2 * rank] * angles.sin()
    zero = torch.zeros(dimensions)
    found = evaluate(moments(zero, one @ one.T), moments(zero, two @ two.T))["fd_pixels"]
    assert found == pytest.approx(float(2 * rank - 2 * angles.cos().sum()), rel=1e-12)
    disjoint = evaluate(moments(zero, one @ one.T), moments(zero, axes[:, -rank:] @ axes[:, -rank:].T))["fd_pixels"]
    assert disjoint == pytest.approx(2 * rank, rel=1e-13)


def test_fewer_samples_than_dimensions_of_one_set_are_at_no_distance_from_themselves():
    features = normal(20, 300, 2)
    assert 0.0 <= evaluate(features, features)["fd_pixels"] < 1e-11 * 300
    rotated = evaluate(features, features.flip(0) + 1.0)["fd_pixels"]
    assert rotated == pytest.approx(300.0, rel=1e-12)


def test_samples_of_two_gaussians_are_as_far_apart_as_the_closed_form_says():
    stretch = torch.tensor([1.0, 2.0, 0.5, 1.0]).double()
    real, fake = normal(40_000, 4, 3), normal(40_000, 4, 4) * stretch + torch.tensor([0.3, 0, 0, 0]).double()
    found = evaluate(real, fake)
    expected = 0.09 + float((1 - stretch).square().sum())
    assert abs(found["fd_pixels"] - expected) < 3 * found["fd_pixels_error"]
    assert 0.005 < found["fd_pixels_error"] < 0.02


@pytest.mark.parametrize(("dimensions", "dtype"), [(5, torch.float32), (64, torch.float32), (64, torch.float64)])
def test_agrees_with_torch_fidelity_on_the_same_features(dimensions, dtype):
    mixing = normal(dimensions, dimensions, 5, dtype)
    real, fake = normal(700, dimensions, 6, dtype).relu() @ mixing, normal(600, dimensions, 7, dtype).relu() @ mixing * 1.1 + 0.2
    expected = fidelity(real.double(), fake.double())
    assert evaluate(real, fake)["fd_pixels"] == pytest.approx(expected, rel=1e-6)
    assert evaluate(real.unflatten(1, (dimensions, 1, 1)), Moments.of(fake))["fd_pixels"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("shift", "scale", "counts"), [(1.0, 1.0, (300, 300)), (0.0, 2.0, (300, 600)), (0.3, 0.6, (1000, 250))])
def test_the_standard_error_is_the_spread_over_repeated_draws(shift, scale, counts):
    """In 300 draws the spread itself is known to 4 %; the features are far from normal."""
    source = torch.Generator().manual_seed(8)
    turn = rotation(3, 9)
    values, errors = [], []
    for _ in range(300):
        real, fake = (torch.rand(count, 3, generator=source, dtype=torch.float64).log() for count in counts)
        found = evaluate(real * torch.tensor([1.0, 0.5, 2.0]), (fake * scale + shift) @ turn)
        values.append(found["fd_pixels"])
        errors.append(found["fd_pixels_error"])
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.12)


def test_where_the_distributions_are_equal_the_standard_error_is_of_the_right_order():
    draws = [evaluate(normal(200, 4, 2 * seed), normal(200, 4, 2 * seed + 1)) for seed in range(200)]
    spread = np.std([draw["fd_pixels"] for draw in draws])
    assert 0.5 * spread < np.mean([draw["fd_pixels_error"] for draw in draws]) < 3.0 * spread


def test_moments_are_those_of_numpy_and_survive_a_large_mean(monkeypatch):
    monkeypatch.setattr(frechet_distance, "BLOCK", 64)
    features = normal(1000, 5, 10)
    near, far = Moments.of(features), Moments.of(features + 2.0**26)
    np.testing.assert_allclose(near.mean, features.numpy().mean(0), atol=1e-14)
    np.testing.assert_allclose(near.covariance, np.cov(features.numpy(), rowvar=False), rtol=1e-12, atol=1e-14)
    rounded = Moments.of(features + 2.0**26 - 2.0**26)  # adding the mean rounds the features themselves
    torch.testing.assert_close(far.scatter, rounded.scatter, rtol=1e-9, atol=1e-9)


def test_moments_of_parts_merge_into_those_of_the_whole():
    features = normal(500, 6, 11) * 3 + 50
    whole, parts = Moments.of(features), [Moments.of(part) for part in features.split([1, 99, 250, 150])]
    merged = parts[0].merged(parts[1]).merged(parts[2].merged(parts[3]))
    assert merged.count == whole.count == 500
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-12, atol=1e-9)


def test_a_collapsed_generator_is_as_far_as_the_spread_of_the_data():
    real = normal(2000, 3, 12)
    found = evaluate(real, torch.zeros(100, 3).double())
    assert found["fd_pixels"] == pytest.approx(float(real.mean(0).square().sum() + real.var(0).sum()), rel=1e-12)


def test_moments_on_one_side_give_no_standard_error():
    real, fake = normal(50, 3, 13), normal(60, 3, 14)
    assert set(evaluate(real, Moments.of(fake))) == {"fd_pixels"}
    assert set(evaluate(Moments.of(real), fake)) == {"fd_pixels"}
    assert evaluate(Moments.of(real), Moments.of(fake))["fd_pixels"] == pytest.approx(evaluate(real, fake)["fd_pixels"], rel=1e-12)


def test_moments_that_cannot_be_compared_are_refused():
    good = Moments.of(normal(50, 3, 15))
    with pytest.raises(ValueError, match="at least 2 real samples, given the moments of 1"):
        evaluate(Moments.of(normal(1, 3, 16)), good)
    with pytest.raises(ValueError, match="real features have 3 dimensions and fake 4"):
        evaluate(good, Moments.of(normal(50, 4, 17)))
    with pytest.raises(ValueError, match="the fake moments hold NaN or infinity"):
        evaluate(good, moments([0.0, math.nan, 0.0], torch.eye(3)))
    with pytest.raises(ValueError, match="total variance 0"):
        evaluate(moments([0.0, 1.0], torch.zeros(2, 2)), normal(5, 2, 18))


def test_fewer_samples_than_dimensions_can_be_refused():
    require_enough(2048, 2048)
    with pytest.raises(ValueError, match=r"2047 samples of 2048 feature dimensions give a singular covariance; use at least 2048"):
        require_enough(2047, 2048)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_features_given_stay_as_they_were(dtype):
    real, fake = normal(50, 4, 0, dtype), normal(50, 4, 1, dtype) + 1.0
    before = real.clone(), fake.clone()
    evaluate(real, fake)
    assert torch.equal(real, before[0])
    assert torch.equal(fake, before[1])
