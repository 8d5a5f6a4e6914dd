"""Are fakes nearer to the training images than fresh real images are? Then the generator copies (2004.05675)."""

import math

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from gan_core.metrics._features import usable
from gan_core.metrics._neighbours import nearest


def evaluate(
    training: Shaped[Tensor, "training ..."],
    held_out: Shaped[Tensor, "held_out ..."],
    fake: Shaped[Tensor, "fake ..."],
    *,
    extractor: str = "pixels",
) -> dict[str, float]:
    """`memorisation_<extractor>`: the chance that a fake is nearer to its nearest training image than a held-out image is to its own.

    0.5 means as near as fresh data, 1 that every fake is nearer; below 0.5 fakes are farther, as blurred or wrong images are, so
    a poor generator hides copying. Ties count one half. The paper's test has this statistic within cells of the feature space, weighted;
    here is one cell. `memorisation_<extractor>_error` is DeLong's standard error, over fakes and held-out images with the training
    images given; it is 0 where no fake's distance falls among the held-out ones.

    `copies_<extractor>` is the share of fakes that are nearer to a training image than any held-out image is. It depends on how many
    are held out: of n fresh samples, beside n held out, one is expected to be.

    `training` should be all images that were trained on: a part of them hides copies of the others. With torch.distributed, called
    with the same arguments on all ranks, which share the pairs.

    Raises:
        ValueError: fewer than two of any kind, features of different dimensions, not floating-point, NaN or infinity, constant reals.

    Source: Meehan, Chaudhuri and Dasgupta 2020, 2004.05675, section 4; DeLong et al. 1988.
    """
    training, held_out, fake = usable("memorisation", {"training": training, "held_out": held_out, "fake": fake})
    fakes, fresh = (nearest(points, training).distances[:, 0] for points in (fake, held_out))
    fresh_farther, fakes_nearer = _share_above(fakes, fresh), 1.0 - _share_above(fresh, fakes)
    variance = fresh_farther.var() / len(fakes) + fakes_nearer.var() / len(fresh)
    return {
        f"memorisation_{extractor}": float(fresh_farther.mean()),
        f"memorisation_{extractor}_error": math.sqrt(float(variance)),
        f"copies_{extractor}": float((fakes < fresh.min()).double().mean()),
    }


def _share_above(values: Float[Tensor, " values"], others: Float[Tensor, " others"]) -> Float64[Tensor, " values"]:
    """For each value the share of the others that are larger; equal ones count one half."""
    ordered = others.sort().values
    up_to = torch.searchsorted(ordered, values, right=True) + torch.searchsorted(ordered, values)
    return 1.0 - up_to.double() / (2 * len(others))
