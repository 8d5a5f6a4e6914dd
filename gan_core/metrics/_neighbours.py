"""Who is near whom in feature space: nearest neighbours and the balls around samples, in blocks of all pairs.

Memory beside the features is a few blocks of BLOCK x BLOCK and of BLOCK x dimensions, whatever the counts. Squared distances of
blocks are |x|^2 + |y|^2 - 2 x.y about the reals' mean, in the features' precision, less a bound of their rounding: points that
are equal are then never apart, and a distance that ties with a radius lies within it. Distances that are returned are taken again
from differences, in float64, so those of equal points are exactly 0. A sample is not its own neighbour; its duplicates are.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from gan_core import distributed
from gan_core.metrics._features import full_precision, rows_at_once, slices, usable

K_PRECISION, K_COVERAGE = 3, 5
BLOCK = 2048


class Neighbours(NamedTuple):
    """The k nearest of each sample, nearest first: distances in units of the features, and row numbers."""

    distances: Float64[Tensor, "count k"]
    indices: Int64[Tensor, "count k"]


class Manifold(NamedTuple):
    """What precision, recall, density, coverage and nearest neighbours need of real and fake features.

    The ball of a sample reaches to its k-th nearest neighbour within its own set and holds its surface. `real_neighbours` and
    `fake_neighbours` [count, k] are the distances to the nearest others of the own set, nearest first. `fake_in_real` says
    for each fake whether a real's ball with k_precision holds it, `real_in_fake` the reverse; `balls_around_fake` how many reals' balls
    with k_coverage hold it; `covered` for each real whether its ball with k_coverage holds a fake. `nearest_real` is each fake's distance
    to the nearest real, `nearest_fake` each real's to the nearest fake.
    """

    k_precision: int
    k_coverage: int
    real_neighbours: Float64[Tensor, "real k"]
    fake_neighbours: Float64[Tensor, "fake k_precision"]
    fake_in_real: Bool[Tensor, " fake"]
    real_in_fake: Bool[Tensor, " real"]
    balls_around_fake: Int64[Tensor, " fake"]
    covered: Bool[Tensor, " real"]
    nearest_real: Float64[Tensor, " fake"]
    nearest_fake: Float64[Tensor, " real"]


class Near(NamedTuple):
    """Pairs of samples not farther apart than a threshold: how many there are, and which samples are in one."""

    pairs: int
    has_twin: Bool[Tensor, " count"]


def require_neighbours(count: int) -> None:
    """Refuse fewer samples than have the neighbours that `manifold` looks for.

    Raises:
        ValueError: `count` is too small.
    """
    if count <= K_COVERAGE:
        raise ValueError(f"manifold: needs at least {K_COVERAGE + 1} real and fake samples, given {count}")


def manifold(
    real: Shaped[Tensor, "real ..."], fake: Shaped[Tensor, "fake ..."], *, k_precision: int = K_PRECISION, k_coverage: int = K_COVERAGE
) -> Manifold:
    """All that `Manifold` names, from one look at each pair of samples.

    With torch.distributed, called with the same arguments on all ranks, which share the pairs.

    Raises:
        ValueError: k below 1, fewer than k + 1 samples, features of different dimensions, not floating-point, NaN or infinity,
            constant reals.
    """
    if min(k_precision, k_coverage) < 1:
        raise ValueError(f"manifold: k must be at least 1, given k_precision={k_precision}, k_coverage={k_coverage}")
    k_real = max(k_precision, k_coverage)
    real, fake = usable("manifold", {"real": real, "fake": fake}, at_least=k_real + 1)
    real_neighbours, fake_neighbours = neighbours(real, k_real).distances, neighbours(fake, k_precision).distances
    radii = _Radii(real_neighbours[:, k_precision - 1], fake_neighbours[:, k_precision - 1], real_neighbours[:, k_coverage - 1])
    return Manifold(k_precision, k_coverage, real_neighbours, fake_neighbours, *_between(real, fake, radii))


def neighbours(points: Float[Tensor, "count dimensions"], k: int) -> Neighbours:
    """The k nearest other samples of each; there must be more than k."""
    assert len(points) > k, (len(points), k)
    cloud, best = _Cloud.of(points, points), _Nearest(points, k)
    with full_precision():
        for rows, columns in distributed.my_part(_pairs_of_blocks(points)):
            squares = cloud.squares(rows, cloud, columns)
            if rows == columns:
                squares.fill_diagonal_(torch.inf)
            else:
                best.offer(columns, squares.T, rows.start)
            best.offer(rows, squares, columns.start)
    return best.of_all_ranks(points)


def nearest(points: Float[Tensor, "count dimensions"], references: Float[Tensor, "references dimensions"]) -> Neighbours:
    """The nearest reference of each point (k = 1)."""
    cloud, others, best = _Cloud.of(points, references), _Cloud.of(references, references), _Nearest(points, 1)
    tasks = [(rows, columns) for rows in _slices(points) for columns in _slices(references)]
    with full_precision():
        for rows, columns in distributed.my_part(tasks):
            best.offer(rows, cloud.squares(rows, others, columns), columns.start)
    return best.of_all_ranks(references)


def pairs_within(points: Float[Tensor, "count dimensions"], threshold: float) -> Near:
    """The pairs of samples not farther apart than `threshold`, each counted once."""
    cloud, pairs = _Cloud.of(points, points), 0
    least = torch.full_like(cloud.norms, torch.inf)
    with full_precision():
        for rows, columns in distributed.my_part(_pairs_of_blocks(points)):
            squares = cloud.squares(rows, cloud, columns)
            if rows == columns:
                squares.fill_diagonal_(torch.inf)
            least[rows] = least[rows].minimum(squares.amin(1))
            least[columns] = least[columns].minimum(squares.amin(0))
            found = int((squares <= threshold**2).sum())
            pairs += found // 2 if rows == columns else found
    total = int(distributed.sum_over_ranks(torch.tensor(pairs, device=points.device)))
    return Near(total, _least_of_all_ranks(least) <= threshold**2)


def closest_pairs(points: Float[Tensor, "count dimensions"], count: int) -> Float64[Tensor, " closest"]:
    """The distances of the `count` closest pairs of samples, or of all pairs where there are fewer, smallest first."""
    count = min(count, math.comb(len(points), 2))
    cloud = _Cloud.of(points, points)
    best = torch.full((count,), torch.inf, dtype=points.dtype, device=points.device)
    ends = torch.zeros(count, 2, dtype=torch.int64, device=points.device)
    with full_precision():
        for rows, columns in distributed.my_part(_pairs_of_blocks(points)):
            squares = cloud.squares(rows, cloud, columns)
            if rows == columns:
                squares.masked_fill_(torch.ones_like(squares, dtype=torch.bool).tril_(), torch.inf)
            closer = squares < best.max()
            found = closer.nonzero() + torch.tensor([rows.start, columns.start], device=points.device)
            values, order = torch.cat([best, squares[closer]]).topk(count, largest=False)
            best, ends = values, torch.cat([ends, found])[order]
    _, order = distributed.gather(best).topk(count, largest=False)
    chosen = distributed.gather(ends)[order]
    return _apart(points, points, chosen[:, :1], chosen[:, 1:])[:, 0].sort().values


class _Radii(NamedTuple):
    real: Tensor
    fake: Tensor
    covering: Tensor


class _Cloud(NamedTuple):
    """Points about a centre, and their squared norms less the rounding bound."""

    points: Tensor
    centre: Tensor
    norms: Tensor

    @classmethod
    def of(cls, points: Tensor, references: Tensor) -> "_Cloud":
        """About the references' mean: a large common mean would cost the distances their digits."""
        centre = sum(references[part].sum(0, dtype=torch.float64) for part in _slices(references)) / len(references)
        assert isinstance(centre, Tensor)
        centre = centre.to(points.dtype)
        norms = torch.cat([(points[part] - centre).square().sum(1) for part in _slices(points)])
        rounding = torch.finfo(points.dtype).eps * (4.0 + math.sqrt(points.shape[1]))  # of sums of that many products
        return cls(points, centre, norms * (1.0 - rounding))

    def squares(self, rows: slice, other: "_Cloud", columns: slice) -> Tensor:
        """Squared distances [rows, columns] less their rounding bound, so perhaps slightly negative."""
        norms = self.norms[rows, None] + other.norms[columns]
        return norms.addmm_(self.points[rows] - self.centre, (other.points[columns] - other.centre).T, alpha=-2.0)


