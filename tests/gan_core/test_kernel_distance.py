import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from gan_core.metrics import kernel_distance


def by_the_book(real, fake):
    """1801.01401, section 4, in plain loops."""
    real, fake = real.flatten(1).double().numpy(), fake.flatten(1).double().numpy()
    d = real.shape[1]
    kernel = lambda x, y: (x @ y / d + 1) ** 3  # noqa: E731
    m, n = len(real), len(fake)
    rr = sum(kernel(real[i], real[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    ff = sum(kernel(fake[i], fake[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return rr + ff - 2 * sum(kernel(x, y) for x in real for y in fake) / (m * n)


@pytest.mark.parametrize("block", [3, 7, 4096])
def test_the_distance_equals_its_definition(monkeypatch, block):
    monkeypatch.setattr(kernel_distance, "BLOCK", block)
    source = torch.Generator().manual_seed(0)
    real, fake = (normal(count, 9, source).view(-1, 1, 3, 3) + shift for count, shift in ((11, 0.0), (7, 0.5)))
    assert kernel_distance.evaluate(real, fake)["kid_pixels"] == pytest.approx(by_the_book(real, fake), rel=1e-10)


@pytest.mark.parametrize("mean", [0.0, 1.0, 100.0])
def test_float32_features_lose_little_whatever_their_mean(mean):
    """The error is that of the features themselves in float32, and not that of a kernel of 1e12."""
    source = torch.Generator().manual_seed(0)
    real, fake = (side.float() for side in (normal(300, 64, source) + mean, 1.1 * normal(300, 64, source) + mean + 0.05))
    exact = kernel_distance.evaluate(real.double(), fake.double())
    assert kernel_distance.evaluate(real, fake) == pytest.approx(exact, rel=2e-6)


@pytest.mark.parametrize("counts", [(70, 45), (45, 70), (30, 90), (20, 20)])
def test_many_samples_are_divided_into_groups_that_meet_in_turn(monkeypatch, counts):
    source = torch.Generator().manual_seed(0)
    real, fake = normal(counts[0], 3, source), normal(counts[1], 3, source) + 0.5
    monkeypatch.setattr(kernel_distance, "WITHIN", 20)
    reals, fakes = (kernel_distance._Side.of(side).groups for side in (real, fake))
    for side, groups in ((real, reals), (fake, fakes)):
        assert torch.equal(torch.cat(groups).sort().values, torch.arange(len(side)))
        assert max(map(len, groups)) <= 20
    kernel = lambda x, y: (x @ y.T / 3 + 1.0) ** 3  # noqa: E731
    off_diagonal = lambda values: float((values.sum() - values.trace()) / (len(values) * (len(values) - 1)))  # noqa: E731
    within = sum(np.mean([off_diagonal(kernel(side[g], side[g])) for g in groups]) for side, groups in ((real, reals), (fake, fakes)))
    turns = range(max(len(reals), len(fakes)))
    between = np.mean([float(kernel(real[reals[t % len(reals)]], fake[fakes[t % len(fakes)]]).mean()) for t in turns])
    assert kernel_distance.evaluate(real, fake)["kid_pixels"] == pytest.approx(within - 2.0 * between, rel=1e-11)


def test_groups_do_not_follow_the_order_of_the_samples(monkeypatch):
    """Sorted by class, or not: the same in expectation."""
    monkeypatch.setattr(kernel_distance, "WITHIN", 50)
    source = torch.Generator().manual_seed(0)
    classes = torch.arange(400) // 40
    real, fake = (normal(400, 4, source) + classes[:, None] for _ in range(2))
    assert abs(kernel_distance.evaluate(real, fake.flip(0))["kid_pixels"]) < 3 * kernel_distance.evaluate(real, fake)["kid_pixels_error"]
    in_order = np.mean([kernel_distance.evaluate(real[i : i + 50], fake.flip(0)[i : i + 50])["kid_pixels"] for i in range(0, 400, 50)])
    assert in_order > 100 * kernel_distance.evaluate(real, fake)["kid_pixels_error"]


@pytest.mark.parametrize("counts", [(160, 160), (200, 60), (50, 180)])
def test_the_error_is_the_spread_of_grouped_estimates_too(monkeypatch, counts):
    monkeypatch.setattr(kernel_distance, "WITHIN", 40)
    values, errors = draws(0.7, counts)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.12)


def test_the_estimate_is_unbiased_where_the_distributions_are_equal():
    generator = torch.Generator().manual_seed(0)
    values = [
        kernel_distance.evaluate(torch.randn(50, 1, 2, 2, generator=generator), torch.randn(50, 1, 2, 2, generator=generator))["kid_pixels"]
        for _ in range(200)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0 < max(values)


def test_a_collapsed_generator_is_far_from_diverse_data():
    real = torch.rand(200, 1, 4, 4) * 2 - 1
    diverse, collapsed = torch.rand(200, 1, 4, 4) * 2 - 1, real[:1].expand(200, -1, -1, -1)
    near, far = (kernel_distance.evaluate(real, fake)["kid_pixels"] for fake in (diverse, collapsed))
    assert far > 10 * abs(near)


def normal(count, dimensions, source):
    return torch.randn(count, dimensions, generator=source, dtype=torch.float64)


def jackknife_by_the_book(real, fake):
    """Leave each sample out and take the distance again."""
    variance = 0.0
    for side, features in enumerate((real, fake)):
        values = []
        for left_out in range(len(features)):
            sides = [real, fake]
            sides[side] = torch.cat([features[:left_out], features[left_out + 1 :]])
            values.append(kernel_distance.evaluate(*sides)["kid_pixels"])
        variance += (len(values) - 1) * np.var(values)
    return np.sqrt(variance)


@pytest.mark.parametrize("block", [4, 4096])
def test_the_error_is_that_of_leaving_each_sample_out(monkeypatch, block):
    monkeypatch.setattr(kernel_distance, "BLOCK", block)
    source = torch.Generator().manual_seed(1)
    real, fake = normal(13, 4, source), normal(9, 4, source) + 0.3
    assert kernel_distance.evaluate(real, fake)["kid_pixels_error"] == pytest.approx(jackknife_by_the_book(real, fake), rel=1e-9)


def draws(shift, counts, repeats=400):
    source = torch.Generator().manual_seed(2)
    found = [
        kernel_distance.evaluate(normal(counts[0], 3, source), normal(counts[1], 3, source) + shift, extractor="lenet")
        for _ in range(repeats)
    ]
    return (np.array([values[key] for values in found]) for key in ("kid_lenet", "kid_lenet_error"))


@pytest.mark.parametrize("counts", [(150, 150), (100, 250)])
def test_the_error_is_the_spread_over_repeated_draws_where_the_distributions_differ(counts):
    """In 400 draws the spread itself is known to 4 %."""
    values, errors = draws(0.7, counts)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.12)
    near, _ = draws(0.7, (400, 400), repeats=40)
    assert values.mean() == pytest.approx(near.mean(), abs=4 * np.hypot(values.std() / 20, near.std() / np.sqrt(40)))


def test_the_error_is_too_large_by_the_root_of_two_where_the_distributions_are_equal():
    values, errors = draws(0.0, (100, 100), repeats=600)
    assert np.sqrt(np.mean(errors**2)) / values.std() == pytest.approx(np.sqrt(2), rel=0.12)
    assert abs(values.mean()) < 3.5 * values.std() / np.sqrt(600)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_torch_fidelity_on_one_subset_of_full_size(dtype):
    source = torch.Generator().manual_seed(3)
    real, fake = normal(500, 16, source).to(dtype), (normal(500, 16, source) * 1.2 + 0.1).to(dtype)
    expected = kid_features_to_metric(real.double(), fake.double(), kid_subsets=1, kid_subset_size=500, verbose=False, rng_seed=0)[
        "kernel_inception_distance_mean"
    ]
    assert kernel_distance.evaluate(real, fake)["kid_pixels"] == pytest.approx(expected, rel=1e-6)


def test_the_same_tensor_on_both_sides_is_two_sets():
    features = normal(20, 3, torch.Generator().manual_seed(4))
    assert kernel_distance.evaluate(features, features) == pytest.approx(kernel_distance.evaluate(features, features.clone()), rel=1e-12)


def test_two_samples_have_a_distance_but_no_error():
    source = torch.Generator().manual_seed(5)
    real, fake = normal(2, 3, source), normal(2, 3, source)
    assert kernel_distance.evaluate(real, fake) == {"kid_pixels": pytest.approx(by_the_book(real, fake), rel=1e-10)}
