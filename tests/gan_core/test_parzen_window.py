import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.neighbors import KernelDensity

from gan_core.metrics import parzen_window


def uniform(count, *shape, seed=0, dtype=torch.float64):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gaussian(count, pixels, sigma, seed):
    """Images around 0.5, so narrow that none leaves [0, 1]."""
    noise = torch.randn(count, pixels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (0.5 + sigma * noise).unflatten(1, (1, 1, pixels))


def digit_like(count, seed):
    """Float32 images of 784 pixels, most of them near 0 or 1, as MNIST's are."""
    blobs = torch.randn(count, 1, 7, 7, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(blobs * 6.0 - 6.0, 28, mode="bilinear").sigmoid()


def in_float64(images, fake_images, sigma):
    """The definition, differences taken one by one."""
    energy = [(fake_images.double() - image.double()).square().flatten(1).sum(1).numpy() / (-2.0 * sigma**2) for image in images]
    pixels = images[0].numel()
    return np.array([logsumexp(row) for row in energy]) - math.log(len(fake_images)) - pixels / 2 * math.log(2 * math.pi * sigma**2)


def test_one_sample_gives_the_density_of_a_normal_distribution():
    image, sample = torch.tensor([[[[0.2, 0.9]]]], dtype=torch.float64), torch.tensor([[[[0.5, 0.4]]]], dtype=torch.float64)
    found = parzen_window.log_likelihoods(image, sample, sigmas=[0.3])
    assert float(found) == pytest.approx(multivariate_normal([0.5, 0.4], 0.09).logpdf([0.2, 0.9]), abs=1e-12)
    assert float(found) == pytest.approx(-1.319, abs=1e-3)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0])
def test_agrees_with_scikit_learns_kernel_density(sigma):
    images, samples = uniform(40, 1, 3, 3, seed=1), uniform(150, 1, 3, 3, seed=2)
    # One leaf: with several, scikit-learn 1.9.1 is wrong by up to 90 nats here, far from the samples.
    density = KernelDensity(bandwidth=sigma, leaf_size=1000).fit(samples.flatten(1).numpy())
    found = parzen_window.log_likelihoods(images, samples, sigmas=[sigma])[0].numpy()
    np.testing.assert_allclose(found, density.score_samples(images.flatten(1).numpy()), atol=1e-8, rtol=0)
    np.testing.assert_allclose(found, in_float64(images, samples, sigma), atol=1e-9, rtol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.2, 1.0])
def test_float32_loses_less_than_a_hundredth_of_a_nat_on_784_pixels(sigma):
    images, samples = digit_like(60, seed=3), digit_like(300, seed=4)
    images[0] = samples[0]  # distance 0: where |x|^2 + |y|^2 - 2 x.y cancels entirely
    truth = in_float64(images, samples, sigma)
    single = parzen_window.log_likelihoods(images, samples, sigmas=[sigma])[0].numpy()
    double = parzen_window.log_likelihoods(images.double(), samples.double(), sigmas=[sigma])[0].numpy()
    np.testing.assert_allclose(double, truth, atol=1e-7, rtol=0)
    np.testing.assert_allclose(single, truth, atol=1e-2, rtol=0)
    assert truth[0] == pytest.approx(-math.log(300) - 392 * math.log(2 * math.pi * sigma**2), abs=0.7)


def test_a_long_way_from_every_sample_is_finite_not_minus_infinity():
    images, samples = torch.ones(2, 1, 28, 28), torch.zeros(5, 1, 28, 28)
    found = parzen_window.log_likelihoods(images, samples, sigmas=[0.1])
    assert found.squeeze().tolist() == pytest.approx([-784 / (2 * 0.01) - 392 * math.log(2 * math.pi * 0.01)] * 2, abs=1e-2)


@pytest.mark.parametrize("block", [3, 7, 64, 10_000])
def test_the_block_size_does_not_matter(block):
    images, samples = uniform(20, 1, 4, 4, seed=5), uniform(35, 1, 4, 4, seed=6)
    blocked = parzen_window.log_likelihoods(images, samples, sigmas=[0.1, 0.4], block=block)
    whole = parzen_window.log_likelihoods(images, samples, sigmas=[0.1, 0.4])
    assert blocked.shape == (2, 20)
    torch.testing.assert_close(blocked, whole, atol=1e-9, rtol=0)


