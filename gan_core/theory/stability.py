"""What the verdicts on the Dirac-GAN (dirac.py) have to agree with: the eigenvalues in closed form, and what gradient descent does."""

from collections.abc import Iterable

import torch

from gan_core.losses import LOSSES, LossFunction
from gan_core.theory.check import Check
from gan_core.theory.dirac import Verdict, settles

GAMMA = 1.0  # twice the weight of a penalty in the verdicts that are checked
DAMPING = {"none": 0.0, "r1": GAMMA, "r2": GAMMA, "gp_zero_centred": GAMMA}


def slope_at_zero(loss: LossFunction) -> float:
    """The derivative of a loss by the fake logit, both logits being 0, in a batch of one."""
    fake = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(torch.zeros_like(fake), fake).sum(), fake)
    return float(slope)


def largest_deviation(verdicts: Iterable[Verdict]) -> float:
    """Of the eigenvalues' sum and product from those of -gamma/2 +- sqrt(gamma^2/4 + d g); 1801.04406, lemma 2.2 and section 4.

    d > 0 and g < 0 are the slopes of the discriminator's and of the generator's loss by the fake logit, equal and opposite in the paper's
    games. Sum and product, because at critical damping a rounding error in them is a hundred million times larger in the roots.
    """
    worst = 0.0
    for verdict in verdicts:
        loss = LOSSES[verdict.loss]
        generator = loss.generator if verdict.objective == "exact" else loss.alternative_generator
        assert generator is not None, "a verdict is on an objective that exists"
        product = -slope_at_zero(loss.discriminator) * slope_at_zero(generator)
        first, second = verdict.eigenvalues
        worst = max(worst, abs(first + second + DAMPING[verdict.penalty]), abs(first * second - product))
    return worst


def checks(verdicts: Iterable[Verdict]) -> list[Check]:
    """For each penalty: games whose simulation does what their eigenvalues say, and the eigenvalues where they have a closed form."""
    by_penalty: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_penalty.setdefault(verdict.penalty, []).append(verdict)
    found = []
    for penalty, games in by_penalty.items():
        agreeing = sum(settles(game.trajectory) == game.converges for game in games)
        claim = f"{penalty}: games whose simulation settles just where the verdict says that it converges"
        found.append(Check(f"dirac/{penalty}/agreeing", claim, float(len(games)), float(agreeing), 0.0, 0.0))
        if penalty in DAMPING:
            claim = f"{penalty}: eigenvalues from the slopes alone: largest deviation"
            found.append(Check(f"dirac/{penalty}/eigenvalues", claim, 0.0, largest_deviation(games), 0.0, 1e-6))
    return found
