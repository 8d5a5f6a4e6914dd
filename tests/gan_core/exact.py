"""What the papers say, written again at any precision (mpmath), by quadrature or in plain loops: what the tests compare with."""

import math
from collections.abc import Callable
from typing import NamedTuple

import mpmath as mp
import torch
from torch import Tensor


class Exact(NamedTuple):
    """A row of the table of f-divergences (1606.00709, tables 1 to 6) for mpmath numbers; the conjugate is finite where `inside` holds."""

    f: Callable
    conjugate: Callable
    inside: Callable
    activation: Callable


def omega(x):
    """The w with w + log w = x."""
    return mp.lambertw(mp.exp(x)).real


EXACT = {
    "kl": Exact(lambda u: u * mp.log(u), lambda t: mp.exp(t - 1), lambda t: True, lambda v: v),
    "reverse_kl": Exact(lambda u: -mp.log(u), lambda t: -1 - mp.log(-t), lambda t: t < 0, lambda v: -mp.exp(-v)),
    "pearson": Exact(lambda u: (u - 1) ** 2, lambda t: t**2 / 4 + t, lambda t: True, lambda v: v),
    "neyman": Exact(lambda u: (1 - u) ** 2 / u, lambda t: 2 - 2 * mp.sqrt(1 - t), lambda t: t <= 1, lambda v: 1 - mp.exp(-v)),
    "squared_hellinger": Exact(lambda u: (mp.sqrt(u) - 1) ** 2, lambda t: t / (1 - t), lambda t: t < 1, lambda v: 1 - mp.exp(-v)),
    "jensen_shannon": Exact(
        lambda u: u * mp.log(u) - (u + 1) * mp.log((u + 1) / 2),
        lambda t: -mp.log(2 - mp.exp(t)),
        lambda t: t < mp.log(2),
        lambda v: mp.log(2) - mp.log(1 + mp.exp(-v)),
    ),
    "gan": Exact(
        lambda u: u * mp.log(u) - (u + 1) * mp.log(u + 1),
        lambda t: -mp.log(1 - mp.exp(t)),
        lambda t: t < 0,
        lambda v: -mp.log(1 + mp.exp(-v)),
    ),
    "jeffreys": Exact(lambda u: (u - 1) * mp.log(u), lambda t: omega(1 - t) + 1 / omega(1 - t) + t - 2, lambda t: True, mp.mpf),
    "total_variation": Exact(lambda u: abs(u - 1) / 2, lambda t: t, lambda t: abs(t) <= mp.mpf("0.5"), lambda v: mp.tanh(v) / 2),
}


INTERVALS = 2**15


class Pair(NamedTuple):
    """Two densities on a grid, and their divergences in closed form."""

    x: Tensor
    weights: Tensor
    log_p: Tensor
    log_q: Tensor
    closed: dict[str, float]

    @property
    def u(self) -> Tensor:
        return (self.log_p - self.log_q).exp()

    def integral(self, values: Tensor) -> float:
        return (self.weights * values).sum().item()

    def over_p(self, values: Tensor) -> float:
        return self.integral(self.log_p.exp() * values)

    def over_q(self, values: Tensor) -> float:
        return self.integral(self.log_q.exp() * values)


def _pair(low: float, high: float, log_p: Callable, log_q: Callable, closed: dict[str, float]) -> Pair:
    """Simpson's rule: right to 1e-10, and to 1e-7 where |p - q| has a kink."""
    x = torch.linspace(low, high, INTERVALS + 1, dtype=torch.float64)
    weights = torch.full_like(x, 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    closed["jeffreys"] = closed["kl"] + closed["reverse_kl"]
    return Pair(x, weights * (high - low) / INTERVALS / 3.0, log_p(x), log_q(x), closed)


def gaussians(mean_p: float, deviation_p: float, mean_q: float, deviation_q: float, low: float, high: float) -> Pair:
    """Over a range in which the tails of p^2/q and of q^2/p end, and 1/u^2 does not overflow."""

    def log_density(mean: float, deviation: float) -> Callable:
        return lambda x: -(((x - mean) / deviation) ** 2) / 2.0 - math.log(deviation * math.sqrt(2.0 * math.pi))

    def kl(mean: float, s: float, other_mean: float, t: float) -> float:
        return math.log(t / s) + (s**2 + (mean - other_mean) ** 2) / (2 * t**2) - 0.5

    def chi_square(mean: float, s: float, other_mean: float, t: float) -> float:
        """The integral of p^2/q, less 1."""
        rest = 2 * t**2 - s**2
        return t**2 / (s * math.sqrt(rest)) * math.exp((mean - other_mean) ** 2 / rest) - 1.0

    there, back = (mean_p, deviation_p, mean_q, deviation_q), (mean_q, deviation_q, mean_p, deviation_p)
    sum_of_variances = deviation_p**2 + deviation_q**2
    overlap = math.sqrt(2 * deviation_p * deviation_q / sum_of_variances) * math.exp(-((mean_p - mean_q) ** 2) / (4 * sum_of_variances))
    closed = {
        "kl": kl(*there),
        "reverse_kl": kl(*back),
        "pearson": chi_square(*there),
        "neyman": chi_square(*back),
        "squared_hellinger": 2.0 - 2.0 * overlap,
    }
    return _pair(low, high, log_density(mean_p, deviation_p), log_density(mean_q, deviation_q), closed)


def exponentials(a: float, b: float) -> Pair:
    """Of rates a and b; the densities are equal at `cross`."""

    def kl(a: float, b: float) -> float:
        return math.log(a / b) + b / a - 1.0

    cross = math.log(a / b) / (a - b)
    closed = {
        "kl": kl(a, b),
        "reverse_kl": kl(b, a),
        "pearson": a**2 / (b * (2 * a - b)) - 1.0,
        "neyman": b**2 / (a * (2 * b - a)) - 1.0,
        "squared_hellinger": 2.0 - 4.0 * math.sqrt(a * b) / (a + b),
        "total_variation": abs(math.exp(-a * cross) - math.exp(-b * cross)),
        "wasserstein": abs(1.0 / a - 1.0 / b),
    }
    return _pair(0.0, 120.0, lambda x: math.log(a) - a * x, lambda x: math.log(b) - b * x, closed)


PAIRS = {
    "N(0,1) and N(0.7,1.3)": gaussians(0.0, 1.0, 0.7, 1.3, -30.0, 38.0),
    "N(0.3,1) and N(-0.2,0.8)": gaussians(0.3, 1.0, -0.2, 0.8, -14.0, 16.0),
    "exponentials": exponentials(1.0, 0.7),
}


def squared_mmd(real: Tensor, fake: Tensor) -> float:
    """The unbiased estimate (Gretton et al. 2012, eq. 3) with the kernel of 1801.01401, eq. 7, on mean squared differences: plain loops."""

    def k(x: Tensor, y: Tensor) -> float:
        square = sum((a - b) ** 2 for a, b in zip(x.tolist(), y.tolist())) / len(x)
        return sum((1.0 + square / (2.0 * scale)) ** -scale for scale in (0.2, 0.5, 1.0, 2.0, 5.0))

    m, n = len(real), len(fake)
    real_side = sum(k(real[i], real[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    fake_side = sum(k(fake[i], fake[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return real_side + fake_side - 2.0 * sum(k(x, y) for x in real for y in fake) / (m * n)
