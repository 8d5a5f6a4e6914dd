"""Kernel two-sample distance: the squared maximum mean discrepancy under the cubic kernel of KID (1801.01401)."""

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 2048


def evaluate(
    real_images: Float[Tensor, "real channels height width"], fake_images: Float[Tensor, "fake channels height width"]
) -> dict[str, float]:
    """`kid_pixels`: the unbiased MMD^2 between real and fake images, the pixels themselves being the features.

    Zero in expectation when both come from one distribution (so it may be slightly negative); comparable only between images
    of one data set, resolution and count. Needs at least two images of each kind. Computed in float64.

    Source: Binkowski et al. 2018, 1801.01401, section 4; kernel (x . y / d + 1)^3, estimator of Gretton et al. 2012, eq. 3.
    """
    real, fake = (images.flatten(1).double() for images in (real_images, fake_images))
    value = _mean_off_diagonal(real) + _mean_off_diagonal(fake) - 2.0 * _kernel_sum(real, fake) / (len(real) * len(fake))
    return {"kid_pixels": float(value)}


def _mean_off_diagonal(features: Tensor) -> Tensor:
    count = len(features)
    diagonal = (features.square().mean(1) + 1.0).pow(3).sum()
    return (_kernel_sum(features, features) - diagonal) / (count * (count - 1))


def _kernel_sum(left: Tensor, right: Tensor) -> Tensor:
    """The sum of the kernel over all pairs, in blocks: memory is BLOCK x BLOCK whatever the counts."""
    sums = [(rows @ columns.T / left.shape[1] + 1.0).pow(3).sum() for rows in left.split(BLOCK) for columns in right.split(BLOCK)]
    return torch.stack(sums).sum()
