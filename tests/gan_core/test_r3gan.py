import math

import pytest
import torch

from gan_core.networks import r3gan
from tests.gan_core.test_networks import make, size

FFHQ_256 = {"widths": [768, 768, 768, 768, 384, 192, 96], "groups": [96, 96, 96, 96, 48, 24, 12], "blocks": 2, "expansion": 2}


def test_there_are_as_many_parameters_as_in_the_paper():
    """2501.05441, table 2, config E with both changes, verified: 23.058M and 23.010M on FFHQ-256, z of 64 numbers (section 3)."""
    assert size(r3gan, "generator", 256, z_dim=64, **FFHQ_256) == 23_057_952
    assert size(r3gan, "discriminator", 256, **FFHQ_256) == 23_009_568


@pytest.mark.parametrize(("resolution", "millions"), [(256, ("23.06", "23.01")), (64, ("22.43", "22.38")), (32, ("20.73", "20.68"))])
def test_there_are_as_many_parameters_as_in_the_papers_table_of_experiments(resolution, millions):
    """2501.05441, table 9, verified: FFHQ at 256 and 64, Stacked-MNIST at 32; small ones are the large ones' first stages."""
    stages = int(math.log2(resolution)) - 1
    options = {key: value[:stages] if isinstance(value, list) else value for key, value in FFHQ_256.items()}
    counts = size(r3gan, "generator", resolution, z_dim=64, **options), size(r3gan, "discriminator", resolution, **options)
    assert tuple(f"{count / 1e6:.2f}" for count in counts) == millions


def test_a_width_gives_the_papers_sizes_too():
    for player, z_dim in (("generator", {"z_dim": 64}), ("discriminator", {})):
        assert size(r3gan, player, 256, **z_dim, **FFHQ_256) == size(r3gan, player, 256, **z_dim, width=96, max_width=768)


def test_blocks_start_as_the_identity_and_their_first_layers_with_fixups_size():
    """1901.09321, section 3: L^(-1/4) times He's size, the last convolution zero; 2501.05441, section 3."""
    torch.manual_seed(0)
    generator = r3gan.generator(resolution=32, channels=3, z_dim=64, num_classes=0, width=64, max_width=128)
    blocks = [module for module in generator.modules() if isinstance(module, r3gan.ResidualBlock)]
    assert len(blocks) == 8
    features = torch.randn(2, 128, 4, 4)
    assert torch.equal(blocks[0](features), features)
    gain = math.sqrt(2 / 1.04) * 8**-0.25
    first, grouped, last = blocks[0].layers[0], blocks[0].layers[2], blocks[0].layers[4]
    assert first.weight.std().item() == pytest.approx(gain / math.sqrt(128), rel=0.02)
    assert grouped.weight.std().item() == pytest.approx(gain / math.sqrt(16 * 9), rel=0.02)
    assert (grouped.groups, grouped.in_channels, last.bias) == (16, 256, None)


@pytest.mark.parametrize("resolution", [8, 256])
def test_images_start_with_a_size_near_1_at_any_depth(resolution):
    torch.manual_seed(0)
    generator, discriminator = make("r3gan", resolution, z_dim=64)
    images = generator(torch.randn(8, 64))
    assert 0.2 < images.std() < 3.0
    assert 0.01 < discriminator(torch.randn(8, 3, resolution, resolution)).std() < 3.0


def test_half_of_a_doubled_image_and_a_ramp_are_linear():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    up, down = r3gan.Up(1, 1), r3gan.Down(1, 1)
    torch.testing.assert_close(up(ramp)[0, 0, 5, 1:-1], torch.arange(1, 15) / 2 - 0.25)
    torch.testing.assert_close(down(ramp)[0, 0, 2], torch.arange(4) * 2 + 0.5)


def test_the_convolution_and_the_change_of_resolution_can_change_places():
    """2501.05441, section 3: resampling, then a 1x1 convolution; here the cheaper order."""
    torch.manual_seed(0)
    up, features = r3gan.Up(6, 4), torch.randn(2, 6, 4, 4)
    larger = torch.nn.functional.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(up(features), up.convolution(larger))


def test_there_is_no_normalisation_no_tanh_and_no_dependence_on_other_images():
    generator, discriminator = make("r3gan")
    kinds = {type(module).__name__ for network in (generator, discriminator) for module in network.modules()}
    assert not [kind for kind in kinds if "Norm" in kind or "Tanh" in kind]
    images = generator(torch.randn(4, 5))
    torch.testing.assert_close(discriminator(images)[:1], discriminator(images[:1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [8, 8, 8, 8]}, r"widths \[8, 8, 8, 8\] has 4 numbers; resolution 16 needs 3, for \[4, 8, 16\]"),
        ({"blocks": [1, 2]}, r"blocks \[1, 2\] has 2 numbers; resolution 16 needs 3"),
        ({"groups": [1, 1, 3]}, "64 x 2 maps cannot be divided into 3 groups"),
        ({"width": 28}, "28 x 2 maps cannot be divided into 3 groups; take multiples of 8, or set groups"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_what_would(options, message):
    shape = {"resolution": 16, "channels": 3, "num_classes": 0}
    with pytest.raises(ValueError, match=message):
        r3gan.discriminator(**shape, **options)


def test_lists_go_from_4x4_upward_in_both_players():
    shape = {"resolution": 16, "channels": 3, "num_classes": 0, "widths": [16, 8, 24], "blocks": [1, 2, 3]}
    generator, discriminator = r3gan.generator(**shape, z_dim=4), r3gan.discriminator(**shape)
    assert generator.basis.shape == (16, 4, 4) and generator.to_image.in_channels == 24
    assert discriminator.features[0].out_channels == 24 and discriminator.logit.in_features == 16
    order = [
        [m.layers[0].in_channels for m in network.modules() if isinstance(m, r3gan.ResidualBlock)] for network in (generator, discriminator)
    ]
    assert order == [[16, 8, 8, 24, 24, 24], [24, 24, 24, 8, 8, 16]]
