"""Density and coverage (2002.09797): precision and recall that outliers cannot move much, both by balls around the reals."""

import math

from jaxtyping import Shaped
from torch import Tensor

from gan_core.metrics._neighbours import Manifold, manifold

K = 5


def evaluate(
    real: Shaped[Tensor, "real ..."],
    fake: Shaped[Tensor, "fake ..."],
    *,
    extractor: str = "pixels",
    k: int = K,
    found: Manifold | None = None,
) -> dict[str, float]:
    """`density_<extractor>`: the mean number of reals' balls around a fake, over k, and `coverage_<extractor>`: the share of reals with a
    fake in their ball.

    A ball reaches to the k-th nearest other real, and holds its surface. Where the distributions are equal, density is 1 in
    expectation (it may be above 1), and coverage is 1 - product over i = 1 .. k of (reals - i) / (reals + fakes - i), which is about
    1 - 2^-k at equal counts.

    `density_<extractor>_error` is std / sqrt(fakes), and leaves out the chance in the reals. `coverage_<extractor>_error` is binomial,
    sqrt(p (1 - p) / reals); it leaves out that one fake lies in several balls, and says 0 at p = 0 and p = 1.

    `found` is `manifold(real, fake, k_coverage=k)` where somebody has it already; nothing is computed from the features then.

    Raises:
        ValueError: as `manifold`; `found` has another k.

    Source: Naeem et al. 2020, 2002.09797, section 3, k = 5.
    """
    found = manifold(real, fake, k_precision=k, k_coverage=k) if found is None else found
    if found.k_coverage != k:
        raise ValueError(f"density_coverage: k is {k}, but the manifold has k_coverage={found.k_coverage}; give one k to both")
    density, coverage = found.balls_around_fake.double() / k, float(found.covered.double().mean())
    return {
        f"density_{extractor}": float(density.mean()),
        f"density_{extractor}_error": float(density.std()) / math.sqrt(len(density)),
        f"coverage_{extractor}": coverage,
        f"coverage_{extractor}_error": math.sqrt(coverage * (1.0 - coverage) / len(found.covered)),
    }
