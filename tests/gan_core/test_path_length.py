"""Path length regularisation (1912.04958, section 3.2)."""

import copy

import pytest
import torch
from torch import nn

from gan_core import path_length, steps
from gan_core.datatypes import Batch
from gan_core.keyed_noise import keys, normals
from gan_core.path_length import PathLength
from tests.support import tiny_trainer

STYLEGAN = {
    "network": {
        "name": "stylegan2",
        "z_dim": 6,
        "generator": {"capacity": 32, "max_width": 4, "w_dim": 5, "mapping_layers": 2},
        "discriminator": {"capacity": 32, "max_width": 4, "minibatch_stddev_group": 2},
    }
}


class Linear(nn.Module):
    """w = z at first, and an image that is linear in the w of each layer, with a matrix of its own for each."""

    layers = 3

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.matrices = nn.Parameter(torch.randn(3, 4, 1 * 2 * 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))

    def map(self, z, labels=None):
        return self.scale * z

    def synthesise(self, w, noise_keys):
        return torch.einsum("blw,lwp->bp", w, self.matrices).view(-1, 1, 2, 2)


def test_the_length_of_a_linear_generator_is_that_of_its_matrix():
    """J_w^T y is known: for each layer its matrix times y; the square is the mean over the layers, y has variance 1 / pixels."""
    generator, z = Linear(), torch.randn(7, 4, dtype=torch.float64)
    y = normals(keys(z), path_length.STREAM, 1, 2, 2).double().flatten(1) / 2.0
    products = torch.einsum("lwp,bp->blw", generator.matrices, y)
    expected = products.square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(path_length.path_lengths(generator, Batch(z, None)), expected)


def test_over_many_latents_the_square_is_that_of_the_jacobian():
    """E|J^T y|^2 = |J|_F^2 / pixels for white y."""
    generator, z = Linear(), torch.randn(20_000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = path_length.path_lengths(generator, Batch(z, None)).square().mean().item()
    assert found == pytest.approx(generator.matrices.square().sum().item() / 3 / 4, rel=0.03)


def test_the_penalty_is_about_the_mean_before():
    lengths = torch.tensor([1.0, 3.0])
    assert path_length.penalty(lengths, PathLength(1.0, 1, torch.tensor([2.0]))).item() == pytest.approx(1.0)
    assert path_length.penalty(lengths, PathLength(1.0, 1, torch.tensor([0.0]))).item() == pytest.approx(5.0)


def test_its_gradient_is_that_of_finite_differences():
    generator, latents = Linear(), Batch(torch.randn(3, 4, dtype=torch.float64), None)
    path = PathLength(1.0, 1, torch.tensor([0.7], dtype=torch.float64))

    def value(matrices):
        generator.matrices = nn.Parameter(matrices.detach())
        del generator.matrices
        generator.matrices = matrices
        return path_length.penalty(path_length.path_lengths(generator, latents), path)

    matrices = generator.matrices.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (matrices,))


@pytest.mark.parametrize("interval", [1, 2])
def test_it_takes_part_in_the_generators_step(interval):
    """Lazily in every second step, in a step of its own; the running mean follows what was measured."""
    options = {"regularizers__path_length_weight": 2.0, "regularizers__path_length_interval": interval}
    trainer = tiny_trainer(**STYLEGAN, **options, precision="float64")
    parts = trainer.parts
    found = [steps.generator_step(parts.g, parts.d, None, trainer.supply.latents(step), parts.game, step=step) for step in range(4)]
    due = [step for step in range(4) if step % interval == 0]
    assert [step for step in range(4) if "g/path_length" in found[step]] == due
    assert all(("g/penalty_gradient_norm" in found[step]) == (interval == 2) for step in due)
    mean = 0.0
    for step in due:
        mean += 0.01 * (found[step]["g/path_length"].item() - mean)
    assert parts.game.path.mean.item() == pytest.approx(mean)


