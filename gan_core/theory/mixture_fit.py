"""Fitting one Gaussian to a mixture of two by each f-divergence, exactly and adversarially (f-GAN: 1606.00709, section 2.5 and table 3).

The data is p, a mixture on the line, and the model q = N(mu, sigma^2) is the generator G(z) = mu + sigma z. Being unable to reach p, q ends
somewhere else for each divergence. Where it should end is found by quadrature; where the game ends, with a network for T and
the losses that are trained with, can then be held against it. `gan` is left out: it is `jensen_shannon` less a constant.

Expectations are sums over fixed nodes, so that a fit is deterministic. The discriminator sees both sides at the same nodes, with
the two densities as weights: given nodes of their own, it learns to tell the nodes apart and its bound has no bound.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from gan_core.divergences import DIVERGENCES
from gan_core.losses import LOSSES, LossFunction

FITTED = tuple(name for name in DIVERGENCES if name != "gan")
REACH, SPACING = 14.0, 0.001  # of the quadrature of divergences; total variation has kinks, and its minimiser the error of a spacing

WIDTH = 64  # two hidden layers of tanh: 1606.00709, section 2.5
NODES, NODES_REACH = 401, 6.0
LATENT_NODES, LATENT_REACH = 301, 6.0
D_LR, G_LR, LAST_LR = 5e-3, 2e-2, 0.01  # the last rate is a share of the first
D_BETAS, G_BETAS = (0.9, 0.999), (0.5, 0.9)
# LeCam's weight with anchors at 0, first and last. The T of total variation is a sign: its logits run off to where tanh is flat, and
# stay there when the generator has moved. The penalty blunts the sign; at the last weight and with the best of all T, the game would end
# at a sigma 0.0086 and a mu 0.0012 too small.
ANCHORED = {"total_variation": (0.03, 0.003)}

Points = Float64[Tensor, " points"]


class Gaussian(NamedTuple):
    """N(mu, sigma^2)."""

    mu: float
    sigma: float


class Mixture(NamedTuple):
    """A mixture of Gaussians; the weights sum to 1."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    sigmas: tuple[float, ...]


class Fit(NamedTuple):
    """Where a game ended: the model, and E_p[T] - E_q[f*(T)] with its discriminator, a lower bound of the model's divergence."""

    model: Gaussian
    bound: float


# All eight divergences are finite around their minimisers, each has one, and no two lie nearer to each other than 0.0117.
DATA = Mixture((0.4, 0.6), (-0.8, 0.6), (0.4, 0.9))
START = Gaussian(0.4, 0.8)


def divergence(name: str, model: Gaussian, data: Mixture = DATA, *, reach: float = REACH) -> float:
    """D_f(data || model) by the trapezium rule on [-reach, reach].

    For smooth f it is exact to 1e-12, once the integrand has died within the reach.
    """
    return float(_divergence(name, torch.tensor([model.mu, math.log(model.sigma)], dtype=torch.float64), data, reach))


def minimiser(name: str, data: Mixture = DATA) -> Gaussian:
    """The model with the least divergence: the best end of L-BFGS from the data's moments and from each component."""
    mean = sum(w * m for w, m in zip(data.weights, data.means, strict=True))
    variance = sum(w * (m**2 + s**2) for w, m, s in zip(*data, strict=True)) - mean**2
    starts = [Gaussian(mean, variance**0.5), *(Gaussian(m, s) for m, s in zip(data.means, data.sigmas, strict=True))]
    ends = [_descended(name, start, data) for start in starts]
    values = [divergence(name, end, data) for end in ends]
    return min((value, end) for value, end in zip(values, ends, strict=True) if math.isfinite(value))[1]


