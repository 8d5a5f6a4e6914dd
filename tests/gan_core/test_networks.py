import copy

import pytest
import torch

from gan_core import registry
from gan_core.networks import dcgan, mlp, r3gan, sngan, stylegan2
from gan_core.regularizers import REGULARIZERS

NETWORKS = registry.choices("gan_core.networks")
SMALL = {
    "dcgan": {"width": 4, "max_width": 8},
    "mlp": {"hidden_width": 8},
    "r3gan": {"width": 4, "max_width": 8, "blocks": 1},
    "sngan": {"width": 2},
    "stylegan2": {"capacity": 64, "max_width": 8},
}
GENERATORS = {"stylegan2": {"w_dim": 6, "mapping_layers": 2}}
EASIEST = {"sngan": 32}  # the smallest resolution, where 16 is too small
FREE_OF_BATCH = {"dcgan": {"norm": "layer"}, "sngan": {"norm": "layer"}}
SIZES = [(4, 1), (8, 1), (16, 3), (28, 1), (32, 3), (64, 3), (128, 1), (256, 3), (512, 1)]
KNOWN = {
    "dcgan": dcgan.RESOLUTIONS,
    "mlp": [4, 8, 28, 256],
    "r3gan": [4, 8, 16, 32, 64, 128, 256, 512],
    "sngan": [32, 48, 64, 128],
    "stylegan2": [4, 8, 16, 32, 64, 128, 256, 512],
}


def make(name, resolution=None, channels=3, num_classes=0, free_of_batch=False, z_dim=5):
    module = registry.find("gan_core.networks", name)
    torch.manual_seed(0)
    resolution = resolution or EASIEST.get(name, 16)
    shape = {"resolution": resolution, "channels": channels, "num_classes": num_classes}
    small = dict(SMALL[name])
    if name == "stylegan2":
        small["capacity"] = max(64, resolution)
    free = FREE_OF_BATCH.get(name, {}) if free_of_batch else {}
    generator = module.generator(**shape, z_dim=z_dim, **small, **GENERATORS.get(name, {}), **free)
    return generator, module.discriminator(**shape, **small, **(free if name == "dcgan" else {}))


def stirred(*networks):
    """With numbers in the parameters that start at zero, so that nothing is hidden behind them."""
    for network in networks:
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, 0.0, 0.3)
    return networks if len(networks) > 1 else networks[0]


def images_for(discriminator_resolution, count=8, channels=3, dtype=torch.float32):
    source = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, discriminator_resolution, discriminator_resolution, generator=source, dtype=dtype).tanh()


@pytest.mark.parametrize(
    ("name", "resolution", "channels"), [(name, *size) for name in NETWORKS for size in SIZES if size[0] in KNOWN[name]]
)
def test_shapes_are_those_of_the_contract(name, resolution, channels):
    generator, discriminator = make(name, resolution, channels)
    z = torch.randn(2, 5)
    assert generator(z).shape == (2, channels, resolution, resolution)
    images = generator.eval()(z)
    assert images.shape == (2, channels, resolution, resolution)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (2,)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name):
    generator, discriminator = stirred(*make(name, num_classes=4, free_of_batch=True))
    labels = torch.tensor([0, 1, 2, 3])
    discriminator(generator(torch.randn(4, 5), labels), labels).square().mean().backward()
    for network in (generator, discriminator):
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", NETWORKS)
def test_a_discriminator_can_be_differentiated_twice(name):
    _, discriminator = make(name)
    images = images_for(EASIEST.get(name, 16), 4).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    slope.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in discriminator.parameters() if parameter.grad is not None)
    assert sum(parameter.grad.abs().sum() for parameter in discriminator.parameters() if parameter.grad is not None) > 0


def changes(network, penalty):
    """How the penalty changes along a random direction of all parameters: by its gradient, and by differences.

    Its slope jumps where a ReLU's input passes zero, so that the step must be short.
    """
    parameters = list(network.parameters())
    torch.manual_seed(3)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    by_gradient = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)
    sides = []
    for step in (1e-8, -2e-8):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=step)
        sides.append(penalty().detach())
    return by_gradient.item(), ((sides[0] - sides[1]) / 2e-8).item()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("num_classes", [0, 3])
