"""Truncation narrows what is drawn, and by how much is known."""

import math

import pytest
import torch
from scipy import stats

from gan_core import sampling, truncation
from gan_core.truncation import HasW, TruncatedInW, TruncatedInZ, shrunk, truncatable, truncated_normal
from tests.gan_core.mapped import Mapped
from tests.gan_core.test_networks import NETWORKS, make, stirred

COUNT = 50_000


def cut(z, threshold):
    return truncated_normal(z, torch.tensor(threshold))


@pytest.mark.parametrize("threshold", [0.1, 0.5, 1.0, 2.0, 4.0])
def test_truncated_z_has_the_moments_of_the_truncated_normal(threshold):
    z = torch.randn(COUNT, 1, generator=torch.Generator().manual_seed(1))
    found = cut(z, threshold)
    assert found.abs().max() <= threshold * (1 + 1e-6)
    expected = stats.truncnorm(-threshold, threshold)
    error = expected.std() / math.sqrt(COUNT)
    assert abs(float(found.mean())) < 4 * error
    assert float(found.var()) == pytest.approx(expected.var(), rel=0.03)


def test_truncated_z_follows_the_inverse_distribution_function_and_keeps_the_order():
    z = torch.linspace(-6, 6, 1001)[None]
    found = cut(z, 1.5)[0].double()
    levels = torch.tensor(stats.norm.cdf(z[0].double().numpy()))
    assert torch.allclose(found, torch.tensor(stats.truncnorm.ppf(levels.numpy(), -1.5, 1.5)), atol=2e-7)
    assert bool((found.diff() >= 0).all())
    assert found[0] == -found[-1]


def test_an_infinite_threshold_changes_no_bit():
    z = torch.randn(1000, 8)
    assert torch.equal(cut(z, math.inf), z)


def test_w_is_drawn_towards_the_centre_by_the_factor():
    w, centre = torch.tensor([[1.0, -3.0]]), torch.tensor([[0.5, 1.0]])
    assert torch.equal(shrunk(w, centre, torch.tensor(1.0)), w)
    assert torch.equal(shrunk(w, centre, torch.tensor(0.0)), centre)
    assert torch.allclose(shrunk(w, centre, torch.tensor(0.25)), torch.tensor([[0.625, 0.0]]))


def test_the_centre_is_the_mean_of_w_for_each_class():
    generator = Mapped(num_classes=3)
    centre = truncation.centre_of(generator, z_dim=4, num_classes=3)
    expected = generator.to_w.bias + 3.0 * generator.embedding.weight
    spread = generator.to_w.weight.norm(dim=1)
    assert bool(((centre - expected).abs() < 4 * spread / 100).all())  # 10,000 seeds: a hundredth of a deviation
    assert not torch.allclose(centre, expected, atol=1e-6)
    assert torch.equal(centre, truncation.centre_of(generator, z_dim=4, num_classes=3))


@pytest.mark.parametrize("num_classes", [0, 3])
def test_without_truncation_the_images_are_the_generators_own(num_classes):
    generator = Mapped(num_classes=num_classes).eval()
    model = truncatable(generator, z_dim=4, num_classes=num_classes)
    assert isinstance(model, TruncatedInW)
    z = sampling.latents_of_seeds(0, 10, z_dim=4)
    labels = torch.arange(10) % 3 if num_classes else None
    assert torch.equal(model(z, labels, torch.tensor(model.off)), generator(z, labels))
    assert not torch.equal(model(z, labels, torch.tensor(0.9)), generator(z, labels))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("num_classes", [0, 3])
def test_every_network_is_itself_where_truncation_is_off_and_varies_less_where_it_is_on(name, num_classes):
    with torch.random.fork_rng(devices=[]):
        generator, _ = make(name, num_classes=num_classes, z_dim=16)
        stirred(generator)
    model = truncatable(generator.eval().requires_grad_(False), z_dim=16, num_classes=num_classes)
    z = sampling.latents_of_seeds(0, 64, z_dim=16)
    labels = torch.zeros(64, dtype=torch.int64) if num_classes else None
    whole = model(z, labels, torch.tensor(model.off))
    assert torch.equal(whole, generator(z, labels))
    narrow = model(z, labels, torch.tensor(0.2 if isinstance(generator, HasW) else 0.5))
    ratio = float(narrow.var(0).mean() / whole.var(0).mean())
    assert 0.03 < ratio < 0.6


def test_images_vary_as_the_square_of_the_factor_where_they_are_linear_in_w():
    generator = Mapped()
    generator.to_image.weight.data *= 0.1
    model = truncatable(generator, z_dim=4, num_classes=0)
    z = sampling.latents_of_seeds(0, 500, z_dim=4)
    with torch.no_grad():
        whole, half = (model(z, None, torch.tensor(factor)).var(0).flatten() for factor in (1.0, 0.5))
    assert torch.allclose(half[1:], whole[1:] / 4, rtol=1e-3)
    assert 0.8 < float(half[0] / whole[0]) < 1.0  # noise is as strong as before


@pytest.mark.parametrize(
    ("generator", "given", "reason"),
    [
        (Mapped(), 1.5, "from 0 to 1 (off), given 1.5"),
        (Mapped(), -0.1, "given -0.1"),
        (torch.nn.Linear(2, 2), 0.0, "above 0, such as 1, given 0"),
    ],
)
def test_a_truncation_that_is_not_one_for_the_space_is_refused(generator, given, reason):
    with pytest.raises(ValueError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        truncation.require_truncation(generator, given)


def test_no_truncation_is_1_in_w_and_infinity_in_z():
    assert truncation.require_truncation(Mapped(), None) == 1.0
    assert truncation.require_truncation(torch.nn.Linear(2, 2), None) == math.inf
    assert TruncatedInZ.off == math.inf
    assert truncation.require_truncation(Mapped(), 0.0) == 0.0
