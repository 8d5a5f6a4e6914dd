"""Adversarial losses: pairs of functions on discriminator logits, and LOSSES, the table that configs choose from.

Both players MINIMISE. Every function takes `real_logits` and `fake_logits`, [batch] each without a sigmoid, and returns one
value per sample, [batch]; the step takes the mean. To add a loss: two functions and one line in LOSSES.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from gan_core.divergences import DIVERGENCES, Divergence, softplus

Logits = Float[Tensor, " batch"]
LossFunction = Callable[[Logits, Logits], Logits]
LOG_2 = math.log(2.0)


class Bound(NamedTuple):
    """What the discriminator's loss says about the distance of the two distributions: `offset - scale * mean loss`.

    It is the divergence `of` where the discriminator is optimal, and a lower bound of it otherwise. Logarithmic ones are in nats.
    """

    of: str
    offset: float
    scale: float


class AdversarialLoss(NamedTuple):
    """The two sides of a game, and how to read it.

    `bound` reads the discriminator's loss as a divergence. `threshold` is the logit at which the discriminator is undecided; None
    where only differences of logits mean something, so that accuracy is that of pairs. `alternative_generator` is a second objective
    for the same game, with another gradient (`loss.generator_objective: alternative`).

    `generator_reads_real` says that `generator` uses `real_logits`, so that a generator step has to run the discriminator on
    real images too. Where it is False, the step passes NaN for them: a loss that reads them all the same is found out at once.
    `across_batch` says that a sample's value depends on the other samples: such a loss is given the logits of all ranks.
    `on_witness` says that the logits it is given are not the discriminator's own but the kernel witness of its features
    (gan_core/two_sample.py), which depends on the other samples too.
    """

    discriminator: LossFunction
    generator: LossFunction
    bound: Bound
    threshold: float | None = 0.0
    alternative_generator: LossFunction | None = None
    generator_reads_real: bool = False
    across_batch: bool = False
    on_witness: bool = False


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


def least_squares_discriminator(real_logits: Logits, fake_logits: Logits) -> Logits:
    """(v_r - 1)^2 / 2 + v_f^2 / 2: LSGAN with labels 1 and 0 (1611.04076, eq. 9). Unbounded, quadratic."""
    return ((real_logits - 1.0).square() + fake_logits.square()) / 2.0


def least_squares_generator(real_logits: Logits, fake_logits: Logits) -> Logits:
    """(v_f - 1)^2 / 2; 1611.04076, eq. 9."""
    return (fake_logits - 1.0).square() / 2.0


def hinge_discriminator(real_logits: Logits, fake_logits: Logits) -> Logits:
    """max(0, 1 - v_r) + max(0, 1 + v_f); 1705.02894, section 3, and 1802.05957, eq. 16."""
    return (1.0 - real_logits).relu() + (1.0 + fake_logits).relu()


def linear_generator(real_logits: Logits, fake_logits: Logits) -> Logits:
    """-v_f, for the hinge game (1802.05957, eq. 17) and the Wasserstein game (1701.07875, algorithm 1). Unbounded, linear."""
    return -fake_logits


def wasserstein_discriminator(real_logits: Logits, fake_logits: Logits) -> Logits:
    """v_f - v_r; 1701.07875, eq. 3, negated. Meaningless unless a regulariser bounds the discriminator's slope."""
    return fake_logits - real_logits


def relativistic_discriminator(real_logits: Logits, fake_logits: Logits) -> Logits:
    """-log sigmoid(v_r - v_f), real and fake paired: RpGAN (1807.00734, section 4.1; 2501.05441, eq. 2)."""
    return softplus(fake_logits - real_logits)


def relativistic_generator(real_logits: Logits, fake_logits: Logits) -> Logits:
    """-log sigmoid(v_f - v_r), the discriminator's loss with the sides exchanged; 1807.00734, section 4.1."""
    return softplus(real_logits - fake_logits)


