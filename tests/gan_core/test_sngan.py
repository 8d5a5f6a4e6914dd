import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from gan_core.networks import sngan
from gan_core.spectral import spectrally_normalised
from tests.gan_core.test_networks import make, size


def up(width_in, width_out):
    """Two norms with gain and bias, two 3x3 convolutions, a 1x1 convolution beside them."""
    return 2 * width_in + 2 * width_out + (9 * width_in + 1) * width_out + (9 * width_out + 1) * width_out + (width_in + 1) * width_out


def down(width_in, width_out, *, inner, skip):
    return (9 * width_in + 1) * inner + (9 * inner + 1) * width_out + (width_in + 1) * width_out * skip


# 1802.05957, appendix B.4, tables 4 to 6, verified: places and maps after dense, maps after each block; those of D, how many halve.
TABLES = {
    32: (4, [256, 256, 256, 256], [128, 128, 128, 128], 2),
    48: (6, [512, 256, 128, 64], [64, 128, 256, 512, 1024], 4),
    128: (4, [1024, 1024, 512, 256, 128, 64], [64, 128, 256, 512, 1024, 1024], 5),
}


@pytest.mark.parametrize("resolution", TABLES)
def test_there_are_as_many_parameters_as_the_papers_tables_have(resolution):
    base, g, d, halvings = TABLES[resolution]
    expected = 129 * g[0] * base**2 + sum(map(up, g, g[1:])) + 2 * g[-1] + (9 * g[-1] + 1) * 3
    assert size(sngan, "generator", resolution, z_dim=128) == expected
    expected = down(3, d[0], inner=d[0], skip=True) + d[-1] + 1
    for index, (width_in, width_out) in enumerate(pairwise(d), start=1):
        expected += down(width_in, width_out, inner=width_in, skip=index < halvings or width_in != width_out)
    assert size(sngan, "discriminator", resolution) == expected


@pytest.mark.parametrize(("resolution", "places"), [(32, 8), (48, 3), (64, 4), (128, 4)])
def test_the_sum_goes_over_the_map_that_the_tables_halvings_leave(resolution, places):
    _, discriminator = make("sngan", resolution)
    assert discriminator.features(torch.randn(1, 3, resolution, resolution)).shape[2:] == (places, places)


def test_the_logit_is_of_the_sum_over_all_places_and_classes_enter_by_projection():
    """1802.05637, eq. 3, with the sum of 1802.05957's tables."""
    _, discriminator = make("sngan", num_classes=3)
    discriminator.embedding.weight.data.normal_()
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([2, 0])
    features = discriminator.features(images).sum((2, 3))
    expected = (
        features @ discriminator.logit.weight[0] + discriminator.logit.bias + (features * discriminator.embedding.weight[labels]).sum(1)
    )
    torch.testing.assert_close(discriminator(images, labels), expected)
    assert (discriminator.features(images) >= 0).all()


def test_the_first_block_does_not_rectify_the_image():
    block = sngan.DownBlock(3, 4, halves=True, first=True)
    plain = sngan.DownBlock(3, 4, halves=True)
    below, above = -torch.rand(1, 3, 8, 8) - 1, torch.rand(1, 3, 8, 8) + 1
    for one in (block, plain):
        one.skip = torch.nn.Identity()
        one.skip.forward = lambda images: 0.0
    assert torch.equal(plain(below), plain(2 * below))
    assert not torch.equal(block(below), block(2 * below))
    assert not torch.equal(plain(above), plain(2 * above))


def test_classes_have_their_own_gains_and_shifts():
    """1610.07629, eq. 5."""
    layer = sngan.Normalisation(4, 3, "batch")
    features = 5.0 + 2.0 * torch.randn(64, 4, 8, 8)
    labels = torch.arange(64) % 3
    layer.gain.weight.data[1] = 3.0
    layer.bias.weight.data[2] = 7.0
    normal = layer(features, labels)
    expected = functional.batch_norm(features, None, None, training=True)
    torch.testing.assert_close(normal[labels == 0], expected[labels == 0])
    torch.testing.assert_close(normal[labels == 1], 3.0 * expected[labels == 1])
    torch.testing.assert_close(normal[labels == 2], expected[labels == 2] + 7.0)


@pytest.mark.parametrize("norm", ["layer", "instance", "none"])
def test_other_norms_do_not_look_across_the_batch(norm):
    torch.manual_seed(0)
    generator = sngan.generator(resolution=32, channels=1, z_dim=4, num_classes=0, width=2, norm=norm)
    z = torch.randn(3, 4)
    torch.testing.assert_close(generator(z)[:1], generator(z[:1]), rtol=1e-4, atol=1e-6)
    with_batch = sngan.generator(resolution=32, channels=1, z_dim=4, num_classes=0, width=2)
    assert (with_batch(z)[:1] - with_batch(z[:1])).abs().max() > 1e-3


def test_weights_start_with_glorots_size():
    torch.manual_seed(0)
    generator = sngan.generator(resolution=32, channels=3, z_dim=128, num_classes=0)
    block = generator.blocks[1]
    inside, outside = (block.first, 2 * 256 * 9, math.sqrt(2)), (generator.last, (256 + 3) * 9, 1.0)
    for layer, fans, gain in (inside, outside, (block.skip, 512, 1.0), (generator.dense, 128 + 4096, 1.0)):
        assert layer.weight.std().item() == pytest.approx(gain * math.sqrt(2 / fans), rel=0.02)
        assert layer.bias.abs().max() == 0


def test_its_discriminator_can_be_spectrally_normalised():
    _, discriminator = make("sngan", num_classes=3)
    normalised = spectrally_normalised(discriminator)
    for _ in range(30):
        normalised(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
    for module in normalised.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            assert torch.linalg.matrix_norm(module.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("training", [True, False])
def test_one_class_s_gain_and_bias_go_through_batch_norm_as_those_of_many_do_after_it(training):
    one, many = (sngan.Normalisation(3, classes, "batch").double().train(training) for classes in (0, 2))
    torch.manual_seed(0)
    for parameter in one.parameters():
        parameter.data.normal_()
    many.gain.weight.data[:], many.bias.weight.data[:] = one.gain.weight.data, one.bias.weight.data
    features, labels = torch.randn(4, 3, 5, 5, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    for _ in range(2):
        torch.testing.assert_close(one(features, labels), many(features, labels), rtol=1e-12, atol=1e-12)
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(one.normalise, key), getattr(many.normalise, key), rtol=0, atol=0)
    assert one.normalise.num_batches_tracked == 2 * training
