"""Every penalty of REGULARIZERS against a closed form, on discriminators whose gradient is known without autograd."""

import math
import statistics

import numpy as np
import pytest
import torch
from torch import nn

from gan_core.regularizers import REGULARIZERS, Given, largest_shift

SHAPE = (2, 8, 16)  # height and width differ, and so do the shifts of bcr: 1 and 2 pixels
PIXELS = math.prod(SHAPE)
BATCH, CLASSES = 5, 3
each_penalty = pytest.mark.parametrize("name", REGULARIZERS)


class Quadratic:
    """D(x, label) = (w + c_label) . x + x . A x / 2, so that the gradient is w + c_label + A x, over all of C, H, W."""

    def __init__(self, scale=1.0):
        source = torch.Generator().manual_seed(1)
        draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=source)  # noqa: E731
        square = draw(PIXELS, PIXELS) * scale / PIXELS
        self.linear, self.curvature, self.classes = draw(PIXELS) * scale / 8, square + square.T, draw(CLASSES, PIXELS) * scale / 8

    def __call__(self, images, labels):
        flat = images.flatten(1)
        linear = self.linear if labels is None else self.linear + self.classes[labels]
        return (flat * linear).sum(1) + (flat * (flat @ self.curvature)).sum(1) / 2.0

    def gradient(self, images, labels):
        linear = self.linear if labels is None else self.linear + self.classes[labels]
        return linear + images.flatten(1) @ self.curvature


class Smooth(nn.Module):
    """a . tanh(W x + b_label): bent, so that a penalty on its gradient reaches every parameter."""

    def __init__(self, scale=1.0):
        super().__init__()
        source = torch.Generator().manual_seed(2)
        draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=source) * scale  # noqa: E731
        self.weight, self.output = nn.Parameter(draw(7, PIXELS) / 6), nn.Parameter(draw(7))
        self.offset = nn.Parameter(draw(CLASSES, 7))

    def forward(self, images, labels):
        return (images.flatten(1) @ self.weight.T + self.offset[labels]).tanh() @ self.output


def material():
    """Real and fake images, and their labels, which differ."""
    source = torch.Generator().manual_seed(3)
    real, fake = (torch.rand(BATCH, *SHAPE, dtype=torch.float64, generator=source) * 2 - 1 for _ in range(2))
    return real, fake, torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 2, 0, 1, 0])


def given_for(name, fake_labels=None, **rest):
    source = torch.Generator().manual_seed(4)
    count = REGULARIZERS[name].draws(torch.Size(SHAPE))
    uniforms = torch.rand(BATCH, count, dtype=torch.float64, generator=source) if count else None
    return Given(fake_labels, uniforms, **{"anchors": torch.tensor([0.7, -0.4], dtype=torch.float64), **rest})


def norm(slope):
    return torch.tensor([math.sqrt(sum(value**2 for value in row)) for row in slope.tolist()], dtype=torch.float64)


def between(real, fake, given):
    return torch.stack([share * r + (1.0 - share) * f for share, r, f in zip(given.uniforms[:, 0].tolist(), real, fake)])


def around(real, given):
    normal = [[statistics.NormalDist().inv_cdf(u) for u in row] for row in given.uniforms.tolist()]
    return real + 0.3 * torch.tensor(normal, dtype=torch.float64).view_as(real)


def shifted(images, given):
    """By numpy's own mirror: row i of the result is row i - down of the image, with `down` in {-1, 0, 1}, `right` in {-2, ..., 2}."""
    results = []
    for image, (first, second) in zip(images.numpy(), given.uniforms.tolist()):
        down, right = 1 - int(first * 3), 2 - int(second * 5)
        padded = np.pad(image, ((0, 0), (8, 8), (16, 16)), mode="reflect")
        results.append(torch.from_numpy(padded[:, 8 - down : 16 - down, 16 - right : 32 - right].copy()))
    return torch.stack(results)