def relativistic_average_discriminator(real_logits: Logits, fake_logits: Logits) -> Logits:
    """Each side against the mean of the other: RaGAN (1807.00734, section 4.2). The means are of the whole batch, over all ranks."""
    return softplus(fake_logits.mean() - real_logits) + softplus(fake_logits - real_logits.mean())


def relativistic_average_generator(real_logits: Logits, fake_logits: Logits) -> Logits:
    """The discriminator's loss with the sides exchanged; 1807.00734, section 4.2."""
    return softplus(real_logits.mean() - fake_logits) + softplus(real_logits - fake_logits.mean())


def mmd_generator(real_logits: Logits, fake_logits: Logits) -> Logits:
    """v_r - v_f, whose mean is MMD^2 when the logits are the kernel witness: the whole of it, since the witness of the real side
    depends on the fakes too (MMD GAN: 1705.08584, eq. 5; 1801.01401, section 2). The discriminator's side is the Wasserstein game's.
    """
    return real_logits - fake_logits


def f_gan(name: str, divergence: Divergence) -> AdversarialLoss:
    """The game of one f-divergence (1606.00709, eq. 4 and 6), with T = activation(logit).

    The exact generator objective is -f*(T(v_f)), the value that the discriminator maximises; the alternative one is -T(v_f)
    (section 3.2), whose gradient does not vanish where the exact one's does. The discriminator is undecided at T = f'(1).
    """

    def discriminator(real_logits: Logits, fake_logits: Logits) -> Logits:
        """f*(T(v_f)) - T(v_r)."""
        return divergence.conjugate_of_activation(fake_logits) - divergence.activation(real_logits)

    def generator(real_logits: Logits, fake_logits: Logits) -> Logits:
        """-f*(T(v_f))."""
        return -divergence.conjugate_of_activation(fake_logits)

    def alternative_generator(real_logits: Logits, fake_logits: Logits) -> Logits:
        """-T(v_f)."""
        return -divergence.activation(fake_logits)

    threshold = 1.0 if name == "kl" else 0.0  # the logit of f'(1)
    return AdversarialLoss(discriminator, generator, Bound(name, 0.0, 1.0), threshold, alternative_generator)


LOSSES: dict[str, AdversarialLoss] = {
    "minimax": AdversarialLoss(logistic_discriminator, minimax_generator, Bound("jensen_shannon_divergence", LOG_2, 0.5)),
    "non_saturating": AdversarialLoss(logistic_discriminator, non_saturating_generator, Bound("jensen_shannon_divergence", LOG_2, 0.5)),
    # With D at its best, (p/(p+q)), the loss is the mean of pq/(p+q) / 2; the triangular discrimination is the integral of (p-q)^2/(p+q).
    "least_squares": AdversarialLoss(
        least_squares_discriminator, least_squares_generator, Bound("triangular_discrimination", 2.0, 8.0), threshold=0.5
    ),
    # With D at its best, sign(p - q), the loss is the integral of 2 min(p, q), which is 2 (1 - total variation).
    "hinge": AdversarialLoss(hinge_discriminator, linear_generator, Bound("total_variation", 1.0, 0.5)),
    "wasserstein": AdversarialLoss(wasserstein_discriminator, linear_generator, Bound("wasserstein", 0.0, 1.0), threshold=None),
    "relativistic": AdversarialLoss(
        relativistic_discriminator, relativistic_generator, Bound("relativistic", LOG_2, 1.0), threshold=None, generator_reads_real=True
    ),
    "relativistic_average": AdversarialLoss(
        relativistic_average_discriminator,
        relativistic_average_generator,
        Bound("relativistic_average", 2.0 * LOG_2, 1.0),
        threshold=None,
        generator_reads_real=True,
        across_batch=True,
    ),
    "mmd": AdversarialLoss(
        wasserstein_discriminator, mmd_generator, Bound("squared_mmd", 0.0, 1.0), threshold=None, generator_reads_real=True, on_witness=True
    ),
    **{f"f_{name}": f_gan(name, divergence) for name, divergence in DIVERGENCES.items()},
}