def test_r1_has_the_right_gradient_in_every_discriminator(name, num_classes):
    _, discriminator = make(name, num_classes=num_classes, free_of_batch=True)
    discriminator = stirred(discriminator).double()
    images = images_for(EASIEST.get(name, 16), 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0]) if num_classes else None
    by_gradient, by_differences = changes(discriminator, lambda: REGULARIZERS["r1"](discriminator, images, images, labels).mean())
    assert abs(by_differences) > 1e-4
    assert by_gradient == pytest.approx(by_differences, rel=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_slope_of_an_image_in_z_has_the_right_gradient_in_every_generator(name, num_classes):
    generator, _ = make(name, num_classes=num_classes, free_of_batch=True)
    generator = stirred(generator).double()
    z = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0]) if num_classes else None

    def slope():
        images = generator(z, labels)
        weights = torch.linspace(-1, 1, images.numel(), dtype=torch.float64).mul(50).sin().view_as(images)
        return torch.autograd.grad((images * weights).sum(), z, create_graph=True)[0].square().sum()

    by_gradient, by_differences = changes(generator, slope)
    assert abs(by_differences) > 1e-4
    assert by_gradient == pytest.approx(by_differences, rel=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_labels_change_what_both_players_say(name):
    generator, discriminator = make(name, num_classes=4)
    discriminator.embedding.weight.data.normal_()
    stirred(generator)
    z = torch.randn(1, 5).expand(2, 5)
    if name == "sngan":
        generator.norm.gain.weight.data.normal_()
    generator.eval()
    discriminator.eval()
    images = generator(z, torch.tensor([0, 1]))
    assert (images[0] - images[1]).abs().max() > 1e-4
    logits = discriminator(images[:1].expand(2, -1, -1, -1), torch.tensor([0, 1]))
    assert (logits[0] - logits[1]).abs() > 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_classes_start_without_influence_on_the_discriminator(name):
    _, discriminator = make(name, num_classes=4)
    assert discriminator.embedding.weight.abs().max() == 0
    assert discriminator.logit.weight.abs().max() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_last_gives_the_same_images_logits_and_gradients(name):
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        networks = stirred(*make(name, free_of_batch=True))
        generator, discriminator = (network.to(memory_format=memory_format) for network in networks)
        z = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
        images = generator(z).contiguous(memory_format=memory_format)
        logits = discriminator(images)
        logits.square().mean().backward()
        gradients = [parameter.grad for network in networks for parameter in network.parameters()]
        results.append([images, logits, *gradients])
    for plain, last in zip(*results, strict=True):
        assert (plain - last).abs().max() <= 1e-5 * max(1.0, plain.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_autocast_is_finite_and_close(name):
    generator, discriminator = stirred(*make(name, num_classes=3, free_of_batch=True))
    z, labels = torch.randn(8, 5, generator=torch.Generator().manual_seed(2)), torch.arange(8) % 3
    images = generator(z, labels)
    logits = discriminator(images, labels)
    with torch.autocast("cpu", torch.bfloat16):
        rough = generator(z, labels)
        rough_logits = discriminator(images, labels)
    assert (rough - images).std() < 0.03 * images.std()
    assert (rough_logits - logits).abs().max() < 0.1 * max(logits.std(), logits.abs().mean())
    rough_logits.float().square().mean().backward()
    rough.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for network in (generator, discriminator) for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_gives_what_its_halves_give(name):
    """So that results do not depend on how many ranks divide a batch; with batch norm they would."""
    generator, discriminator = (network.double() for network in stirred(*make(name, num_classes=3, free_of_batch=True)))
    z, labels = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), torch.arange(8) % 3
    images = generator(z, labels)
    halves = torch.cat([generator(z[half], labels[half]) for half in (slice(4), slice(4, 8))])
    torch.testing.assert_close(halves, images, rtol=1e-12, atol=1e-12)
    logits = discriminator(images, labels)
    halves = torch.cat([discriminator(images[half], labels[half]) for half in (slice(4), slice(4, 8))])
    torch.testing.assert_close(halves, logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("num_classes", [0, 3])
def test_an_exported_generator_gives_the_same_images_for_any_batch(name, num_classes):
    generator = stirred(make(name, 32, num_classes=num_classes)[0]).eval().requires_grad_(False)
    z, labels = torch.randn(7, 5), torch.arange(7) % 3
    batch = torch.export.Dim("batch", min=1, max=2**16)
    given = (z[:2], labels[:2]) if num_classes else (z[:2],)
    shapes = {"z": {0: batch}, **({"labels": {0: batch}} if num_classes else {})}
    exported = torch.export.export(generator, given, dynamic_shapes=shapes).module()
    for count in (1, 2, 7):
        given = (z[:count], labels[:count]) if num_classes else (z[:count],)
        torch.testing.assert_close(exported(*given), generator(*given), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_copy_of_a_network_is_independent_and_its_state_can_be_loaded(name):
    """What the average of the generator needs."""
    generator, _ = make(name, num_classes=3)
    other = copy.deepcopy(stirred(copy.deepcopy(generator)))
    other.load_state_dict(generator.state_dict())
    z, labels = torch.randn(3, 5), torch.tensor([0, 1, 2])
    assert torch.equal(generator.eval()(z, labels), other.eval()(z, labels))


@pytest.mark.parametrize("module", [r3gan, sngan, stylegan2])
@pytest.mark.parametrize("resolution", [1, 2, 28, 100, 2048])
def test_a_resolution_that_a_network_cannot_make_names_those_it_can(module, resolution):
    name = module.__name__.rpartition(".")[2]
    with pytest.raises(ValueError, match=f"{name} cannot make resolution {resolution}; set data.resolution to one of"):
        module.generator(resolution=resolution, channels=1, z_dim=2, num_classes=0)
    with pytest.raises(ValueError, match=f"{name} cannot make resolution {resolution}; set data.resolution to one of"):
        module.discriminator(resolution=resolution, channels=1, num_classes=0)


@pytest.mark.parametrize("module", [r3gan, stylegan2])
def test_an_unbounded_generator_is_clamped_in_evaluation_only(module):
    generator, _ = make(module.__name__.rpartition(".")[2])
    for parameter in (generator.to_rgb[-1].bias,) if module is stylegan2 else (generator.to_image.weight,):
        parameter.data.fill_(3.0)
    z = torch.randn(2, 5)
    free, bounded = generator(z), generator.eval()(z)
    assert free.abs().max() > 1.5
    assert bounded.abs().max() == 1.0
    if module is r3gan:
        assert torch.equal(bounded, free.clamp(-1, 1))


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def size(module, player, resolution, **options):
    """How many parameters the network for RGB images without classes has; no memory is used."""
    z_dim = {"z_dim": options.pop("z_dim")} if player == "generator" else {}
    with torch.device("meta"):
        return count(getattr(module, player)(resolution=resolution, channels=3, num_classes=0, **z_dim, **options))


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
