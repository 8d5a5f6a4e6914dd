"""Frechet distance: the squared 2-Wasserstein distance of two Gaussians with the features' means and covariances (FID, 1706.08500).

Only with the published Inception-v3 weights may it be called FID; here it is `fd_<extractor>`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from gan_core import distributed
from gan_core.metrics._features import full_precision, slices, usable

BLOCK = 2048
PANEL = 256  # columns of a covariance at once: of a symmetric matrix nearly half need not be computed
INFLUENCES = 2500  # rows, seen in the precision of the features, that give the standard error: it is itself known to a few per cent
WELL_CONDITIONED = 1e-3  # the least pivot of a Cholesky factor over the largest
_EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class Moments:
    """How many samples, their mean, and the sum of (x - mean)(x - mean)^T, in float64: all that the distance needs of them."""

    count: int
    mean: Float64[Tensor, " dimensions"]
    scatter: Float64[Tensor, "dimensions dimensions"]

    @classmethod
    def of(cls, features: Shaped[Tensor, "count ..."]) -> "Moments":
        """The moments of these samples, block by block; on many ranks, of this rank's samples alone.

        Raises:
            ValueError: no samples, not floating-point, NaN or infinity.
        """
        [rows] = usable("frechet_distance", {"fake": features}, at_least=1)
        return _moments(rows, slices(len(rows), BLOCK))

    @property
    def covariance(self) -> Float64[Tensor, "dimensions dimensions"]:
        """The unbiased estimate, with count - 1."""
        return self.scatter / (self.count - 1)

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both sets of samples together, safe where the mean is large against the spread.

        Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1.
        """
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        apart = other.mean - self.mean
        scatter = torch.addr(self.scatter + other.scatter, apart, apart, alpha=self.count * other.count / count)
        return Moments(count, self.mean + apart * (other.count / count), scatter)

    def over_ranks(self) -> "Moments":
        """The moments of the samples of all ranks together, on every rank; what `merged` gives, in three sums."""
        if distributed.world_size() == 1:
            return self
        count = int(distributed.sum_over_ranks(torch.tensor(self.count, device=self.mean.device)))
        mean = distributed.sum_over_ranks(self.mean * (self.count / count))
        apart = self.mean - mean
        return Moments(count, mean, distributed.sum_over_ranks(torch.addr(self.scatter, apart, apart, alpha=self.count)))


def evaluate(
    real: Shaped[Tensor, "real ..."] | Moments, fake: Shaped[Tensor, "fake ..."] | Moments, *, extractor: str = "pixels"
) -> dict[str, float]:
    """`fd_<extractor>`: |mean_r - mean_f|^2 + tr(C_r + C_f - 2 (C_r C_f)^(1/2)), in squared units of the features, in float64.

    Each side is features [count, ...] (flattened) or their Moments. The estimate is biased upwards, by an amount that falls as
    1/count and depends on the generator (1911.07023): compare only at equal counts, and see `require_enough`. Where both sides are
    features there is `fd_<extractor>_error`, a standard error by the delta method, which does not hold that bias.

    With torch.distributed, called with the same arguments on all ranks, which share the rows.

    Raises:
        ValueError: fewer than two samples, features of different dimensions, not floating-point, NaN or infinity, constant reals.

    Source: Heusel et al. 2017, 1706.08500, eq. 6; Dowson and Landau 1982.
    """
    if isinstance(real, Tensor) and isinstance(fake, Tensor):
        real, fake = usable("frechet_distance", {"real": real, "fake": fake})
        left, right = _shared_moments(real), _shared_moments(fake)
        plan = _transport(left.covariance, right.covariance)
        error = _standard_error(_Side(_some(real), left, plan.left), _Side(_some(fake), right, plan.right), plan.values)
        return {f"fd_{extractor}": _distance(left, right, plan.values), f"fd_{extractor}_error": error}
    left, right = _checked("real", real), _checked("fake", fake)
    if left.mean.shape != right.mean.shape:
        raise ValueError(
            f"frechet_distance: real features have {len(left.mean)} dimensions and fake {len(right.mean)}; use one extractor for both"
        )
    return {f"fd_{extractor}": _distance(left, right, _transport(left.covariance, right.covariance).values)}


