import math
from collections import Counter

import pytest
import torch
from torch.nn import functional

from gan_core import keyed_noise
from gan_core.networks import stylegan2
from gan_core.networks._equalised import EqualisedConv, EqualisedLinear, ModulatedConv
from gan_core.networks._filters import Blur, doubled
from tests.gan_core.test_networks import make, size, stirred

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0])


def small(resolution=16, **options):
    torch.manual_seed(0)
    given = {"capacity": 64, "max_width": 8, "w_dim": 6, "mapping_layers": 2, **options}
    return stylegan2.generator(resolution=resolution, channels=3, z_dim=5, num_classes=0, **given)


def zeros_between(images):
    """[..., 2H, 2W]: each pixel, then a zero, on both axes."""
    spread = images.new_zeros(*images.shape[:-2], 2 * images.shape[-2], 2 * images.shape[-1])
    spread[..., ::2, ::2] = images
    return spread


@pytest.mark.parametrize(
    ("resolution", "capacity", "millions_g", "millions_d"),
    [
        (256, 16384, "24.767", "24.001"),  # R3GAN's table 2 (2501.05441), StyleGAN2 for FFHQ-256: verified
        (1024, 16384, "25", "24"),  # 1912.04958, section 4: the growth from config E to config F, from memory, not verified
        (1024, 32768, "30", "29"),
    ],
)
def test_there_are_as_many_parameters_as_in_the_paper(resolution, capacity, millions_g, millions_d):
    places = len(millions_g.partition(".")[2])
    g = size(stylegan2, "generator", resolution, z_dim=512, capacity=capacity)
    d = size(stylegan2, "discriminator", resolution, capacity=capacity)
    assert f"{g / 1e6:.{places}f}" == millions_g
    assert f"{d / 1e6:.{places}f}" == millions_d


def by_a_loop(layer, images, w):
    """The equations of 1912.04958, section 2.2, with weights made for each image."""
    results = []
    for image, style in zip(images, layer.style(w), strict=True):
        weights = layer.weight * layer.scale * style[None, :, None, None]  # eq. 1
        if layer.demodulate:
            weights = weights / (weights.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()  # eq. 3
        if layer.blur is None:
            results.append(functional.conv2d(image[None], weights, padding=layer.padding))
        else:
            larger = functional.conv2d(functional.pad(zeros_between(image[None]), (2, 1, 2, 1)), weights.flip(2, 3))
            kernel = (TAPS[:, None] * TAPS / 16).to(images.dtype)  # sums to 4: three of four pixels were zero
            results.append(functional.conv2d(larger.transpose(0, 1), kernel[None, None], padding=1).transpose(0, 1))
    return torch.cat(results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kernel", "up"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("demodulate", [True, False])
def test_modulated_convolutions_equal_a_loop_over_each_images_own_weights(dtype, kernel, demodulate, up):
    torch.manual_seed(0)
    layer = ModulatedConv(7, 5, kernel, 6, demodulate=demodulate, up=up).to(dtype)
    images, w = torch.randn(4, 7, 8, 8, dtype=dtype, requires_grad=True), torch.randn(4, 6, dtype=dtype, requires_grad=True)
    found, expected = layer(images, w), by_a_loop(layer, images, w)
    assert found.shape == (4, 5, 16, 16) if up else (4, 5, 8, 8)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    weights = torch.randn_like(expected)
    inputs = (images, w, *layer.parameters())
    for ours, theirs in zip(*(torch.autograd.grad((out * weights).sum(), inputs) for out in (found, expected)), strict=True):
        assert (ours - theirs).abs().max() <= 10 * tolerance * theirs.abs().max()


def test_demodulation_gives_maps_of_variance_1_whatever_the_style():
    """1912.04958, section 2.2: for independent inputs of variance 1."""
    torch.manual_seed(0)
    layer = ModulatedConv(64, 32, 3, 6)
    images = torch.randn(4, 64, 32, 32)
    for strength in (1.0, 30.0):
        found = layer(images, strength * torch.randn(4, 6))[:, :, 1:-1, 1:-1]
        assert found.std((2, 3)).mean().item() == pytest.approx(1.0, abs=0.02)


def test_the_blur_is_the_papers_filter():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 8)
    kernel = (TAPS[:, None] * TAPS / 64).expand(3, 1, 4, 4)
    torch.testing.assert_close(Blur(1, stride=2)(images), functional.conv2d(images, kernel, padding=1, groups=3)[:, :, ::2, ::2])
    larger = functional.conv2d(functional.pad(zeros_between(images), (2, 1, 2, 1)), 4 * kernel, groups=3)
    torch.testing.assert_close(doubled(images), larger)


def test_doubling_and_halving_keep_brightness_and_place():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    halved = Blur(1, stride=2)(ramp)
    torch.testing.assert_close(halved[0, 0, 4, 1:-1], torch.arange(1, 7) * 2.0 + 0.5)  # between the two pixels that it stands for
    torch.testing.assert_close(doubled(halved)[0, 0, 8, 3:-3], ramp[0, 0, 0, 3:-3])


@pytest.mark.parametrize("multiplier", [1.0, 0.01])
def test_equalised_layers_move_in_proportion_to_their_size(multiplier):
    """1710.10196, section 4.1: the effective deviation is 1/sqrt(fan-in), and Adam's first step is lr times multiplier of it."""
    torch.manual_seed(0)
    layer = EqualisedLinear(400, 300, bias=1.0, lr_multiplier=multiplier)
    effective = layer(torch.eye(400)) - layer(torch.zeros(1, 400))
    assert effective.std().item() == pytest.approx(1 / 20, rel=0.01)
    assert torch.allclose(layer(torch.zeros(1, 400)), torch.ones(1, 300))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.002, betas=(0.0, 0.99))
    layer(torch.randn(8, 400)).square().mean().backward()
    optimizer.step()
    moved = (layer(torch.eye(400)) - layer(torch.zeros(1, 400))) - effective
    assert (moved.abs().mean() / effective.std()).item() == pytest.approx(0.002 * multiplier, rel=0.05)