def test_gaussian_data_score_what_the_closed_form_says():
    width, sigma, pixels = 0.05, 0.05, 2
    images, samples = gaussian(2000, pixels, width, seed=7), gaussian(10_000, pixels, width, seed=8)
    variance = width**2 + sigma**2  # the window turns the samples' density into a wider normal one
    expected = -pixels / 2 * (math.log(2 * math.pi * variance) + width**2 / variance)
    found = parzen_window.log_likelihoods(images, samples, sigmas=[sigma])
    assert float(found.mean()) == pytest.approx(expected, abs=0.03)
    assert float(found.std()) == pytest.approx(math.sqrt(pixels / 2) * width**2 / variance, abs=0.05)


def test_sigma_is_the_one_that_suits_the_validation_images():
    samples, validation = gaussian(200, 6, 0.1, seed=9), gaussian(100, 6, 0.1, seed=10)
    choice = parzen_window.choose_sigma(validation, samples)
    means = {sigma: in_float64(validation, samples, sigma).mean() for sigma in parzen_window.SIGMAS}
    assert choice.sigma == max(means, key=means.get)
    assert choice.nats == pytest.approx(means[choice.sigma], abs=1e-9)
    assert 0.1 <= choice.sigma <= 0.13
    assert parzen_window.choose_sigma(samples, samples).sigma < parzen_window.choose_sigma(uniform(100, 1, 1, 6), samples).sigma


def test_the_paper_s_sigmas_are_ten_from_a_tenth_to_one():
    np.testing.assert_allclose(parzen_window.SIGMAS, np.logspace(-1, 0, 10), atol=1e-15, rtol=0)


def test_evaluate_gives_mean_and_standard_error_under_the_validation_images_sigma():
    test, samples, validation = gaussian(300, 4, 0.1, seed=11), gaussian(500, 4, 0.1, seed=12), uniform(50, 1, 1, 4, seed=13)
    found = parzen_window.evaluate(test, samples, validation)
    sigma = parzen_window.choose_sigma(validation, samples).sigma
    assert found["parzen_sigma"] == sigma != parzen_window.choose_sigma(test, samples).sigma
    truth = in_float64(test, samples, sigma)
    assert found["parzen_pixels"] == pytest.approx(truth.mean(), abs=1e-9)
    assert found["parzen_pixels_error"] == pytest.approx(truth.std() / math.sqrt(300), abs=1e-9)


@pytest.mark.parametrize("name", ["images", "fake_images"])
def test_images_of_minus_one_to_one_are_refused_with_the_conversion(name):
    given = {"images": uniform(3, 1, 2, 2), "fake_images": uniform(3, 1, 2, 2)}
    given[name] = given[name] * 2 - 1
    with pytest.raises(ValueError, match=rf"{name} must be pixels in \[0, 1\], given values from -0\..*\(images \+ 1\) / 2"):
        parzen_window.log_likelihoods(**given, sigmas=[0.2])


def test_nan_is_refused():
    broken = uniform(3, 1, 2, 2)
    broken[1, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"fake_images must be pixels in \[0, 1\], given values from nan"):
        parzen_window.evaluate(uniform(3, 1, 2, 2), broken, uniform(3, 1, 2, 2))


def test_shapes_that_differ_are_refused_with_both():
    with pytest.raises(ValueError, match=r"images are \(1, 2, 2\) and fake_images \(1, 4, 1\); they must have one shape"):
        parzen_window.log_likelihoods(uniform(3, 1, 2, 2), uniform(3, 1, 4, 1), sigmas=[0.2])


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no fake_images; give at least one"):
        parzen_window.log_likelihoods(uniform(3, 1, 2, 2), uniform(0, 1, 2, 2), sigmas=[0.2])


@pytest.mark.parametrize("sigmas", [[], [0.1, 0.0], [-1.0], [math.nan], [math.inf]])
def test_sigmas_that_are_not_positive_are_refused(sigmas):
    with pytest.raises(ValueError, match="sigmas must be positive numbers, given"):
        parzen_window.log_likelihoods(uniform(3, 1, 2, 2), uniform(3, 1, 2, 2), sigmas=sigmas)
