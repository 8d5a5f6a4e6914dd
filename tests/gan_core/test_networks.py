import pytest
import torch

from gan_core import registry
from gan_core.networks import dcgan, mlp

NETWORKS = registry.choices("gan_core.networks")
SIZES = [(8, 1), (16, 3), (28, 1), (32, 3), (64, 3), (128, 1), (256, 3)]


def make(name, resolution=16, channels=3, num_classes=0, **options):
    module = registry.find("gan_core.networks", name)
    torch.manual_seed(0)
    shape = {"resolution": resolution, "channels": channels, "num_classes": num_classes}
    small = {"width": 4, "max_width": 8} if name == "dcgan" else {"hidden_width": 8}
    return module.generator(**shape, z_dim=5, **small, **options), module.discriminator(**shape, **small, **options)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("resolution", "channels"), SIZES)
def test_shapes_are_those_of_the_contract(name, resolution, channels):
    generator, discriminator = make(name, resolution, channels)
    images = generator(torch.randn(3, 5))
    assert images.shape == (3, channels, resolution, resolution)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (3,)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name):
    generator, discriminator = make(name, num_classes=4)
    labels = torch.tensor([0, 1, 2, 3])
    discriminator.embedding.weight.data.normal_()
    discriminator(generator(torch.randn(4, 5), labels), labels).square().mean().backward()
    for network in (generator, discriminator):
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", NETWORKS)
def test_a_discriminator_can_be_differentiated_twice(name):
    _, discriminator = make(name)
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    slope.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in discriminator.parameters() if parameter.grad is not None)
    assert sum(parameter.grad.abs().sum() for parameter in discriminator.parameters() if parameter.grad is not None) > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_labels_change_what_both_players_say(name):
    generator, discriminator = make(name, num_classes=4)
    discriminator.embedding.weight.data.normal_()
    z = torch.randn(1, 5).expand(2, 5)
    generator.eval()
    discriminator.eval()
    images = generator(z, torch.tensor([0, 1]))
    assert (images[0] - images[1]).abs().max() > 1e-4
    logits = discriminator(images[:1].expand(2, -1, -1, -1), torch.tensor([0, 1]))
    assert (logits[0] - logits[1]).abs() > 1e-6


def test_dcgan_starts_from_the_weights_of_its_paper():
    """1511.06434, section 4: a zero-centred normal distribution with standard deviation 0.02."""
    torch.manual_seed(0)
    generator = dcgan.generator(resolution=64, channels=3, z_dim=100, num_classes=0)
    weights = torch.cat([m.weight.flatten() for m in generator.modules() if isinstance(m, torch.nn.ConvTranspose2d)])
    assert abs(weights.mean().item()) < 1e-4
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    gains = torch.cat([m.weight for m in generator.modules() if isinstance(m, torch.nn.BatchNorm2d)])
    assert gains.mean().item() == pytest.approx(1.0, abs=0.005)
    assert gains.std().item() == pytest.approx(0.02, rel=0.15)


def test_dcgan_has_the_layers_of_its_paper():
    """1511.06434, figure 1: 4x4x1024, then 8, 16, 32, 64; no normalisation on D's input and G's output."""
    generator = dcgan.generator(resolution=64, channels=3, z_dim=100, num_classes=0, width=128, max_width=1024)
    convolutions = [m for m in generator.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert [m.out_channels for m in convolutions] == [1024, 512, 256, 128, 3]
    discriminator = dcgan.discriminator(resolution=64, channels=3, num_classes=0)
    kinds = [type(m).__name__ for m in discriminator.features]
    assert kinds[:3] == ["Conv2d", "LeakyReLU", "Conv2d"]
    assert kinds.count("BatchNorm2d") == 3


@pytest.mark.parametrize(("resolution", "nearest"), [(1, "[8, 10]"), (30, "[28, 32]"), (100, "[96, 112]"), (512, "[224, 256]")])
def test_a_resolution_that_dcgan_cannot_make_names_those_it_can(resolution, nearest):
    with pytest.raises(ValueError, match="dcgan cannot make resolution") as caught:
        dcgan.generator(resolution=resolution, channels=1, z_dim=2, num_classes=0)
    assert f"nearest: {nearest}" in str(caught.value)


def test_maxout_takes_the_largest_of_its_pieces():
    layer = mlp.Maxout(3, 2, pieces=4)
    inputs = torch.randn(5, 3)
    pieces = (inputs @ layer.linear.weight.T + layer.linear.bias).view(5, 4, 2)
    torch.testing.assert_close(layer(inputs), pieces.max(1).values)


def test_the_paper_discriminator_of_2014_can_be_built():
    discriminator = mlp.discriminator(
        resolution=28, channels=1, num_classes=0, hidden_width=240, hidden_layers=2, maxout_pieces=5, dropout=0.5
    )
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == (784 * 1200 + 1200) + (240 * 1200 + 1200) + 241
