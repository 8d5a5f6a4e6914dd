"""The kernel two-sample test: maximum mean discrepancy and its witness function (Gretton et al. 2012)."""

import torch
from jaxtyping import Float
from torch import Tensor

SCALES = (0.2, 0.5, 1.0, 2.0, 5.0)


def kernel(left: Float[Tensor, "left features"], right: Float[Tensor, "right features"]) -> Float[Tensor, "left right"]:
    """The mixture of rational quadratic kernels of 1801.01401, eq. 7, on the mean squared difference over features: in (0, 5].

    The mean in place of the sum keeps the same scales fit for features of any width.
    """
    square = left.square().mean(1)[:, None] + right.square().mean(1)[None, :] - 2.0 * left @ right.T / left.shape[1]
    square = square + (square.clamp(min=0.0) - square).detach()  # rounding below 0 is put right, without a say in any derivative
    return torch.stack([(1.0 + square / (2.0 * scale)).pow(-scale) for scale in SCALES]).sum(0)


def witness(
    real_features: Float[Tensor, "batch features"], fake_features: Float[Tensor, "batch features"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """The witness function E k(., real) - E k(., fake) at each real and at each fake, leaving each sample out of its own mean.

    The mean over reals minus the mean over fakes is the unbiased MMD^2 (Gretton et al. 2012, eq. 3). Needs two samples of each.
    """
    between = kernel(real_features, fake_features)
    real_side = _mean_of_others(kernel(real_features, real_features)) - between.mean(1)
    fake_side = between.mean(0) - _mean_of_others(kernel(fake_features, fake_features))
    return real_side, fake_side


def witness_at(
    features: Float[Tensor, "points features"],
    real_features: Float[Tensor, "batch features"],
    fake_features: Float[Tensor, "batch features"],
) -> Float[Tensor, " points"]:
    """The witness function at other points: large where real samples are near."""
    return kernel(features, real_features).mean(1) - kernel(features, fake_features).mean(1)


def _mean_of_others(square: Float[Tensor, "batch batch"]) -> Float[Tensor, " batch"]:
    return (square.sum(1) - square.diagonal()) / (len(square) - 1)
