"""A discriminator, the very network that configs choose, trained to its optimum against two known densities."""

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from gan_core.losses import LOSSES, LossFunction
from gan_core.networks import mlp
from gan_core.theory.densities import Points, Quadrature, Scalar

HIDDEN_WIDTH = 32
TRAINING_POINTS = 1025
ITERATIONS = 300


def expected_loss(loss: LossFunction, logits: Points, where: Quadrature) -> Scalar:
    """E_p and E_q of a discriminator's loss that is a function of the real logit plus one of the fake logit, up to rounding.

    Each side is weighted by its own density: with a(v) + b(w) for the loss, a and b enter with the other at 0, and a(0) + b(0) goes again.
    """
    zeros = torch.zeros_like(logits)
    return where.mean_p(loss(logits, zeros)) + where.mean_q(loss(zeros, logits)) - loss(zeros[:1], zeros[:1]).sum()


def value(logits: Points, where: Quadrature) -> Scalar:
    """V(G, D) = E_p[log D] + E_q[log(1 - D)] with D = sigmoid(logit); 1406.2661, eq. 1."""
    return -expected_loss(LOSSES["minimax"].discriminator, logits, where)


def new_discriminator(seed: int = 0) -> nn.Module:
    """The `mlp` network for numbers instead of images, in float64; the same at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = mlp.discriminator(resolution=1, channels=1, num_classes=0, hidden_width=HIDDEN_WIDTH)
    return network.double()


def logits_at(discriminator: nn.Module, points: Float64[Tensor, "..."]) -> Points:
    """The discriminator's logits at points on the line."""
    logits: Tensor = discriminator(points.view(-1, 1, 1, 1))
    return logits


def train_to_optimum(discriminator: nn.Module, loss: LossFunction, where: Quadrature, iterations: int) -> None:
    """Minimise the expected loss by L-BFGS: without noise there is a minimum to go to, and Adam would take 100 times as many steps."""
    optimizer = torch.optim.LBFGS(
        discriminator.parameters(),
        max_iter=iterations,
        history_size=20,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        mean = expected_loss(loss, logits_at(discriminator, where.points), where)
        mean.backward()
        return mean.item()

    optimizer.step(closure)
