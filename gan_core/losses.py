"""Adversarial losses: pairs of functions on discriminator logits, and LOSSES, the table that configs choose from.

Both players MINIMISE. Every function takes `real_logits` and `fake_logits`, [batch] each without a sigmoid, and returns one
value per sample, [batch]; the step takes the mean. To add a loss: two functions and one line in LOSSES.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

Logits = Float[Tensor, " batch"]
LossFunction = Callable[[Logits, Logits], Logits]


class AdversarialLoss(NamedTuple):
    """The two sides of a game.

    `generator_reads_real` says that `generator` uses `real_logits`, so that a generator step has to run the discriminator on
    real images too. Where it is False, the step passes NaN for them: a loss that reads them all the same is found out at once.
    """

    discriminator: LossFunction
    generator: LossFunction
    generator_reads_real: bool = False


def logistic_discriminator(real_logits: Logits, fake_logits: Logits) -> Logits:
    """-log D(x) - log(1 - D(G(z))) with D = sigmoid(logit); Goodfellow et al. 2014 (1406.2661), eq. 1, negated.

    Written with softplus, because log(sigmoid(x) + eps) has a wrong gradient for large |x|. Unbounded, linear in the logits.
    """
    return softplus(-real_logits) + softplus(fake_logits)


def minimax_generator(real_logits: Logits, fake_logits: Logits) -> Logits:
    """log(1 - D(G(z))); 1406.2661, eq. 1. Its gradient vanishes as the discriminator grows sure of the fakes."""
    return -softplus(fake_logits)


def non_saturating_generator(real_logits: Logits, fake_logits: Logits) -> Logits:
    """-log D(G(z)); 1406.2661, section 3: the same fixed point, with a gradient that stays when D is sure."""
    return softplus(-fake_logits)


LOSSES: dict[str, AdversarialLoss] = {
    "minimax": AdversarialLoss(logistic_discriminator, minimax_generator),
    "non_saturating": AdversarialLoss(logistic_discriminator, non_saturating_generator),
}
