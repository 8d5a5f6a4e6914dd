"""How many modes of a known mixture the generator reaches, by the protocol of VEEGAN (1705.07761) and PacGAN (1712.04086)."""

import torch
from jaxtyping import Float
from torch import Tensor

from gan_core.datatypes import Mixture

GOOD_WITHIN = 3.0  # standard deviations: Mahalanobis distance of the isotropic mixture


def evaluate(fake_images: Float[Tensor, "points 2 1 1"], mixture: Mixture) -> dict[str, float]:
    """`modes`: how many modes have at least one good point; `good_points`: the share of points that are good, 0 to 1.

    A point is good within GOOD_WITHIN standard deviations of a mode (1712.04086, section 4.1, uses 2,500 points).
    """
    points = fake_images.flatten(1).double()
    distances = torch.cdist(points, mixture.centres.to(points))
    nearest = distances.min(1)
    good = nearest.values <= GOOD_WITHIN * mixture.standard_deviation
    return {"modes": float(len(nearest.indices[good].unique())), "good_points": float(good.double().mean())}
