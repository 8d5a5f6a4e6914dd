"""What a generator made is found again; what it cannot make is not."""

import math

import pytest
import torch

from gan_core import sampling
from gan_core.datatypes import Batch
from gan_core.networks import mlp
from gan_core.projection import decibels, distance, grey_levels, learning_rate, project


@pytest.fixture(scope="module")
def generator():
    """An MLP whose images of 8x8 pixels differ much between latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = mlp.generator(resolution=8, channels=1, z_dim=8, num_classes=3, hidden_width=64).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.mul_(2.5)
    return network


CANDIDATES = Batch(sampling.latents_of_seeds(0, 300, z_dim=8), torch.arange(300) % 3)


def run(generator, picture, **options):
    return project(lambda batch: generator(batch.inputs, batch.labels), picture, CANDIDATES, **options)


def test_an_image_of_the_generators_own_is_found_with_its_class(generator):
    z, label = sampling.latents_of_seeds(12345, 1, z_dim=8), torch.tensor([2])
    picture = generator(z, label)
    found = run(generator, picture, steps=300)
    assert found.error < 2.0
    assert 10.0 < found.random_error < 120.0
    assert found.latent.labels.tolist() == [2]
    assert float((found.latent.inputs - z).norm()) < 0.2
    assert torch.equal(generator(*found.latent), found.image)


def test_noise_is_not_found(generator):
    noise = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = run(generator, noise, steps=300)
    assert 25.0 < found.error < found.random_error < 150.0


def test_the_result_is_never_worse_than_the_best_random_image(generator):
    picture = generator(CANDIDATES.inputs[7:8], CANDIDATES.labels[7:8])
    found = run(generator, picture, steps=1)
    assert found.random_error == 0.0
    assert found.error == 0.0


def test_the_rate_rises_for_a_twentieth_and_falls_for_a_quarter():
    rates = [learning_rate(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[49:750] == [1.0] * 701
    assert rates[874] == pytest.approx(0.5, abs=0.01)
    assert 0.0 < rates[-1] < 1e-4
    assert sorted(rates[:50]) == rates[:50]
    assert sorted(rates[750:], reverse=True) == rates[750:]


def test_the_distance_counts_every_resolution():
    white, black = torch.ones(1, 1, 16, 16), -torch.ones(1, 1, 16, 16)
    assert float(distance(white, black)) == pytest.approx(3 * 4.0)  # 16, 8 and 4 pixels
    stripes = white.clone()
    stripes[..., ::2] = -1.0
    grey = torch.zeros(1, 1, 16, 16)
    assert float(distance(stripes, grey)) == pytest.approx(1.0)  # seen at 16 pixels alone


def test_errors_are_in_grey_levels_and_decibels():
    a = torch.zeros(1, 1, 2, 2)
    b = a + 10 / 127.5
    assert grey_levels(a, b) == pytest.approx(10.0)
    assert grey_levels(a, a) == 0.0
    assert decibels(255.0) == pytest.approx(0.0)
    assert decibels(2.55) == pytest.approx(40.0)
    assert decibels(0.0) == math.inf
