"""Kernel two-sample distance: the squared maximum mean discrepancy under the cubic kernel of KID (1801.01401)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from gan_core import distributed
from gan_core.metrics._features import full_precision, rows_at_once, slices, usable

BLOCK = 512  # rows and columns of a tile of pairs, of which those below the diagonal need not be computed
WITHIN = 1000  # samples of each kind among which all pairs are taken, the paper's size of a subset (1801.01401, section 4)


class RowSums(NamedTuple):
    """Sums of the kernel for each sample: over the others of its own set, and over the other set."""

    real_real: Float64[Tensor, " real"]
    fake_fake: Float64[Tensor, " fake"]
    real_fake: Float64[Tensor, " real"]
    fake_real: Float64[Tensor, " fake"]


def evaluate(real: Shaped[Tensor, "real ..."], fake: Shaped[Tensor, "fake ..."], *, extractor: str = "pixels") -> dict[str, float]:
    """`kid_<extractor>`: the unbiased MMD^2 between real and fake features [count, ...] (flattened), images being their own by default.

    Zero in expectation when both come from one distribution (so it may be slightly negative); comparable only between features
    of one extractor. Up to WITHIN samples of the rarer kind all pairs are used; more are divided at random, the same way each time, into
    as few equal groups as have no more, and the mean over the groups is given: unbiased too, with every sample used once.

    Inner products are taken in float32 about the common mean, so that rounding is small against the spread; all else is float64.
    With float64 features it is all float64.

    `kid_<extractor>_error` is the jackknife's standard error, from three samples of each kind on. Where the distributions are equal, the
    estimate is degenerate and the error too large, by a factor of sqrt(2) (at most sqrt(2 (n-1) / (n-2)) for n samples of each kind).

    With torch.distributed, called with the same arguments on all ranks, which share the pairs.

    Raises:
        ValueError: fewer than two samples, features of different dimensions, not floating-point, NaN or infinity, constant reals.

    Source: Binkowski et al. 2018, 1801.01401, section 4; kernel (x . y / d + 1)^3, estimator of Gretton et al. 2012, eq. 3. Jackknife of
    U-statistics of several samples: Arvesen 1969.
    """
    real, fake = usable("kernel_distance", {"real": real, "fake": fake})
    groups = -(-min(len(real), len(fake)) // WITHIN)
    found = [_of_group(real[left], fake[right]) for left, right in zip(_divided(real, groups), _divided(fake, groups), strict=True)]
    scores = {f"kid_{extractor}": sum(value for value, _ in found) / groups}
    if all(variance is not None for _, variance in found):
        scores[f"kid_{extractor}_error"] = math.sqrt(sum(variance or 0.0 for _, variance in found)) / groups
    return scores


def _divided(rows: Tensor, groups: int) -> Sequence[Tensor | slice]:
    """Which rows each of so many groups has. Their order may say what they are, so it must not say whom they are compared with."""
    if groups == 1:
        return [slice(None)]
    return torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).to(rows.device).tensor_split(groups)


def _of_group(real: Tensor, fake: Tensor) -> tuple[float, float | None]:
    """The estimate by all pairs of these samples, and its variance."""
    sums = row_sums(real, fake)
    m, n = len(real), len(fake)
    total_real, total_fake, total_between = sums.real_real.sum(), sums.fake_fake.sum(), sums.real_fake.sum()
    value = float(total_real / (m * (m - 1)) + total_fake / (n * (n - 1)) - 2.0 * total_between / (m * n))
    if min(m, n) <= 2:
        return value, None
    return value, float(_jackknife(sums.real_real, sums.real_fake, n) + _jackknife(sums.fake_fake, sums.fake_real, m))


def row_sums(real: Shaped[Tensor, "real dimensions"], fake: Shaped[Tensor, "fake dimensions"]) -> RowSums:
    """In blocks of at most BLOCK x BLOCK pairs, so memory does not grow with the counts.

    A block of pairs within one set serves both halves of the square.
    """
    sums = RowSums(*(rows.new_zeros(len(rows), dtype=torch.float64) for rows in (real, fake, real, fake)))
    centre = (real.mean(0, dtype=torch.float64) + fake.mean(0, dtype=torch.float64)) / 2.0
    reals, fakes = _Centred.of(real, centre), _Centred.of(fake, centre)
    size = rows_at_once(real.shape[1], BLOCK)
    tasks = [
        (within, left, right, left_sums, right_sums, rows, columns)
        for within, left, right, left_sums, right_sums in (
            (True, reals, reals, sums.real_real, sums.real_real),
            (True, fakes, fakes, sums.fake_fake, sums.fake_fake),
            (False, reals, fakes, sums.real_fake, sums.fake_real),
        )
        for rows in slices(len(left.rows), size)
        for columns in slices(len(right.rows), size)
        if not within or rows.start <= columns.start
    ]
    square = float(centre @ centre)
    with full_precision():
        for within, left, right, left_sums, right_sums, rows, columns in distributed.my_part(tasks):
            values = _kernel(left, rows, right, columns, square)
            own = within and rows == columns
            if own:
                values.fill_diagonal_(0.0)
            left_sums[rows] += values.sum(1)
            if not own:
                right_sums[columns] += values.sum(0)
    return RowSums(*(distributed.sum_over_ranks(part) for part in sums))


class _Centred(NamedTuple):
    """Samples about a centre, in their own precision, and the inner product of each with the centre in float64."""

    rows: Tensor
    along: Float64[Tensor, " count"]

    @classmethod
    def of(cls, rows: Tensor, centre: Tensor) -> "_Centred":
        about = torch.empty_like(rows)
        along = rows.new_empty(len(rows), dtype=torch.float64)
        for part in slices(len(rows), BLOCK):
            whole = rows[part].double() - centre
            about[part], along[part] = whole.to(rows.dtype), whole @ centre
        return cls(about, along)


def _kernel(left: _Centred, rows: slice, right: _Centred, columns: slice, square: float) -> Tensor:
    """(x . y / d + 1)^3, where x . y = x' . y' + x' . c + c . y' + c . c with x' and y' the samples about c."""
    products = (left.rows[rows] @ right.rows[columns].T).double()
    products.add_(left.along[rows, None]).add_(right.along[columns]).add_(square).div_(left.rows.shape[1]).add_(1.0)
    return products.square().mul_(products)


def _jackknife(own: Tensor, between: Tensor, others: int) -> Tensor:
    """(n-1)/n times the sum of squares of the estimate with one of n samples left out, about their mean; constants fall out."""
    n = len(own)
    left_out = -2.0 * own / ((n - 1) * (n - 2)) + 2.0 * between / ((n - 1) * others)
    return (left_out - left_out.mean()).square().sum() * ((n - 1) / n)
