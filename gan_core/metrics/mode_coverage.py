"""How many modes of a known mixture the generator reaches, by the protocol of VEEGAN (1705.07761) and PacGAN (1712.04086)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gan_core.datatypes import Mixture
from gan_core.metrics.class_coverage import reverse_kl

GOOD_WITHIN = 3.0  # standard deviations: Mahalanobis distance of an isotropic Gaussian


def evaluate(fake_images: Float[Tensor, "points 2 1 1"], mixture: Mixture) -> dict[str, float]:
    """`modes`: how many modes have at least one good point; `good_points`: the share of points that are good, 0 to 1;
    `mode_reverse_kl`: KL(good points' modes || the mixture's) in nats.

    The last is 0 where modes are as frequent as in the mixture. Where there is no good point it is the largest that it could be, as if the
    least likely mode had them all; log(modes) for even ones: no points are no better than one mode.

    A point is good within GOOD_WITHIN standard deviations of a mode (1712.04086, section 4.1, uses 2,500 points), and counts for that
    from which it is the fewest deviations away.
    """
    points = fake_images.flatten(1).double()
    distances = torch.cdist(points, mixture.centres.to(points))
    if isinstance(mixture.standard_deviation, Tensor):
        nearest = (distances / mixture.standard_deviation.to(points)).min(1)
        good = nearest.values <= GOOD_WITHIN
    else:
        nearest = distances.min(1)
        good = nearest.values <= GOOD_WITHIN * mixture.standard_deviation
    counts = torch.bincount(nearest.indices[good], minlength=len(mixture.centres))
    weights = None if mixture.weights is None else mixture.weights.to(points.device)
    worst = math.log(len(counts)) if weights is None else -math.log(float(weights.min()))
    return {
        "modes": float((counts > 0).sum()),
        "good_points": float(good.double().mean()),
        "mode_reverse_kl": reverse_kl(counts, weights) if bool(good.any()) else worst,
    }
