"""Seed i is image i, to the last bit, whatever is drawn around it."""

import numpy as np
import pytest
import torch

from gan_core import sampling
from gan_core.drawing import BLOCK, images_of_seeds, label_of, one_thread, pixels
from gan_core.networks import dcgan, mlp
from gan_core.truncation import truncatable

GENERATORS = {
    "mlp": lambda: mlp.generator(resolution=28, channels=1, z_dim=64, num_classes=0, norm="batch"),
    "dcgan": lambda: dcgan.generator(resolution=28, channels=1, z_dim=64, num_classes=0, width=16),
    "classes": lambda: dcgan.generator(resolution=8, channels=3, z_dim=64, num_classes=7, width=16),
}


@pytest.fixture(params=GENERATORS)
def model(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = GENERATORS[request.param]().eval()
    return truncatable(generator, z_dim=64, num_classes=7 if request.param == "classes" else 0)


def draw(model, first, count, label=None, truncation=float("inf")):
    classes = 7 if model.generator.embedding is not None else 0
    batches = images_of_seeds(model, first, count, z_dim=64, num_classes=classes, label=label, truncation=truncation)
    return torch.cat(list(batches))


@pytest.mark.parametrize(("first", "count"), [(0, 1), (5, 1), (15, 2), (3, 60), (16, 16), (31, 70), (99, 1)])
def test_any_range_of_seeds_has_the_images_of_the_whole(model, first, count):
    whole = draw(model, 0, 112)
    part = draw(model, first, count)
    assert part.shape[0] == count
    assert torch.equal(part, whole[first : first + count])


def test_images_are_those_of_the_seeds_own_latents(model):
    labels = torch.arange(BLOCK) % 7 if model.generator.embedding is not None else None
    with torch.no_grad():
        expected = model.generator(sampling.latents_of_seeds(0, BLOCK, z_dim=64), labels)
    assert torch.equal(draw(model, 0, BLOCK), expected)


def test_an_mlp_in_batches_of_other_sizes_rounds_otherwise_which_is_why_there_are_blocks():
    """Not of every processor, so only that it is small is sure."""
    torch.manual_seed(0)
    generator = GENERATORS["mlp"]().eval()
    z = sampling.latents_of_seeds(0, 64, z_dim=64)
    with torch.no_grad():
        single = torch.cat([generator(row) for row in z.split(1)])
        assert (single - generator(z)).abs().max() < 1e-5


def test_classes_take_turns_unless_one_is_asked_for():
    assert [label_of(seed, 3, None) for seed in range(5)] == [0, 1, 2, 0, 1]
    assert label_of(4, 3, 0) == 0
    model = truncatable(GENERATORS["classes"]().eval(), z_dim=64, num_classes=7)
    mixed, third = draw(model, 0, 21), draw(model, 0, 21, label=3)
    same = (mixed == third).flatten(1).all(1)
    assert same.nonzero().flatten().tolist() == [3, 10, 17]


def test_truncation_narrows_the_images(model):
    ratio = float(draw(model, 0, 64, truncation=0.5).var(0).mean() / draw(model, 0, 64).var(0).mean())
    assert 0.01 < ratio < 0.9
    assert ratio != 1.0


def test_pixels_are_rounded_and_clamped_and_channels_are_last():
    images = torch.tensor([-1.0, 1.0, 0.0, -2.0, 1.5, -0.996]).view(1, 3, 1, 2)
    found = pixels(images)
    assert found.shape == (1, 1, 2, 3)
    assert found.dtype == np.uint8
    assert found[0, 0, :, 0].tolist() == [0, 255]
    assert found[0, 0, :, 1].tolist() == [128, 0]
    assert found[0, 0, :, 2].tolist() == [255, 1]


def test_one_thread_gives_the_others_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