class _Nearest:
    """The k nearest candidates so far of each row."""

    def __init__(self, points: Tensor, k: int) -> None:
        self.points, self.k = points, k
        self.squares = torch.full((len(points), k), torch.inf, dtype=points.dtype, device=points.device)
        self.indices = torch.zeros(len(points), k, dtype=torch.int64, device=points.device)

    def offer(self, rows: slice, candidates: Tensor, first: int) -> None:
        """Squared distances [rows, candidates] to the candidates numbered from `first`. Most blocks hold news for few rows."""
        closer = (candidates.amin(1) < self.squares[rows, -1]).nonzero()[:, 0]
        if not len(closer):
            return
        found = candidates[closer].topk(min(self.k, candidates.shape[1]), largest=False)
        at = closer + rows.start
        self.squares[at], order = torch.cat([self.squares[at], found.values], 1).topk(self.k, largest=False)
        self.indices[at] = torch.cat([self.indices[at], found.indices + first], 1).gather(1, order)

    def of_all_ranks(self, references: Tensor) -> Neighbours:
        """The best of what the ranks found, with distances taken again from differences."""
        by_rank = [distributed.gather(part[None]).transpose(0, 1).flatten(1) for part in (self.squares, self.indices)]
        order = by_rank[0].topk(self.k, largest=False).indices
        indices = by_rank[1].gather(1, order)
        distances, order = _apart(self.points, references, None, indices).sort(stable=True, dim=1)
        return Neighbours(distances, indices.gather(1, order))


