"""Kernel two-sample distance: the squared maximum mean discrepancy under the cubic kernel of KID (1801.01401)."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from gan_core import distributed
from gan_core.metrics._features import full_precision, rows_at_once, slices, usable

BLOCK = 512  # rows and columns of a tile of pairs, of which those below the diagonal need not be computed
WITHIN = 1000  # samples of each kind among which all pairs are taken, the paper's size of a subset (1801.01401, section 4)


def evaluate(real: Shaped[Tensor, "real ..."], fake: Shaped[Tensor, "fake ..."], *, extractor: str = "pixels") -> dict[str, float]:
    """`kid_<extractor>`: the unbiased MMD^2 between real and fake features [count, ...] (flattened), images being their own by default.

    Zero in expectation when both come from one distribution (so it may be slightly negative); comparable only between features
    of one extractor. Up to WITHIN samples of each kind all pairs are used. More are divided at random, the same way each time, into
    equal groups of no more; the kernel's mean is taken within each group, and between groups that meet in turn, until every group of the
    commoner kind has met one. That is unbiased too, and takes time as the counts and not as their squares.

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
    reals, fakes = _Side.of(real), _Side.of(fake)
    centre = (real[: reals.largest].mean(0, dtype=torch.float64) + fake[: fakes.largest].mean(0, dtype=torch.float64)) / 2.0
    turns = max(len(reals.groups), len(fakes.groups))
    with full_precision():
        for turn in range(turns):
            left, right = turn % len(reals.groups), turn % len(fakes.groups)
            one, other = _Centred.of(real[reals.groups[left]], centre), _Centred.of(fake[fakes.groups[right]], centre)
            if turn == left:
                reals.add_within(one, left, centre)
            if turn == right:
                fakes.add_within(other, right, centre)
            _add_between(one, other, (reals, left), (fakes, right), centre)
    left_part, right_part = reals.over_ranks(turns), fakes.over_ranks(turns)
    scores = {f"kid_{extractor}": left_part.within + right_part.within - 2.0 * left_part.between}
    if left_part.variance is not None and right_part.variance is not None:
        scores[f"kid_{extractor}_error"] = math.sqrt(left_part.variance + right_part.variance)
    return scores


class _Part(NamedTuple):
    """One side's share of the estimate: the kernel's mean within it and with the other side, and what its samples add to the variance."""

    within: float
    between: float
    variance: float | None


class _Side:
    """The samples of one kind in groups, with each one's mean of the kernel over the others of its group, and over its partners.

    A group has a partner, a group of the other side, at every turn it is up; `turns` counts them.
    """

    def __init__(self, groups: list[Tensor], rows: Tensor) -> None:
        self.groups = groups
        self.largest = max(len(group) for group in groups)
        self.own, self.with_other = (rows.new_zeros(len(rows), dtype=torch.float64) for _ in range(2))
        self.turns = [0] * len(groups)

    @classmethod
    def of(cls, rows: Tensor) -> "_Side":
        """At random, the same way each time: the order of samples may say what they are, so it must not say whom they meet."""
        count = -(-len(rows) // WITHIN)
        order = torch.arange(len(rows))
        if count > 1:
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        return cls(list(order.to(rows.device).tensor_split(count)), rows)

    def add_within(self, samples: "_Centred", group: int, centre: Tensor) -> None:
        """The kernel within a group; a tile of pairs serves both halves of the square."""
        sums = self.own.new_zeros(len(samples.rows))
        tiles = slices(len(samples.rows), rows_at_once(samples.rows.shape[1], BLOCK))
        for rows, columns in distributed.my_part([(rows, columns) for rows in tiles for columns in tiles if rows.start <= columns.start]):
            values = _kernel(samples, rows, samples, columns, centre)
            if rows == columns:
                values.fill_diagonal_(0.0)
            else:
                sums[columns] += values.sum(0)
            sums[rows] += values.sum(1)
        self.own[self.groups[group]] = sums / (len(sums) - 1)

    def over_ranks(self, turns: int) -> _Part:
        """Means over the groups, and the variance by the jackknife: of each sample left out in its group."""
        self.own, self.with_other = distributed.sum_over_ranks(self.own), distributed.sum_over_ranks(self.with_other)
        within, between, variance = 0.0, 0.0, 0.0
        for group, up in zip(self.groups, self.turns, strict=True):
            n, share = len(group), up / turns
            own, with_other = self.own[group] / len(self.groups), self.with_other[group] / up * share
            within += float(own.mean())
            between += float(with_other.mean())
            if n > 2:
                left_out = -2.0 * own / (n - 2) + 2.0 * with_other / (n - 1)
                variance += float((left_out - left_out.mean()).square().sum() * ((n - 1) / n))
        return _Part(within, between, variance if min(map(len, self.groups)) > 2 else None)


def _add_between(one: "_Centred", other: "_Centred", left: tuple[_Side, int], right: tuple[_Side, int], centre: Tensor) -> None:
    """The kernel between two groups, to each sample's mean over its partners."""
    sums = [side.own.new_zeros(len(side.groups[group])) for side, group in (left, right)]
    size = rows_at_once(one.rows.shape[1], BLOCK)
    for rows, columns in distributed.my_part([(i, j) for i in slices(len(one.rows), size) for j in slices(len(other.rows), size)]):
        values = _kernel(one, rows, other, columns, centre)
        sums[0][rows] += values.sum(1)
        sums[1][columns] += values.sum(0)
    for (side, group), total, partners in zip((left, right), sums, (len(other.rows), len(one.rows)), strict=True):
        side.with_other[side.groups[group]] += total / partners
        side.turns[group] += 1


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


def _kernel(left: _Centred, rows: slice, right: _Centred, columns: slice, centre: Tensor) -> Tensor:
    """(x . y / d + 1)^3, where x . y = x' . y' + x' . c + c . y' + c . c with x' and y' the samples about c."""
    products = (left.rows[rows] @ right.rows[columns].T).double()
    products.add_(left.along[rows, None]).add_(right.along[columns]).add_(centre @ centre).div_(len(centre)).add_(1.0)
    return products.square().mul_(products)