def test_equalised_convolutions_start_with_the_deviation_of_their_fan_in():
    torch.manual_seed(0)
    layer = EqualisedConv(32, 64, 3)
    assert (layer.weight * layer.scale).std().item() == pytest.approx(1 / math.sqrt(32 * 9), rel=0.02)
    outputs = layer(torch.randn(2, 32, 32, 32))[:, :, 1:-1, 1:-1]
    assert outputs.std().item() == pytest.approx(1.0, rel=0.05)


def test_noise_is_that_of_the_key_at_the_learned_strength():
    generator = small()
    layer = generator.styled[2]
    layer.bias.data.fill_(50.0)  # all activations positive
    features, w, keys = torch.randn(3, 8, 8, 8), torch.randn(3, 6), torch.tensor([5, 6, 5])
    plain = layer(features, w, keys)
    layer.noise_strength.data.fill_(0.7)
    difference = (layer(features, w, keys) - plain) / math.sqrt(2)
    noise = keyed_noise.normals(keys, stylegan2.FIRST_NOISE + 2, 1, 8, 8)
    torch.testing.assert_close(difference, 0.7 * noise.expand(-1, 8, -1, -1), atol=2e-5, rtol=0)


def test_noise_has_no_influence_at_first_and_differs_between_layers_and_keys():
    generator = small().eval()
    w = torch.randn(2, 6)
    assert torch.equal(generator.synthesise(w), generator.synthesise(w, torch.tensor([1, 2])))
    assert all(layer.noise_strength == 0 for layer in generator.styled)
    assert len({layer.stream for layer in generator.styled}) == len(generator.styled) == 5
    stirred(generator)
    assert torch.equal(generator.synthesise(w), generator.synthesise(w, torch.zeros(2, dtype=torch.int64)))
    same = generator.synthesise(w[:1].expand(2, -1), torch.tensor([1, 2]))
    assert (same[0] - same[1]).std() > 0.1 * same.std()


def test_without_noise_inputs_keys_mean_nothing():
    generator = small(noise=False).eval()
    assert not any("noise" in key for key, _ in generator.named_parameters())
    w = torch.randn(2, 6)
    assert torch.equal(generator.synthesise(w), generator.synthesise(w, torch.tensor([1, 2])))


def test_the_same_z_gives_the_same_image_beside_any_others():
    """Also in training, where noise and mixing take part."""
    generator = stirred(small(style_mixing=0.5))
    z = torch.randn(9, 5)
    images = generator(z)
    order = torch.randperm(9)
    torch.testing.assert_close(generator(z[order]), images[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([generator(one[None]) for one in z]), images, rtol=1e-4, atol=1e-5)
    assert torch.equal(generator(z), images)


def test_mixing_takes_another_w_from_a_random_layer_on():
    generator = small(style_mixing=1.0)
    z = torch.randn(2000, 5)
    own = generator.map(z)
    other = generator.map(keyed_noise.normals(keyed_noise.keys(z), stylegan2.SECOND_Z, 5))
    styles = generator.styles(z)
    assert generator.layers == 6 and styles.shape == (2000, 6, 6)
    of_own = (styles == own[:, None]).all(2)
    of_other = (styles == other[:, None]).all(2)
    assert (of_own ^ of_other).all()
    crossovers = of_own.sum(1)
    assert torch.equal(of_own, torch.arange(6) < crossovers[:, None])  # own first, then the other's
    counts = Counter(crossovers.tolist())
    assert set(counts) == {1, 2, 3, 4, 5}
    assert sum((counts[k] - 400) ** 2 / 400 for k in counts) < 18.5  # chi-square with 4 degrees of freedom, p = 0.001


def test_mixing_leaves_the_layers_before_the_crossover_as_they_are():
    generator = small(noise=False)
    first, second = torch.randn(2, 1, 6)
    outputs = []
    for layer in generator.styled:
        layer.register_forward_hook(lambda _, __, output: outputs.append(output))
    for crossover in range(1, generator.layers):
        w = torch.cat([first[:, None].expand(-1, crossover, -1), second[:, None].expand(-1, generator.layers - crossover, -1)], 1)
        outputs.clear()
        generator.synthesise(first)
        generator.synthesise(w)
        plain, mixed = outputs[: len(generator.styled)], outputs[len(generator.styled) :]
        assert [torch.equal(a, b) for a, b in zip(plain, mixed, strict=True)] == [layer < crossover for layer in range(5)]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_as_many_images_are_mixed_as_asked_for(share):
    generator = small(style_mixing=share)
    styles = generator.styles(torch.randn(4000, 5))
    mixed = (styles[:, 0] != styles[:, -1]).any(1).float().mean().item()
    assert mixed == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4000))


