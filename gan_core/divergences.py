"""The f-divergences of f-GAN (Nowozin et al. 2016, 1606.00709): f, its convex conjugate, an output activation and the optimal T.

D_f(p||q) = integral of q f(p/q) = sup over T of E_p[T(x)] - E_q[f*(T(x))], with T = activation(logit). Everywhere u = p/q,
the density of the data over that of the generator, so a large logit means "data". Values are in nats, to the accuracy of the
tensors given: float64 in, float64 exact out.

Exponential, so that a sure discriminator brings huge gradients: kl, squared_hellinger and jeffreys for large logits of fakes;
reverse_kl, neyman and squared_hellinger far below zero, of either side. Nothing here clamps them:
bound gradients with `optimizer.*.clip_norm`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Values = Float[Tensor, "..."]
Map = Callable[[Values], Values]
LOG_2 = math.log(2.0)
NEWTON_STEPS = 6  # log_omega reaches float64's last bits after five


def softplus(values: Values) -> Values:
    """log(1 + e^v) to the last bits of float64: PyTorch's own default returns v itself from 20 on, 2e-9 too little."""
    exact: Tensor = functional.softplus(values, threshold=40.0)
    return exact


class Divergence(NamedTuple):
    """One row of the family, elementwise on tensors of any shape.

    `f` takes u >= 0. `conjugate` is f*(t), +inf outside its domain. `activation` maps any logit into that domain, increasing.
    `optimal` is f'(u), the T at which the bound is the divergence. `conjugate_of_activation` is f*(activation(v)) in a closed
    form: finite, with a right gradient, wherever the value is a float. `optimal_logit` is the v with activation(v) = f'(u).
    """

    f: Map
    conjugate: Map
    activation: Map
    optimal: Map
    conjugate_of_activation: Map
    optimal_logit: Map


class _LogOmega(torch.autograd.Function):
    """The l with l + e^l = x: the logarithm of the Wright omega function, without the overflow of omega's usual forms."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        root = torch.where(x > 1.0, x.clamp(min=1.0).log(), x)  # above the root, where Newton on a convex function never overshoots
        for _ in range(NEWTON_STEPS):
            power = root.exp()
            root = root - (root + power - x) / (1.0 + power)
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors  # type: ignore[attr-defined]
        slope: Tensor = torch.sigmoid(-root)
        return grads[0] * slope


def log_omega(x: Values) -> Values:
    """The real solution l of l + e^l = x (Corless and Jeffrey 2002); twice differentiable."""
    root: Tensor = _LogOmega.apply(x)
    return root


def _inside(domain: Tensor, value: Tensor) -> Tensor:
    return torch.where(domain, value, torch.inf)


def _jeffreys_conjugate(t: Values) -> Values:
    """The conjugate w + 1/w + t - 2, with w + log w = 1 - t, is 1/w - log w - 1: nothing cancels and nothing overflows early."""
    log_w = log_omega(1.0 - t)
    return (-log_w).exp() - log_w - 1.0


def _kl_conjugate(t: Values) -> Values:
    return (t - 1.0).exp()


def _pearson_conjugate(t: Values) -> Values:
    return t.square() / 4.0 + t


def _identity(v: Values) -> Values:
    return v


def _half_tanh(v: Values) -> Values:
    """tanh(v) / 2 as sigmoid(2 v) - 1/2, written so that its gradient stays exact where it vanishes."""
    return (-softplus(-2.0 * v)).exp() - 0.5


# The closed forms are chosen for their gradients: PyTorch takes those of expm1, tanh and sigmoid from the rounded result, and in
# float32 they are 0 from |v| = 17, 9 and 17 on, where those of exp and softplus are right to the last bits.
DIVERGENCES: dict[str, Divergence] = {
    "kl": Divergence(
        f=lambda u: torch.xlogy(u, u),
        conjugate=_kl_conjugate,
        activation=_identity,
        optimal=lambda u: 1.0 + u.log(),
        conjugate_of_activation=_kl_conjugate,
        optimal_logit=lambda u: 1.0 + u.log(),
    ),
    "reverse_kl": Divergence(
        f=lambda u: -u.log(),
        conjugate=lambda t: _inside(t < 0.0, -1.0 - (-t).log()),
        activation=lambda v: -(-v).exp(),
        optimal=lambda u: -1.0 / u,
        conjugate_of_activation=lambda v: v - 1.0,
        optimal_logit=lambda u: u.log(),
    ),
    "pearson": Divergence(
        f=lambda u: (u - 1.0).square(),
        conjugate=_pearson_conjugate,
        activation=_identity,
        optimal=lambda u: 2.0 * (u - 1.0),
        conjugate_of_activation=_pearson_conjugate,
        optimal_logit=lambda u: 2.0 * (u - 1.0),
    ),
    "neyman": Divergence(
        f=lambda u: (1.0 - u).square() / u,
        conjugate=lambda t: _inside(t <= 1.0, 2.0 - 2.0 * (1.0 - t).clamp(min=0.0).sqrt()),
        activation=lambda v: 1.0 - (-v).exp(),
        optimal=lambda u: 1.0 - 1.0 / u.square(),
        conjugate_of_activation=lambda v: 2.0 - 2.0 * (-v / 2.0).exp(),
        optimal_logit=lambda u: 2.0 * u.log(),
    ),
    "squared_hellinger": Divergence(
        f=lambda u: (u.sqrt() - 1.0).square(),
        conjugate=lambda t: _inside(t < 1.0, t / (1.0 - t)),
        activation=lambda v: 1.0 - (-v).exp(),
        optimal=lambda u: 1.0 - u.rsqrt(),
        conjugate_of_activation=lambda v: v.exp() - 1.0,
        optimal_logit=lambda u: u.log() / 2.0,
    ),
    "jensen_shannon": Divergence(
        f=lambda u: torch.xlogy(u, u) - (u + 1.0) * ((u + 1.0) / 2.0).log(),
        conjugate=lambda t: _inside(t < LOG_2, -(2.0 - t.exp()).log()),
        activation=lambda v: LOG_2 - softplus(-v),
        optimal=lambda u: (2.0 * u / (1.0 + u)).log(),
        conjugate_of_activation=lambda v: softplus(v) - LOG_2,
        optimal_logit=lambda u: u.log(),
    ),
    "gan": Divergence(
        f=lambda u: torch.xlogy(u, u) - (u + 1.0) * torch.log1p(u),
        conjugate=lambda t: _inside(t < 0.0, -(-torch.expm1(t)).log()),
        activation=lambda v: -softplus(-v),
        optimal=lambda u: -u.reciprocal().log1p(),
        conjugate_of_activation=softplus,
        optimal_logit=lambda u: u.log(),
    ),
    "jeffreys": Divergence(
        f=lambda u: (u - 1.0) * u.log(),
        conjugate=_jeffreys_conjugate,
        activation=_identity,
        optimal=lambda u: 1.0 + u.log() - 1.0 / u,
        conjugate_of_activation=_jeffreys_conjugate,
        optimal_logit=lambda u: 1.0 + u.log() - 1.0 / u,
    ),
    "total_variation": Divergence(
        f=lambda u: (u - 1.0).abs() / 2.0,
        conjugate=lambda t: _inside(t.abs() <= 0.5, t),
        activation=_half_tanh,
        optimal=lambda u: (u - 1.0).sign() / 2.0,
        conjugate_of_activation=_half_tanh,
        optimal_logit=lambda u: (u - 1.0).sign().atanh(),  # at 1, where every T in the domain is optimal, 0 as `optimal` says
    ),
}