def _between(real: Tensor, fake: Tensor, radii: _Radii) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The last six fields of `Manifold`. A margin is the least of squared distance less squared radius: not above 0 within a ball."""
    reals, fakes = _Cloud.of(real, real), _Cloud.of(fake, real)
    squared = _Radii(*(radius.square().to(real.dtype) for radius in radii))
    fake_margin, real_margin = (torch.full_like(cloud.norms, torch.inf) for cloud in (fakes, reals))
    balls = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    to_real, to_fake = _Nearest(fake, 1), _Nearest(real, 1)
    tasks = [(rows, columns) for rows in _slices(real) for columns in _slices(fake)]
    with full_precision():
        for rows, columns in distributed.my_part(tasks):
            squares = reals.squares(rows, fakes, columns)
            fake_margin[columns] = fake_margin[columns].minimum((squares - squared.real[rows, None]).amin(0))
            real_margin[rows] = real_margin[rows].minimum((squares - squared.fake[columns]).amin(1))
            balls[columns] += (squares <= squared.covering[rows, None]).sum(0, dtype=torch.int32)
            to_real.offer(columns, squares.T, rows.start)
            to_fake.offer(rows, squares, columns.start)
    covered = _least_of_all_ranks(to_fake.squares[:, 0]) <= squared.covering
    inside = [_least_of_all_ranks(margin) <= 0.0 for margin in (fake_margin, real_margin)]
    nearest_real, nearest_fake = (best.of_all_ranks(other).distances[:, 0] for best, other in ((to_real, real), (to_fake, fake)))
    return inside[0], inside[1], distributed.sum_over_ranks(balls), covered, nearest_real, nearest_fake


def _apart(points: Tensor, references: Tensor, rows: Tensor | None, indices: Tensor) -> Tensor:
    """Distances in float64, from differences, of each row's point (or of points[rows]) to the references at `indices` [rows, k]."""
    found = torch.zeros(indices.shape, dtype=torch.float64, device=points.device)
    for part in distributed.my_part(slices(len(indices), rows_at_once(points.shape[1], BLOCK))):
        own = (points[part] if rows is None else points[rows[part, 0]]).double()
        for column in range(indices.shape[1]):
            found[part, column] = (own - references[indices[part, column]]).square_().sum(1).sqrt()
    return distributed.sum_over_ranks(found)


def _least_of_all_ranks(values: Tensor) -> Tensor:
    return distributed.gather(values[None]).amin(0)


def _slices(points: Tensor) -> list[slice]:
    return slices(len(points), rows_at_once(points.shape[1], BLOCK))


def _pairs_of_blocks(points: Tensor) -> list[tuple[slice, slice]]:
    """Each pair of blocks of one set once: distances are symmetric."""
    parts = _slices(points)
    return [(rows, columns) for number, rows in enumerate(parts) for columns in parts[number:]]
