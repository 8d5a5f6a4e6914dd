"""How much of the discriminator's judgement reaches the generator as D grows sure: minimax against non-saturating (1406.2661, section 3).

With D = sigmoid(v) the slopes of the two generator losses by the logit of a fake are -D and -(1 - D). At D = p/(p+q) the gradients by the
generator's parameters are those of 2 JSD(p||q) and of KL(q||p) - 2 JSD(p||q) (Arjovsky and Bottou 2017, 1701.04862, section 2).
f-GAN's two objectives are related in the same way: f*'(f'(u)) = u, so that with D at its best the exact slope is p/q times the other.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from gan_core.divergences import DIVERGENCES
from gan_core.losses import LOSSES, LossFunction
from gan_core.theory.check import Check
from gan_core.theory.densities import Points, gaussian, jensen_shannon, kullback_leibler_of_generator, quadrature
from gan_core.theory.game import DATA_DEVIATION, DATA_MEAN, AffineGenerator, pair
from gan_core.theory.optimal import ITERATIONS, TRAINING_POINTS, expected_loss, logits_at, new_discriminator, train_to_optimum

LOGITS = torch.linspace(-12.0, 12.0, 241, dtype=torch.float64)
RATIOS = torch.logspace(-4.0, 2.0, 121, dtype=torch.float64)
FROZEN_MEAN = DATA_MEAN - 5.0  # p and q touch 4 deviations from either mean: D can be nearly sure, and its optimum is still a number
LEARNING_RATE = 2e-3
LOOKS = tuple(range(20)) + tuple(range(20, 100, 5)) + tuple(range(100, 601, 20))  # in discriminator steps
Z = torch.linspace(-12.0, 12.0, 4801, dtype=torch.float64)
OBJECTIVES = ("minimax", "non_saturating")
# All but total variation, whose optimal logits are infinite.
EXACT_AND_ALTERNATIVE = tuple(f"f_{name}" for name in DIVERGENCES if name != "total_variation")

Gradient = Float64[Tensor, "2"]


class Confident(NamedTuple):
    """The generator's gradient norm under both objectives, and E_q[D], after `d_steps` steps of the discriminator.

    `final` are the gradients (by a and by b) of both objectives with the discriminator trained to its optimum, and `limits` those of
    D = p/(p+q). `potentials` are the gradients of 2 JSD and of KL(q||p) - 2 JSD, taken without any discriminator.
    """

    d_steps: tuple[int, ...]
    norms: Float64[Tensor, "looks 2"]
    judged_real: Points
    final: dict[str, Gradient]
    limits: dict[str, Gradient]
    potentials: dict[str, Gradient]


def slopes(objective: LossFunction, logits: Points) -> Points:
    """dL/dv of a generator's loss at the logits of fakes."""
    logits = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective(torch.full_like(logits, torch.nan), logits).sum(), logits)
    return slope


def exact_over_alternative(loss: str, ratios: Points) -> Points:
    """The exact slope divided by the alternative one at the optimal logits for u = p/q."""
    game = LOSSES[loss]
    assert game.alternative_generator is not None, "f-GAN losses have both"
    logits = DIVERGENCES[game.bound.of].optimal_logit(ratios)
    return slopes(game.generator, logits) / slopes(game.alternative_generator, logits)


def gradient(objective: LossFunction, judge: Callable[[Points], Points], generator: AffineGenerator) -> Gradient:
    """The derivatives of E_z[L(D(G(z)))] by a and b, with `judge` giving the logits of D."""
    logits = judge(generator(Z[:, None]).flatten())
    weights = gaussian(0.0, 1.0)(Z).exp() * (Z[1] - Z[0])
    mean = (weights * objective(torch.full_like(logits, torch.nan), logits)).sum()
    return torch.stack(torch.autograd.grad(mean, (generator.a, generator.b)))


