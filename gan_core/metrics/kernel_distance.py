"""Kernel two-sample distance: the squared maximum mean discrepancy under the cubic kernel of KID (1801.01401)."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from gan_core import distributed
from gan_core.metrics._features import rows_at_once, slices, usable

BLOCK = 2048


class RowSums(NamedTuple):
    """Sums of the kernel for each sample: over the others of its own set, and over the other set."""

    real_real: Float64[Tensor, " real"]
    fake_fake: Float64[Tensor, " fake"]
    real_fake: Float64[Tensor, " real"]
    fake_real: Float64[Tensor, " fake"]


def evaluate(real: Shaped[Tensor, "real ..."], fake: Shaped[Tensor, "fake ..."], *, extractor: str = "pixels") -> dict[str, float]:
    """`kid_<extractor>`: the unbiased MMD^2 between real and fake features [count, ...] (flattened), images being their own by default.

    Zero in expectation when both come from one distribution (so it may be slightly negative); comparable only between features
    of one extractor. All pairs are used, in place of random subsets. Computed in float64.

    `kid_<extractor>_error` is the jackknife's standard error, from three samples of each kind on. Where the distributions are equal, the
    estimate is degenerate and the error too large, by a factor of sqrt(2) (at most sqrt(2 (n-1) / (n-2)) for n samples of each kind).

    With torch.distributed, called with the same arguments on all ranks, which share the pairs.

    Raises:
        ValueError: fewer than two samples, features of different dimensions, not floating-point, NaN or infinity, constant reals.

    Source: Binkowski et al. 2018, 1801.01401, section 4; kernel (x . y / d + 1)^3, estimator of Gretton et al. 2012, eq. 3. Jackknife of
    U-statistics of several samples: Arvesen 1969.
    """
    real, fake = usable("kernel_distance", {"real": real, "fake": fake})
    sums = row_sums(real, fake)
    m, n = len(real), len(fake)
    total_real, total_fake, total_between = sums.real_real.sum(), sums.fake_fake.sum(), sums.real_fake.sum()
    value = total_real / (m * (m - 1)) + total_fake / (n * (n - 1)) - 2.0 * total_between / (m * n)
    found = {f"kid_{extractor}": float(value)}
    if min(m, n) > 2:
        variance = _jackknife(sums.real_real, sums.real_fake, n) + _jackknife(sums.fake_fake, sums.fake_real, m)
        found[f"kid_{extractor}_error"] = math.sqrt(float(variance))
    return found


def row_sums(real: Shaped[Tensor, "real dimensions"], fake: Shaped[Tensor, "fake dimensions"]) -> RowSums:
    """In blocks of at most BLOCK x BLOCK pairs, so memory does not grow with the counts.

    A block of pairs within one set serves both halves of the square.
    """
    sums = RowSums(*(rows.new_zeros(len(rows), dtype=torch.float64) for rows in (real, fake, real, fake)))
    size = rows_at_once(real.shape[1], BLOCK)
    tasks = [
        (within, left, right, left_sums, right_sums, rows, columns)
        for within, left, right, left_sums, right_sums in (
            (True, real, real, sums.real_real, sums.real_real),
            (True, fake, fake, sums.fake_fake, sums.fake_fake),
            (False, real, fake, sums.real_fake, sums.fake_real),
        )
        for rows in slices(len(left), size)
        for columns in slices(len(right), size)
        if not within or rows.start <= columns.start
    ]
    for within, left, right, left_sums, right_sums, rows, columns in distributed.my_part(tasks):
        values = _kernel(left[rows], right[columns])
        own = within and rows == columns
        if own:
            values.fill_diagonal_(0.0)
        left_sums[rows] += values.sum(1)
        if not own:
            right_sums[columns] += values.sum(0)
    return RowSums(*(distributed.sum_over_ranks(part) for part in sums))


def _kernel(left: Tensor, right: Tensor) -> Tensor:
    products = (left.double() @ right.double().T).div_(left.shape[1]).add_(1.0)
    return products.square().mul_(products)


def _jackknife(own: Tensor, between: Tensor, others: int) -> Tensor:
    """(n-1)/n times the sum of squares of the estimate with one of n samples left out, about their mean; constants fall out."""
    n = len(own)
    left_out = -2.0 * own / ((n - 1) * (n - 2)) + 2.0 * between / ((n - 1) * others)
    return (left_out - left_out.mean()).square().sum() * ((n - 1) / n)
