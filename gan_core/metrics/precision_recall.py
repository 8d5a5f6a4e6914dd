"""Improved precision and recall (1904.06991): how many fakes look real, and how much of the data the generator can make."""

import math

from jaxtyping import Shaped
from torch import Tensor

from gan_core.metrics._neighbours import Manifold, manifold

K = 3


def evaluate(
    real: Shaped[Tensor, "real ..."],
    fake: Shaped[Tensor, "fake ..."],
    *,
    extractor: str = "pixels",
    k: int = K,
    found: Manifold | None = None,
) -> dict[str, float]:
    """`precision_<extractor>`: the share of fakes within the ball of some real; `recall_<extractor>`: of reals within some fake's ball.

    A ball reaches to the k-th nearest neighbour among its own set, and holds its surface. Both are between 0 and 1, and depend on the
    counts: the paper takes 50,000 of each. One outlying real with its wide ball can raise the precision (2002.09797).

    `precision_<extractor>_error` and `recall_<extractor>_error` are binomial, sqrt(p (1 - p) / count): they leave out the chance in
    the balls themselves, and say 0 at p = 0 and p = 1.

    `found` is `manifold(real, fake, k_precision=k)` where somebody has it already; nothing is computed from the features then.

    Raises:
        ValueError: as `manifold`; `found` has another k.

    Source: Kynkaanniemi et al. 2019, 1904.06991, eqs. 1 and 2, k = 3.
    """
    found = manifold(real, fake, k_precision=k, k_coverage=k) if found is None else found
    if found.k_precision != k:
        raise ValueError(f"precision_recall: k is {k}, but the manifold has k_precision={found.k_precision}; give one k to both")
    scores = {}
    for name, inside in (("precision", found.fake_in_real), ("recall", found.real_in_fake)):
        share = float(inside.double().mean())
        scores[f"{name}_{extractor}"] = share
        scores[f"{name}_{extractor}_error"] = math.sqrt(share * (1.0 - share) / len(inside))
    return scores