CLOSED = {
    "r1": lambda d, r, f, labels, given: norm(d.gradient(r, labels)) ** 2,
    "r2": lambda d, r, f, labels, given: norm(d.gradient(f, given.fake_labels)) ** 2,
    "gp": lambda d, r, f, labels, given: (norm(d.gradient(between(r, f, given), labels)) - 1) ** 2,
    "gp_one_sided": lambda d, r, f, labels, given: (norm(d.gradient(between(r, f, given), labels)) - 1).clamp(min=0) ** 2,
    "gp_zero_centred": lambda d, r, f, labels, given: norm(d.gradient(between(r, f, given), labels)) ** 2,
    "dragan": lambda d, r, f, labels, given: (norm(d.gradient(around(r, given), labels)) - 1) ** 2,
    "bcr": lambda d, r, f, labels, given: (
        (d(r, labels) - d(shifted(r, given), labels)) ** 2 + (d(f, given.fake_labels) - d(shifted(f, given), given.fake_labels)) ** 2
    ),
    "lecam": lambda d, r, f, labels, given: (d(r, labels) + 0.4) ** 2 + (d(f, given.fake_labels) - 0.7) ** 2,
}
# The weight's key, what multiplies it, and how many uniform numbers an image of SHAPE needs.
TERMS = {
    "r1": ("r1_gamma", 0.5, 0),
    "r2": ("r2_gamma", 0.5, 0),
    "gp": ("gp_lambda", 1.0, 1),
    "gp_one_sided": ("gp_one_sided_lambda", 1.0, 1),
    "gp_zero_centred": ("gp_zero_centred_lambda", 1.0, 1),
    "dragan": ("dragan_lambda", 1.0, PIXELS),
    "bcr": ("bcr_lambda", 1.0, 2),
    "lecam": ("lecam_lambda", 1.0, 0),
}


def test_every_penalty_has_its_closed_form_and_terms():
    assert REGULARIZERS.keys() == CLOSED.keys() == TERMS.keys()
    for name, regularizer in REGULARIZERS.items():
        assert (regularizer.weight_key, regularizer.factor, regularizer.draws(torch.Size(SHAPE))) == TERMS[name]


@each_penalty
def test_a_penalty_is_its_closed_form_sample_by_sample(name):
    real, fake, labels, fake_labels = material()
    d, given = Quadratic(), given_for(name, fake_labels)
    wanted = CLOSED[name](d, real, fake, labels, given)
    assert wanted.unique().shape == (BATCH,)
    found = REGULARIZERS[name](d, real, fake, labels, given)
    assert found.shape == (BATCH,)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)


@each_penalty
def test_without_labels_of_their_own_fakes_take_those_of_the_real_images(name):
    real, fake, labels, _ = material()
    d, given = Quadratic(), given_for(name)
    wanted = CLOSED[name](d, real, fake, labels, given._replace(fake_labels=labels))
    torch.testing.assert_close(REGULARIZERS[name](d, real, fake, labels, given), wanted, rtol=1e-11, atol=1e-13)
    wanted = CLOSED[name](d, real, fake, None, given)
    torch.testing.assert_close(REGULARIZERS[name](d, real, fake, given=given), wanted, rtol=1e-11, atol=1e-13)


@each_penalty
def test_a_penalty_reaches_every_parameter_with_the_right_gradient(name):
    """Against central differences along random directions, in float64: a penalty on a gradient is of second order."""
    real, fake, labels, fake_labels = material()
    network, given = Smooth(), given_for(name, fake_labels)
    parameters = list(network.parameters())
    value = lambda: REGULARIZERS[name](network, real, fake, labels, given).mean()  # noqa: E731
    gradients = torch.autograd.grad(value(), parameters)
    source = torch.Generator().manual_seed(5)
    for index, gradient in enumerate(gradients):
        assert gradient.abs().max() > 1e-3
        for _ in range(3):
            direction = torch.randn(gradient.shape, dtype=torch.float64, generator=source)
            direction /= direction.norm()
            ends, origin = [], parameters[index].detach().clone()
            for step in (1e-4, -1e-4):
                with torch.no_grad():
                    parameters[index].copy_(origin + step * direction)
                ends.append(value().item())
            with torch.no_grad():
                parameters[index].copy_(origin)
            assert (gradient * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-6, abs=1e-7)