def require_enough(count: int, dimensions: int) -> None:
    """Refuse fewer samples than feature dimensions: the covariance is then singular and the distance mostly bias.

    Raises:
        ValueError: `count` is below `dimensions`.
    """
    if count < dimensions:
        raise ValueError(
            f"frechet_distance: {count} samples of {dimensions} feature dimensions give a singular covariance; use at least "
            f"{dimensions} samples (papers use 50,000 for 2,048 dimensions), an extractor of at most {count} dimensions, or kernel_distance"
        )


class _Factor(NamedTuple):
    """Of a covariance C of rank r: `root` [d, r] with root root^T = C, and `whitener` [d, r] with whitener^T C whitener = I."""

    root: Tensor
    whitener: Tensor


class _Transport(NamedTuple):
    """The optimal map between the Gaussians, from root_l^T root_r = U diag(values) W^T; `left` and `right` are whiteners times U or W.

    tr (C_left C_right)^(1/2) is the sum of `values`, and the map A from the left to the right has u^T A u = sum values (u left)^2.
    """

    values: Tensor
    left: Tensor
    right: Tensor


class _Side(NamedTuple):
    """One distribution's samples, their moments, and its side of the transport."""

    rows: Tensor
    moments: Moments
    basis: Tensor


def _standard_error(real: _Side, fake: _Side, values: Tensor) -> float:
    """The distance is a smooth function of both empirical distributions, and a sample's influence on it is its Kantorovich
    potential in the optimal transport between the two Gaussians, which is quadratic.

    For a fake x, with u = x - mean_f and A the map from fakes to reals: 2 (mean_f - mean_r)^T u + u^T u - u^T A u, up to a
    constant. The same holds for reals with the map's inverse. The error is the root of the sum of both variances, each over its
    count. It needs many more samples than dimensions, as the distance does. Where the distributions are equal the influences vanish
    to first order, and what is left is no more than an order of magnitude.

    At most INFLUENCES rows of each kind are looked at, chosen at random, the same each time.

    Source: Rippl, Munk and Sturm 2016, "Limit laws of the empirical Wasserstein distance: Gaussian distributions", 1507.04090.
    """
    variances = [_influences(mine, other.moments.mean, values).var() / mine.moments.count for mine, other in ((real, fake), (fake, real))]
    return math.sqrt(float(variances[0] + variances[1]))


def _influences(side: _Side, other_mean: Tensor, values: Tensor) -> Tensor:
    """Each row's influence up to a constant; the blocks of rows are shared by the ranks."""
    found = torch.zeros(len(side.rows), dtype=torch.float64, device=side.rows.device)
    for part in distributed.my_part(slices(len(side.rows), BLOCK)):
        centred = side.rows[part].double() - side.moments.mean
        with full_precision():
            moved = (centred.to(side.rows.dtype) @ side.basis.to(side.rows.dtype)).double().square() @ values
        found[part] = 2.0 * centred @ (side.moments.mean - other_mean) + centred.square().sum(1) - moved
    return distributed.sum_over_ranks(found)


def _some(rows: Tensor) -> Tensor:
    if len(rows) <= INFLUENCES:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:INFLUENCES].to(rows.device)]


def _distance(real: Moments, fake: Moments, values: Tensor) -> float:
    """With tr (C_r C_f)^(1/2) as the sum of `values`. Only rounding can make it negative."""
    shift = (real.mean - fake.mean).square().sum()
    spread = real.covariance.diagonal().sum() + fake.covariance.diagonal().sum() - 2.0 * values.sum()
    return max(float(shift + spread), 0.0)


