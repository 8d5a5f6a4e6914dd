"""How many different images can the generator make? By the birthday paradox, from how often fakes collide (1706.08224)."""

import math

from jaxtyping import Float, Shaped
from torch import Tensor

from gan_core.metrics._features import usable
from gan_core.metrics._neighbours import closest_pairs, pairs_within

NO_PAIRS = 3.0  # the rule of three: with none seen, the expected number is below -ln(0.05) = 3.0 at 95 %


def evaluate(
    real: Shaped[Tensor, "real ..."], fake: Shaped[Tensor, "fake ..."], *, extractor: str = "pixels", threshold: float | None = None
) -> dict[str, float]:
    """`duplicates_<extractor>`: the share of fakes with a near twin among the fakes; `support_<extractor>`: the support's estimated size.

    Near is not farther apart than `threshold`, in units of the features; without one, `calibrated_threshold(real, len(fake))`.
    With p near pairs among n fakes the support is n (n - 1) / (2 p): right for a uniform distribution over that many images of which
    no two are near, and the inverse of the sum of squared probabilities otherwise, so rare images hardly count. Where no pair is
    near it is the lower bound n (n - 1) / 6 at 95 % confidence, by the rule of three. With few pairs the relative error is
    1 / sqrt(p). With the calibrated threshold about one pair is expected of a generator as diverse as the data: a value near
    n^2 / 2 is then a lower bound too, and only much smaller ones measure the generator. The paper had people judge the nearest
    pairs; a distance is a poor stand-in where the features do not see what people see.

    With torch.distributed, called with the same arguments on all ranks, which share the pairs.

    Raises:
        ValueError: fewer than two samples, features of different dimensions, not floating-point, NaN or infinity, constant reals;
            a negative threshold; none and fewer reals than fakes.

    Source: Arora and Zhang 2017, 1706.08224, the birthday paradox test: n samples collide with even chance at a support of about n^2.
    """
    real, fake = usable("birthday_paradox", {"real": real, "fake": fake})
    threshold = calibrated_threshold(real, len(fake)) if threshold is None else threshold
    if not (math.isfinite(threshold) and threshold >= 0.0):
        raise ValueError(f"birthday_paradox: the threshold must be a distance, 0 or more, given {threshold}")
    near = pairs_within(fake, threshold)
    return {
        f"duplicates_{extractor}": float(near.has_twin.double().mean()),
        f"support_{extractor}": math.comb(len(fake), 2) / (near.pairs or NO_PAIRS),
    }


def calibrated_threshold(real: Float[Tensor, "real dimensions"], count: int) -> float:
    """The distance within which one pair is expected, at most, among `count` real images.

    Among n reals the q closest pairs are within it, where q is the whole part of C(n, 2) / C(count, 2): that is one for equal
    numbers. Should more pairs tie there (a data set with exact duplicates: the distance is 0) it is that distance all the same.

    Raises:
        ValueError: fewer reals than `count`, from which nothing so rare can be estimated.
    """
    require_enough(len(real), count)
    return float(closest_pairs(real, math.comb(len(real), 2) // math.comb(count, 2))[-1])


def require_enough(real: int, fake: int) -> None:
    """Refuse fewer reals than fakes.

    Raises:
        ValueError: `real` is below `fake`.
    """
    if real < fake:
        raise ValueError(
            f"birthday_paradox: {real} real images cannot calibrate a threshold for {fake} fakes; "
            f"give at least {fake} real images, at most {real} fakes, or a threshold"
        )