@each_penalty
def test_no_gradient_reaches_whatever_made_the_images(name):
    real, fake, labels, fake_labels = material()
    made, seen = torch.ones((), dtype=torch.float64, requires_grad=True), torch.ones((), dtype=torch.float64, requires_grad=True)
    network = Smooth()
    REGULARIZERS[name](network, seen * real, made * fake, labels, given_for(name, fake_labels)).sum().backward()
    assert made.grad is None
    assert seen.grad is None
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "value"), [("r1", 0.0), ("r2", 0.0), ("gp", 1.0), ("gp_one_sided", 0.0), ("gp_zero_centred", 0.0), ("dragan", 1.0)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_where_the_discriminator_is_flat_values_and_gradients_are_finite(name, value, dtype):
    real, fake, labels, fake_labels = material()
    network = Smooth(scale=0.0).to(dtype)
    with torch.no_grad():
        network.weight.fill_(0.01)  # only the last layer is zero: the gradient is, its own slope is not
    given = given_for(name, fake_labels)
    given = given._replace(uniforms=None if given.uniforms is None else given.uniforms.to(dtype))
    found = REGULARIZERS[name](network, real.to(dtype), fake.to(dtype), labels, given)
    assert found.tolist() == [value] * BATCH
    found.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_the_one_sided_penalty_is_nothing_up_to_a_slope_of_one_and_the_two_sided_one_beyond():
    real, fake, labels, fake_labels = material()
    gentle, steep = Quadratic(scale=0.1), Quadratic(scale=3.0)
    given = given_for("gp", fake_labels)
    assert REGULARIZERS["gp_one_sided"](gentle, real, fake, labels, given).tolist() == [0.0] * BATCH
    assert (REGULARIZERS["gp"](gentle, real, fake, labels, given) > 0.1).all()
    two_sided = REGULARIZERS["gp"](steep, real, fake, labels, given)
    assert (two_sided > 1.0).all()
    assert torch.equal(REGULARIZERS["gp_one_sided"](steep, real, fake, labels, given), two_sided)


@pytest.mark.parametrize("name", ["gp", "gp_one_sided", "gp_zero_centred"])
def test_points_between_lie_on_the_segment_at_the_share_given(name):
    """Share 1 is the real image, share 0 the fake; one share for a whole image."""
    real, fake, _, _ = material()
    seen = []

    def discriminator(images, labels):
        seen.append(images.detach())
        return images.flatten(1).square().sum(1)

    shares = torch.tensor([[0.0], [0.25], [0.5], [0.9], [1.0]], dtype=torch.float64)
    REGULARIZERS[name](discriminator, real, fake, given=Given(uniforms=shares))
    torch.testing.assert_close(seen[0], fake + shares[:, :, None, None] * (real - fake), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(seen[0][[0, 4]], torch.stack([fake[0], real[4]]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", [name for name, terms in TERMS.items() if terms[2]])
def test_numbers_not_given_come_from_pytorchs_default_generator(name):
    real, fake, labels, fake_labels = material()
    torch.manual_seed(6)
    uniforms = torch.rand(BATCH, TERMS[name][2], dtype=torch.float64)
    wanted = REGULARIZERS[name](Quadratic(), real, fake, labels, Given(fake_labels, uniforms))
    torch.manual_seed(6)
    found = REGULARIZERS[name](Quadratic(), real, fake, labels, Given(fake_labels))
    assert torch.equal(found, wanted)
    assert not torch.equal(REGULARIZERS[name](Quadratic(), real, fake, labels, Given(fake_labels)), wanted)


def test_the_noise_of_dragan_is_normal_with_its_deviation_for_uniform_numbers():
    """D(x) = |x|^2 / 2 has slope x, and around black images x is the noise."""
    black, seen = torch.zeros(64, 1, 32, 32, dtype=torch.float64), []

    def discriminator(images, labels):
        seen.append(images.detach())
        return images.flatten(1).square().sum(1) / 2.0

    uniforms = torch.rand(64, 1024, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    value = REGULARIZERS["dragan"](discriminator, black, black, given=Given(uniforms=uniforms))
    noise = seen[0].flatten()
    assert noise.std().item() == pytest.approx(0.3, rel=0.01)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.004)
    assert (noise.pow(4).mean() / noise.square().mean() ** 2).item() == pytest.approx(3.0, abs=0.1)
    assert value.mean().item() == pytest.approx((0.3 * 32 - 1) ** 2, rel=0.02)


def test_the_noise_of_dragan_is_finite_for_the_extremes_of_uniform_numbers():
    edge = torch.tensor([[0.0], [1.0 - 2.0**-24], [2.0**-24]]).expand(3, PIXELS)
    images = torch.zeros(3, *SHAPE)
    value = REGULARIZERS["dragan"](lambda x, labels: x.flatten(1).square().sum(1), images, images, given=Given(uniforms=edge))
    assert value.isfinite().all()


def seen_by_bcr(images, uniforms):
    """The images as they are, and as they are shifted."""
    seen = []

    def discriminator(images, labels):
        seen.append(images)
        return images.flatten(1).sum(1)

    REGULARIZERS["bcr"](discriminator, images, -images, given=Given(uniforms=uniforms))
    assert torch.equal(seen[0], images)
    assert torch.equal(seen[1], -images)
    assert torch.equal(seen[3], -seen[2])  # a pair is shifted alike
    return seen[2]


@pytest.mark.parametrize(("height", "width", "down", "right"), [(8, 8, 1, 1), (8, 32, 1, 4), (15, 16, 1, 2), (28, 24, 3, 3)])
def test_shifts_are_within_an_eighth_of_the_size_and_each_as_likely(height, width, down, right):
    assert (largest_shift(height), largest_shift(width)) == (down, right)
    image = torch.zeros(1, 1, height, width)
    image[:, :, height // 2, width // 2] = 1.0
    count = (2 * down + 1) * (2 * right + 1)
    grid = torch.cartesian_prod(torch.arange(2 * down + 1), torch.arange(2 * right + 1)) + 0.5
    uniforms = torch.cat([grid / torch.tensor([2 * down + 1, 2 * right + 1]), torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]])])
    spots = seen_by_bcr(image.expand(count + 2, -1, -1, -1), uniforms)[:, 0].nonzero()
    offsets = (spots[:, 1:] - torch.tensor([height // 2, width // 2])).tolist()
    everywhere = sorted([i, j] for i in range(-down, down + 1) for j in range(-right, right + 1))
    assert sorted(offsets[:count]) == everywhere
    assert offsets[count:] == [[down, right], [-down, -right]]


def test_the_border_of_a_shifted_image_is_mirrored():
    image = torch.arange(8.0).expand(1, 1, 8, 8) + 10.0 * torch.arange(8.0)[:, None]
    found = seen_by_bcr(image, torch.tensor([[0.9, 0.1]]))[0, 0]  # up by one, right by one
    assert found[0].tolist() == [11.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0]
    assert found[-1].tolist() == [61.0, 60.0, 61.0, 62.0, 63.0, 64.0, 65.0, 66.0]


def test_consistency_costs_nothing_where_the_discriminator_does_not_see_shifts():
    """The brightest pixel of an image stays so, wherever it moves, if it is not at the border."""
    real, fake, _, _ = material()
    real[:, :, 4, 8] = fake[:, :, 4, 8] = 3.0
    given = given_for("bcr")
    brightest = REGULARIZERS["bcr"](lambda images, labels: images.flatten(1).amax(1), real, fake, given=given)
    assert brightest.tolist() == [0.0] * BATCH
    assert (REGULARIZERS["bcr"](lambda images, labels: images[:, 0, 4, 8], real, fake, given=given) > 0.1).sum() >= BATCH - 1


def test_lecam_without_anchors_takes_the_means_of_the_batch_as_constants():
    real, fake, labels, fake_labels = material()
    network = Smooth()
    means = torch.stack([network(real, labels).mean(), network(fake, fake_labels).mean()]).detach()
    results = []
    for anchors in (None, means):
        value = REGULARIZERS["lecam"](network, real, fake, labels, Given(fake_labels, anchors=anchors))
        results.append((value, *torch.autograd.grad(value.mean(), list(network.parameters()))))
    for found, wanted in zip(*results):
        torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-15)
    wanted = (network(real, labels) - means[1]) ** 2 + (network(fake, fake_labels) - means[0]) ** 2
    torch.testing.assert_close(results[0][0], wanted, rtol=1e-13, atol=1e-15)