def adversarial_fit(
    name: str, data: Mixture = DATA, *, warmup_steps: int = 300, g_steps: int = 200, d_steps: int = 10, seed: int = 0
) -> Fit:
    """Play the game of LOSSES[f"f_{name}"], with the exact generator objective, from START.

    `warmup_steps` of the discriminator alone, then `d_steps` of it to each of the generator; Adam for both, with rates that fall on
    a cosine. `seed` makes the discriminator's first weights, the only random thing. Takes 6 to 9 s on a slow core.
    """
    loss = LOSSES[f"f_{name}"]
    discriminator = _discriminator(seed)
    parameters = torch.tensor([START.mu, math.log(START.sigma)], dtype=torch.float64, requires_grad=True)
    d_adam = torch.optim.Adam(discriminator.parameters(), lr=D_LR, betas=D_BETAS, fused=True)
    g_adam = torch.optim.Adam([parameters], lr=G_LR, betas=G_BETAS)
    nodes = torch.linspace(-NODES_REACH, NODES_REACH, NODES, dtype=torch.float64)
    spacing = float(nodes[1] - nodes[0])
    p = _log_mixture(nodes, data).exp() * spacing
    z = torch.linspace(-LATENT_REACH, LATENT_REACH, LATENT_NODES, dtype=torch.float64)
    z_weights = (-z.square() / 2.0).softmax(0)

    def train_discriminator(steps: int, anchoring: float) -> Float64[Tensor, ""]:
        q = _log_gaussian(nodes, parameters.detach()).exp() * spacing
        value = torch.zeros((), dtype=torch.float64)
        for _ in range(steps):
            d_adam.zero_grad(set_to_none=True)
            logits = discriminator(nodes[:, None])[:, 0]
            value = _expected(loss.discriminator, logits, p, q)
            (value + anchoring * _anchored(logits, p, q)).backward()
            d_adam.step()
        return value.detach()

    first, last = ANCHORED.get(name, (0.0, 0.0))
    value = train_discriminator(warmup_steps, first)
    for step in range(g_steps):
        falling = LAST_LR + (1.0 - LAST_LR) * (1.0 + math.cos(math.pi * step / g_steps)) / 2.0
        d_adam.param_groups[0]["lr"], g_adam.param_groups[0]["lr"] = D_LR * falling, G_LR * falling
        value = train_discriminator(d_steps, first if first == 0.0 else first * (last / first) ** (step / g_steps))
        fake_logits = discriminator((parameters[0] + parameters[1].exp() * z)[:, None])[:, 0]
        generator_loss = (z_weights * loss.generator(torch.full_like(fake_logits, torch.nan), fake_logits)).sum()
        (parameters.grad,) = torch.autograd.grad(generator_loss, parameters)
        g_adam.step()
    mu, log_sigma = parameters.tolist()
    return Fit(Gaussian(mu, math.exp(log_sigma)), -float(value))


def table(models: Mapping[str, Gaussian], data: Mixture = DATA) -> Float64[Tensor, "trained evaluated"]:
    """D_f of each model: a row for each that was trained, by name, and a column for each divergence that evaluates, in the same order."""
    rows = [[divergence(evaluated, model, data) for evaluated in models] for model in models.values()]
    return torch.tensor(rows, dtype=torch.float64)


def _log_gaussian(x: Points, parameters: Float64[Tensor, "2"]) -> Points:
    mu, log_sigma = parameters[0], parameters[1]
    return -((x - mu) / log_sigma.exp()).square() / 2.0 - log_sigma - math.log(2.0 * math.pi) / 2.0


def _log_mixture(x: Points, data: Mixture) -> Points:
    parts = [
        math.log(weight) + _log_gaussian(x, torch.tensor([mean, math.log(sigma)], dtype=x.dtype))
        for weight, mean, sigma in zip(*data, strict=True)
    ]
    return torch.stack(parts).logsumexp(0)


def _divergence(name: str, parameters: Float64[Tensor, "2"], data: Mixture, reach: float) -> Float64[Tensor, ""]:
    x = torch.linspace(-reach, reach, round(2.0 * reach / SPACING) + 1, dtype=torch.float64)
    log_q = _log_gaussian(x, parameters)
    values = log_q.exp() * DIVERGENCES[name].f((_log_mixture(x, data) - log_q).exp())
    return torch.trapezoid(values, x)


def _descended(name: str, start: Gaussian, data: Mixture) -> Gaussian:
    parameters = torch.tensor([start.mu, math.log(start.sigma)], dtype=torch.float64, requires_grad=True)
    lbfgs = torch.optim.LBFGS([parameters], max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def closure() -> Float64[Tensor, ""]:
        lbfgs.zero_grad()
        value = _divergence(name, parameters, data, REACH)
        value.backward()
        return value

    lbfgs.step(closure)
    mu, log_sigma = parameters.tolist()
    return Gaussian(mu, math.exp(log_sigma))


def _discriminator(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1)]
        return nn.Sequential(*layers).to(torch.float64)


def _expected(loss: LossFunction, logits: Points, p: Points, q: Points) -> Float64[Tensor, ""]:
    """The discriminator's loss with weights p for the real side and q for the fake one, at the same points.

    The losses of the family are a(v_r) + b(v_f). Each side is weighted with 0 in the other's place, and a(0) + b(0) comes off.
    """
    zero = torch.zeros_like(logits)
    return (p * loss(logits, zero) + q * loss(zero, logits)).sum() - loss(zero[:1], zero[:1]).sum()


def _anchored(logits: Points, p: Points, q: Points) -> Float64[Tensor, ""]:
    """The LeCam penalty with both anchors at 0, E_p[v^2] + E_q[v^2]."""
    return ((p + q) * logits.square()).sum()