@pytest.mark.parametrize("interval", [1, 4])
def test_its_gradient_counts_weight_times_interval(interval):
    """At the generator's first step, with plain SGD of rate 0 so that both gradients are at the same weights."""
    trainer = tiny_trainer(
        **STYLEGAN, regularizers__path_length_weight=3.0, regularizers__path_length_interval=interval, precision="float64"
    )
    g = trainer.parts.g._replace(optimizer=torch.optim.SGD(trainer.parts.g.parameters, lr=0.0))
    latents = trainer.supply.latents(0)
    value = path_length.penalty(path_length.path_lengths(g.network, latents), trainer.parts.game.path)
    expected = torch.autograd.grad(3.0 * interval * value, g.parameters, allow_unused=True)
    if interval == 1:
        plain = tiny_trainer(**STYLEGAN, precision="float64").parts
        steps.generator_step(plain.g, plain.d, None, latents, plain.game, step=0)
        expected = [(0.0 if own is None else own) + other.grad for own, other in zip(expected, plain.g.parameters, strict=True)]
    steps.generator_step(g, trainer.parts.d, None, latents, trainer.parts.game, step=0)
    for parameter, gradient in zip(g.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter) if gradient is None else gradient, rtol=1e-9, atol=1e-12)


def test_a_resumed_run_goes_on_from_the_running_mean():
    options = {"regularizers__path_length_weight": 2.0, "regularizers__path_length_interval": 4, "total_kimg": 0.32}
    states = []
    whole = tiny_trainer(**STYLEGAN, **options)
    whole.run(lambda report: states.append(copy.deepcopy(report.state())) if report.state else None)
    half = tiny_trainer(**STYLEGAN, **options)
    half.load_state_dict(states[0])
    assert half.parts.game.path.mean.item() == states[0]["path_length"].item() > 0.0
    half.run(lambda report: None)
    for ours, theirs in zip(half.parts.g.parameters, whole.parts.g.parameters, strict=True):
        assert torch.equal(ours, theirs)


def test_adam_of_the_generator_takes_smaller_steps_when_it_is_lazy():
    trainer = tiny_trainer(**STYLEGAN, regularizers__path_length_weight=2.0, regularizers__path_length_interval=4)
    settings = trainer.parts.g.optimizer.param_groups[0]
    assert settings["lr"] == pytest.approx(2e-4 * 4 / 5)
    assert settings["betas"] == (pytest.approx(0.5 ** (4 / 5)), pytest.approx(0.999 ** (4 / 5)))
    assert trainer.parts.d.optimizer.param_groups[0]["lr"] == 2e-4


def test_lengths_even_out_over_training():
    """The spread of the lengths relative to their mean falls when they are penalised, and the mean is what the run remembers."""
    spreads = {}
    for weight in (0.0, 2.0):
        trainer = tiny_trainer(
            **STYLEGAN, regularizers__path_length_weight=weight, optimizer__generator__lr=2e-3, total_kimg=1.6, schedule__report_kimg=5,
            schedule__evaluate_kimg=5, schedule__checkpoint_kimg=5, schedule__sample_kimg=5,
        )  # fmt: skip
        trainer.run(lambda report: None)
        lengths = path_length.path_lengths(trainer.parts.g.network, Batch(torch.randn(500, 6), None)).detach()
        spreads[weight] = (lengths.std() / lengths.mean()).item()
    assert spreads[2.0] < 0.9 * spreads[0.0]


def test_a_generator_without_w_is_refused():
    with pytest.raises(ValueError, match="path_length_weight: it is about a generator's w, which mlp does not have; set it to 0, or"):
        tiny_trainer(regularizers__path_length_weight=2.0)


def test_an_interval_without_a_weight_is_refused():
    with pytest.raises(ValueError, match="path_length_interval has no effect, because regularizers.path_length_weight is 0"):
        tiny_trainer(regularizers__path_length_interval=4)


def test_a_batch_that_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"leaves 3 decisions for each of 1 ranks x 2 .*group=2 does not divide; try batch_size 4 or 8"):
        tiny_trainer(**STYLEGAN, batch_size=6, accumulation_steps=2)