def confident(looks: tuple[int, ...] = LOOKS, iterations: int = ITERATIONS) -> Confident:
    """Train a discriminator by Adam against a generator that stands still far from the data, and look at what it would teach.

    `looks` are numbers of steps, growing; after the last of them training goes on to the optimum, for so many `iterations` of L-BFGS.
    """
    generator, discriminator = AffineGenerator(FROZEN_MEAN, DATA_DEVIATION), new_discriminator()
    rules = LOSSES["minimax"].discriminator
    where = quadrature(pair(FROZEN_MEAN, DATA_DEVIATION), TRAINING_POINTS)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=LEARNING_RATE)

    def gradients(judge: Callable[[Points], Points]) -> dict[str, Gradient]:
        return {name: gradient(LOSSES[name].generator, judge, generator) for name in OBJECTIVES}

    def learned(points: Points) -> Points:
        return logits_at(discriminator, points)

    norms, judged_real = [], []
    for d_step in range(looks[-1] + 1):
        logits = learned(where.points)
        if d_step in looks:
            norms.append(torch.stack([each.norm() for each in gradients(learned).values()]))
            judged_real.append(where.mean_q(logits.detach().sigmoid()))
        optimizer.zero_grad()
        expected_loss(rules, logits, where).backward()
        optimizer.step()
    train_to_optimum(discriminator, rules, where, iterations)
    densities = pair(FROZEN_MEAN, DATA_DEVIATION)
    limits = gradients(lambda points: densities.log_p(points) - densities.log_q(points))
    return Confident(looks, torch.stack(norms), torch.stack(judged_real), gradients(learned), limits, potentials(generator))


def potentials(generator: AffineGenerator) -> dict[str, Gradient]:
    """What the objectives descend at D = p/(p+q), as gradients of divergences; 1701.04862, theorem 2.5 for the second."""
    where = quadrature(pair(FROZEN_MEAN, DATA_DEVIATION))
    where = where._replace(log_q=gaussian(generator.b, generator.a)(where.points))
    twice = 2.0 * jensen_shannon(where)
    wholes = {"minimax": twice, "non_saturating": kullback_leibler_of_generator(where) - twice}
    parameters = (generator.a, generator.b)
    return {name: torch.stack(torch.autograd.grad(whole, parameters, retain_graph=True)) for name, whole in wholes.items()}


def checks(result: Confident) -> list[Check]:
    """Slopes, their ratios, and the gradients that a sure discriminator leaves."""
    d = LOGITS.sigmoid()
    found = [
        _largest("slope/minimax", "dL/dlogit is -D(G(z)): largest deviation", slopes(LOSSES["minimax"].generator, LOGITS) + d),
        _largest(
            "slope/non_saturating",
            "dL/dlogit is -(1 - D(G(z))): largest deviation",
            slopes(LOSSES["non_saturating"].generator, LOGITS) + 1 - d,
        ),
    ]
    for loss in EXACT_AND_ALTERNATIVE:
        wrong = exact_over_alternative(loss, RATIOS) / RATIOS - 1.0
        found.append(_largest(f"ratio/{loss}", f"{loss}: exact / alternative slope is p/q: largest relative deviation", wrong))
    for name, whole in (("minimax", "2 JSD"), ("non_saturating", "KL(q||p) - 2 JSD")):
        wrong = result.limits[name] - result.potentials[name]
        found.append(_largest(f"potential/{name}", f"{name}, D = p/(p+q): gradient is that of {whole}: largest deviation", wrong))
    theory = {name: limit.norm().item() for name, limit in result.limits.items()}
    final = {name: limit.norm().item() for name, limit in result.final.items()}
    share = 0.05 * theory["minimax"]
    return [
        *found,
        Check(
            "saturation/minimax",
            "minimax: |dL/dG| with D trained until its loss falls no more",
            theory["minimax"],
            final["minimax"],
            -share,
            share,
        ),
        Check(
            "saturation/non_saturating",
            "non_saturating: |dL/dG| with D trained until its loss falls no more",
            theory["non_saturating"],
            final["non_saturating"],
            -0.6 * theory["non_saturating"],
            -0.1 * theory["non_saturating"],
            departs="D's loss hardly depends on D's slope where D is sure of a fake: D does not learn it, and G's gradient is made of it",
        ),
        Check(
            "saturation/left_to_minimax",
            "|dL/dG| of minimax over that of non_saturating: next to nothing",
            theory["minimax"] / theory["non_saturating"],
            final["minimax"] / final["non_saturating"],
            0.0,
            1e-3,
        ),
    ]


def _largest(name: str, claim: str, deviations: Tensor) -> Check:
    return Check(f"saturation/{name}", claim, 0.0, deviations.abs().max().item(), 0.0, 1e-9)
