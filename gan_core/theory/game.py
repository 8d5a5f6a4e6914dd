"""Figure 1 of the 2014 paper (1406.2661) as a computation: a generator of Gaussians plays against data that is one.

G(z) = a z + b with z ~ N(0, 1), so that q = N(b, a^2) exactly. The game is played with the very steps that train images, on batches
that hold the same quantiles each time; now and then it is looked at with a discriminator trained to its optimum.
"""

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from gan_core import judging
from gan_core.datatypes import Batch
from gan_core.game import Game, Player
from gan_core.losses import LOSSES
from gan_core.steps import discriminator_step, generator_step
from gan_core.theory.check import Check
from gan_core.theory.densities import Pair, Points, Quadrature, gaussian, jensen_shannon, quadrature
from gan_core.theory.optimal import ITERATIONS, TRAINING_POINTS, logits_at, new_discriminator, train_to_optimum, value

DATA_MEAN, DATA_DEVIATION = 1.0, 0.6
START_MEAN, START_DEVIATION = -1.5, 1.2
LOWER, UPPER = -9.0, 9.0
BATCH, D_STEPS, LEARNING_RATE_D, LEARNING_RATE_G = 256, 5, 4e-3, 1.5e-2
LOOKS = (0, 15, 50, 120, 220, 450)  # in generator steps: the deviation falls first, then the mean travels


class AffineGenerator(nn.Module):
    """G(z) = a z + b, from z [batch, 1] to "images" of one number."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(deviation, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(mean, dtype=torch.float64))

    def forward(self, z: Float64[Tensor, "batch 1"], labels: None = None) -> Float64[Tensor, "batch 1 1 1"]:  # noqa: ARG002  (a network's signature)
        return (self.a * z + self.b)[:, :, None, None]

    @property
    def mean(self) -> float:
        return self.b.item()

    @property
    def deviation(self) -> float:
        return abs(self.a.item())


class Look(NamedTuple):
    """The game at one moment. `trained` is D(x) of a discriminator trained to its optimum, `optimal` is p/(p+q); `error` is their largest
    difference where p + q is not negligible. `value` is V of the trained one, `best_value` is -log 4 + 2 JSD(p||q).
    """

    g_steps: int
    mean: float
    deviation: float
    where: Quadrature
    trained: Points
    optimal: Points
    error: float
    value: float
    best_value: float


class Played(NamedTuple):
    """The looks, and the generator's (mean, deviation) before each of its steps and after the last; and a last look, with q = p exactly."""

    looks: list[Look]
    path: Float64[Tensor, "steps 2"]
    equilibrium: Look


def quantiles(count: int) -> Float64[Tensor, "count 1"]:
    """N(0, 1) in `count` equally likely numbers, with variance 1."""
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    z = math.sqrt(2.0) * torch.erfinv(2.0 * levels - 1.0)
    return (z / z.square().mean().sqrt())[:, None]


def player(network: nn.Module, learning_rate: float) -> Player:
    """A network with its Adam."""
    parameters = list(network.parameters())
    return Player(network, parameters, [], torch.optim.Adam(parameters, lr=learning_rate, betas=(0.5, 0.99)), clip_norm=None)


def game(loss: str) -> Game:
    """The game of one loss on this machine: no penalty, no packing, no autocast."""
    chosen, precision = LOSSES[loss], torch.autocast("cpu", enabled=False)
    return Game(chosen, chosen.generator, judging.EACH, (), None, packing=1, autocast=lambda: precision, accumulation_steps=1)


def pair(mean: float, deviation: float) -> Pair:
    """The data beside a generator of N(mean, deviation^2)."""
    return Pair("", gaussian(DATA_MEAN, DATA_DEVIATION), gaussian(mean, deviation), LOWER, UPPER)


def play(looks: tuple[int, ...] = LOOKS, iterations: int = ITERATIONS) -> Played:
    """The non-saturating game until the last of `looks`, which are in generator steps; each look trains for so many `iterations`."""
    z = quantiles(BATCH)
    latents, real = Batch(z, None), Batch((DATA_MEAN + DATA_DEVIATION * z)[:, :, None, None], None)
    generator, rules = AffineGenerator(START_MEAN, START_DEVIATION), game("non_saturating")
    d, g = player(new_discriminator(), LEARNING_RATE_D), player(generator, LEARNING_RATE_G)
    path, seen = [], []
    for g_step in range(looks[-1] + 1):
        path.append((generator.mean, generator.deviation))
        if g_step in looks:
            seen.append(look(g_step, generator.mean, generator.deviation, d.network, iterations))
        for d_step in range(D_STEPS):
            discriminator_step(d, g, real, latents, rules, step=g_step * D_STEPS + d_step)
        generator_step(g, d, None, latents, rules, step=g_step)
    equilibrium = look(looks[-1], DATA_MEAN, DATA_DEVIATION, new_discriminator(), iterations)
    return Played(seen, torch.tensor(path, dtype=torch.float64), equilibrium)


def look(g_steps: int, mean: float, deviation: float, discriminator: nn.Module, iterations: int) -> Look:
    """Train a copy of the discriminator to its optimum, and compare it with p/(p+q) on a finer grid than it was trained on."""
    trained = copy.deepcopy(discriminator)
    densities = pair(mean, deviation)
    train_to_optimum(trained, LOSSES["non_saturating"].discriminator, quadrature(densities, TRAINING_POINTS), iterations)
    where = quadrature(densities)
    with torch.no_grad():
        logits = logits_at(trained, where.points)
        best_value = -math.log(4.0) + 2.0 * jensen_shannon(where).item()
        error = (logits.sigmoid() - where.log_ratio.sigmoid())[where.region].abs().max().item()
        reached = value(logits, where).item()
    return Look(g_steps, mean, deviation, where, logits.sigmoid(), where.log_ratio.sigmoid(), error, reached, best_value)


def checks(played: Played) -> list[Check]:
    """Proposition 1, theorem 1 and proposition 2 of 1406.2661, section 4."""
    found = []
    for seen in played.looks:
        at = f"after {seen.g_steps} steps of G, q = N({seen.mean:.2f}, {seen.deviation:.2f}²)"
        found += [
            Check(f"game/{seen.g_steps}/error", f"{at}: largest |D - p/(p+q)|", 0.0, seen.error, 0.0, 0.01),
            Check(f"game/{seen.g_steps}/value", f"{at}: V = -log 4 + 2 JSD", seen.best_value, seen.value, -1e-4, 1e-9),
        ]
    mean, deviation = played.path[-1].tolist()
    return [
        *found,
        Check("game/mean", "at the end: b is the data's mean", DATA_MEAN, mean, -0.02, 0.02),
        Check("game/deviation", "at the end: |a| is the data's deviation", DATA_DEVIATION, deviation, -0.02, 0.02),
        Check("game/equal/error", "q = p exactly: D = 1/2", 0.0, played.equilibrium.error, 0.0, 0.005),
        Check("game/equal/value", "q = p exactly: V = -log 4", -math.log(4.0), played.equilibrium.value, -1e-6, 1e-9),
    ]