def test_evaluation_never_mixes():
    generator = small(style_mixing=1.0).eval()
    z = torch.randn(50, 5)
    assert torch.equal(generator.styles(z), generator.map(z)[:, None].expand(-1, 6, -1))
    torch.testing.assert_close(generator(z), generator.synthesise(generator.map(z), keyed_noise.keys(z)).clamp(-1, 1))


def test_every_layers_w_is_used_and_the_last_one_by_rgb_alone():
    generator = small()
    w = torch.randn(2, generator.layers, 6, requires_grad=True)
    (slope,) = torch.autograd.grad(generator.synthesise(w).square().sum(), w)
    assert (slope.abs().sum((0, 2)) > 0).all()
    moved = w.detach().clone()
    moved[:, -1] += 1.0
    outputs = []
    generator.styled[-1].register_forward_hook(lambda _, __, output: outputs.append(output))
    before, after = generator.synthesise(w.detach()), generator.synthesise(moved)
    assert torch.equal(*outputs) and (before - after).abs().max() > 1e-3


@pytest.mark.parametrize(("resolution", "layers"), [(4, 2), (8, 4), (256, 14), (1024, 18)])
def test_there_are_two_layers_for_each_doubling(resolution, layers):
    """1912.04958: 18 of them at 1024."""
    with torch.device("meta"):
        assert stylegan2.generator(resolution=resolution, channels=3, z_dim=8, num_classes=0).layers == layers


def test_only_the_direction_of_z_matters_to_w():
    generator = small()
    z = torch.randn(3, 5)
    torch.testing.assert_close(generator.map(z), generator.map(7.0 * z), rtol=1e-4, atol=1e-5)
    assert generator.map(torch.zeros(1, 5)).isfinite().all()


def test_a_generators_w_and_image_start_with_sizes_near_1():
    torch.manual_seed(0)
    generator = stylegan2.generator(resolution=32, channels=3, z_dim=64, num_classes=0, capacity=2048, w_dim=64)
    z = torch.randn(64, 64)
    assert 0.5 < generator.map(z).std() < 2.0
    assert 0.3 < generator(z).std() < 4.0


def test_a_label_changes_w():
    generator, _ = make("stylegan2", num_classes=4)
    z = torch.randn(1, 5).expand(2, 5)
    w = generator.map(z, torch.tensor([0, 1]))
    assert (w[0] - w[1]).abs().max() > 0.01
    assert generator.mapping.layers[0].weight.shape == (6, 5 + 6)


def test_deviations_are_those_within_groups_of_consecutive_images():
    torch.manual_seed(0)
    features = torch.randn(8, 3, 4, 4, dtype=torch.float64)
    found = stylegan2.deviation_map(features, 4)
    assert found.shape == (8, 1, 4, 4)
    for group in range(2):
        images = features[4 * group : 4 * group + 4]
        expected = (images.var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(found[4 * group : 4 * group + 4], expected.expand(4, 1, 4, 4))


@pytest.mark.parametrize(("batch", "used"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (7, 1), (8, 4), (10, 2)])
def test_a_batch_that_groups_do_not_divide_has_smaller_ones(batch, used):
    features = torch.randn(batch, 2, 4, 4)
    deviations = stylegan2.deviation_map(features, 4)[:, 0, 0, 0]
    assert torch.equal(deviations, stylegan2.deviation_map(features, used)[:, 0, 0, 0])
    assert len(set(deviations.tolist())) == (1 if used == 1 else batch // used)


def test_the_discriminator_says_how_large_its_groups_are_and_can_do_without():
    _, discriminator = make("stylegan2")
    assert discriminator.minibatch_stddev_group == 4
    alone = stylegan2.discriminator(resolution=16, channels=3, num_classes=0, capacity=64, max_width=8, minibatch_stddev_group=None)
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(alone(images)[:1], alone(images[:1]), rtol=1e-4, atol=1e-5)
    assert (discriminator(images)[:1] - discriminator(images[:1])).abs().max() > 1e-4


def test_a_capacity_below_the_resolution_is_refused():
    with pytest.raises(ValueError, match="capacity 31 leaves no maps at resolution 32; it needs 32 at least"):
        stylegan2.generator(resolution=32, channels=3, z_dim=8, num_classes=0, capacity=31)