def _transport(left: Tensor, right: Tensor) -> _Transport:
    """By Cholesky factors and a symmetric eigendecomposition, in a third of the time of the exact way; that is kept for covariances that
    are singular or nearly so. The singular values are taken as lengths of M^T u, not as roots of eigenvalues of M M^T, which would lose
    half of the digits; those below 1e-8 of the largest would still be wrong, which WELL_CONDITIONED excludes.
    """
    lower, upper = _cholesky(left), _cholesky(right)
    if lower is None or upper is None:
        return _exact_transport(left, right)
    between = lower.T @ upper
    u = torch.linalg.eigh(between @ between.T).eigenvectors
    w = between.T @ u
    values = w.norm(dim=0)
    bases = (torch.linalg.solve_triangular(root.T, vectors, upper=True) for root, vectors in ((lower, u), (upper, w / values)))
    return _Transport(values, *bases)


def _cholesky(covariance: Tensor) -> Tensor | None:
    """The lower factor, or None where the covariance is too near to a singular one."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    pivots = factor.diagonal()
    return None if failed or float(pivots.min()) < WELL_CONDITIONED * float(pivots.max()) else factor


def _exact_transport(left: Tensor, right: Tensor) -> _Transport:
    factors = [_factor(covariance) for covariance in (left, right)]
    u, values, w = torch.linalg.svd(factors[0].root.T @ factors[1].root, full_matrices=False)
    return _Transport(values, factors[0].whitener @ u, factors[1].whitener @ w.T)


def _factor(covariance: Tensor) -> _Factor:
    """From the symmetric eigendecomposition, without the eigenvalues that are rounding.

    The trace of the root is then the sum of the singular values of left.root^T right.root. Taken as eigenvalues of a product of
    covariances, those that should be 0 would come out as 1e-16 of the largest and weigh 1e-8 after the root; singular values stay
    at 1e-16.
    """
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    kept = eigenvalues > eigenvalues[-1] * len(eigenvalues) * _EPSILON
    deviations = eigenvalues[kept].sqrt()
    return _Factor(vectors[:, kept] * deviations, vectors[:, kept] / deviations)


def _shared_moments(rows: Tensor) -> Moments:
    return _moments(rows, distributed.my_part(slices(len(rows), BLOCK))).over_ranks()


def _moments(rows: Tensor, parts: Sequence[slice]) -> Moments:
    """From sums of x - o and (x - o)(x - o)^T with o the mean of the first rows, so that a mean large against the spread rounds nothing.

    The second is computed in panels of its upper triangle, added in place, and mirrored.
    """
    width = rows.shape[1]
    origin = rows[:BLOCK].mean(0, dtype=torch.float64)
    total, square, count = rows.new_zeros(width, dtype=torch.float64), rows.new_zeros(width, width, dtype=torch.float64), 0
    panels = slices(width, PANEL)
    for part in parts:
        block = rows[part].double() - origin
        total += block.sum(0)
        count += len(block)
        for panel in panels:
            square[panel, panel.start :].addmm_(block[:, panel].T, block[:, panel.start :])
    for panel in panels:
        square[panel.stop :, panel] = square[panel, panel.stop :].T
    if not count:
        return Moments(0, total, square)
    return Moments(count, total / count + origin, square.addr_(total, total, alpha=-1.0 / count))


def _checked(name: str, side: Tensor | Moments) -> Moments:
    if isinstance(side, Tensor):
        return _shared_moments(usable("frechet_distance", {name: side})[0])
    if side.count < 2:
        raise ValueError(f"frechet_distance: needs at least 2 {name} samples, given the moments of {side.count}")
    if not (side.mean.isfinite().all() and side.scatter.isfinite().all()):
        raise ValueError(f"frechet_distance: the {name} moments hold NaN or infinity; all features must be finite")
    if name == "real" and not side.scatter.diagonal().any():
        raise ValueError("frechet_distance: the real features are constant (total variance 0); give moments of different images")
    return side
