"""How far a discriminator's loss tells the divergence it is said to tell: f-GAN (1606.00709), and the 2014 game (1406.2661).

D_f(p||q) = integral of q f(p/q) is the largest value of E_p[T] - E_q[f*(T)], which T = f'(p/q) takes (1606.00709, eq. 4 and 5).
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch

from gan_core.divergences import DIVERGENCES
from gan_core.losses import LOSSES
from gan_core.theory.check import Check
from gan_core.theory.densities import PAIRS, Points, Quadrature, jensen_shannon, quadrature
from gan_core.theory.optimal import TRAINING_POINTS, expected_loss, logits_at, new_discriminator, train_to_optimum

ITERATIONS = 200
SHARE = 0.03  # how much of a divergence a trained discriminator may miss
EXACT = 1e-9
GAMES = ("non_saturating", *(f"f_{name}" for name in DIVERGENCES))


class Reached(NamedTuple):
    """One loss on one pair of densities: the divergence, what it is at q = p, the bound at the optimal logits and at those of a trained
    discriminator, and its logits on the points of the quadrature.
    """

    pair: str
    loss: str
    divergence: float
    at_equality: float
    optimal: float
    trained: float
    where: Quadrature
    logits: Points

    @property
    def missed_share(self) -> float:
        """The part of the divergence, counted from q = p, that the trained discriminator does not show."""
        return (self.divergence - self.trained) / (self.divergence - self.at_equality)


def divergence(name: str, where: Quadrature) -> float:
    """D_f(p||q) by its definition."""
    return where.mean_q(DIVERGENCES[name].f(where.log_ratio.exp())).item()


def largest_bound(name: str, where: Quadrature) -> float:
    """E_p[T] - E_q[f*(T)] at T = f'(p/q)."""
    functions = DIVERGENCES[name]
    best = functions.optimal(where.log_ratio.exp())
    return (where.mean_p(best) - where.mean_q(functions.conjugate(best))).item()


def read(loss: str, logits: Points, where: Quadrature) -> float:
    """The divergence that a training run reports for these logits."""
    bound = LOSSES[loss].bound
    return bound.offset - bound.scale * expected_loss(LOSSES[loss].discriminator, logits, where).item()


def compare(pair: str, loss: str, iterations: int = ITERATIONS) -> Reached:
    """Compute, and train on `pair` of PAIRS with `loss`, one of GAMES."""
    discriminator = new_discriminator()
    train_to_optimum(discriminator, LOSSES[loss].discriminator, quadrature(PAIRS[pair], TRAINING_POINTS), iterations)
    where = quadrature(PAIRS[pair])
    with torch.no_grad():
        logits = logits_at(discriminator, where.points)
    trained = read(loss, logits, where)
    if loss == "non_saturating":
        return Reached(pair, loss, jensen_shannon(where).item(), 0.0, read(loss, where.log_ratio, where), trained, where, logits)
    name = LOSSES[loss].bound.of
    at_equality = DIVERGENCES[name].f(torch.ones((), dtype=torch.float64)).item()
    return Reached(pair, loss, divergence(name, where), at_equality, largest_bound(name, where), trained, where, logits)


def compare_all(pairs: Iterable[str] = PAIRS, losses: Iterable[str] = GAMES) -> list[Reached]:
    """Every loss on every pair."""
    return [compare(pair, loss) for pair in pairs for loss in losses]


def checks(reached: Iterable[Reached]) -> list[Check]:
    """Equality at the optimum; from below, and within SHARE, after training."""
    found = []
    for each in reached:
        distance = each.divergence - each.at_equality
        name = f"bounds/{each.pair}/{each.loss}"
        found += [
            Check(f"{name}/optimal", f"{each.pair}, {each.loss}: bound at the optimal T", each.divergence, each.optimal, -EXACT, EXACT),
            Check(
                f"{name}/trained",
                f"{each.pair}, {each.loss}: bound of a trained D",
                each.divergence,
                each.trained,
                -SHARE * distance,
                EXACT,
            ),
        ]
    return found
