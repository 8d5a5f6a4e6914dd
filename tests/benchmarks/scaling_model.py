"""Step time against world size: arithmetic alone, in seconds, bytes and FLOPs.

A round is one step of each player. On n ranks with b images each,

    t(n, b) = max(fixed + per_image * b + exposed(D) + exposed(G), host * n * b)

`fixed` is what a round costs at any batch size; `exposed` is the part of a player's all-reduces that its backward does not hide; `host` is
the drawing of latents, which every rank does for the whole batch (gan_core/sampling.py) while its device computes.

An all-reduce of S bytes over n ranks by links of latency alpha and B bytes/s takes 2 (n-1) alpha + 2 (n-1)/n S/B around a ring (Patarasuk
and Yuan 2009), and 2 ceil(log2 n) alpha + 2 (n-1)/n S/B along two trees, as NCCL does from 2.4 on; libraries take the faster one.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls


class Link(NamedTuple):
    """Between neighbours, for each rank and direction."""

    alpha: float
    bytes_per_second: float


class Cluster(NamedTuple):
    """Nodes of so many ranks, which are linked `inside` a node and, each by its share of the node's network cards, `between` nodes."""

    per_node: int
    inside: Link
    between: Link


class Player(NamedTuple):
    """What a player's step sends, in buckets of these bytes, and how long its backward takes for an image."""

    buckets: tuple[float, ...]
    backward_per_image: float


class Costs(NamedTuple):
    """Of a round. `hidden` is the share of what could hide behind backward that does: collectives use the device too."""

    fixed: float
    per_image: float
    host: float
    players: tuple[Player, ...]
    hidden: float


def buckets(size, limit):
    """`size` bytes in as few equal buckets of at most `limit` as there can be."""
    count = max(1, math.ceil(size / limit))
    return (size / count,) * count


def ring(size, ranks, link):
    return 2 * (ranks - 1) * link.alpha + 2 * (ranks - 1) / ranks * size / link.bytes_per_second


def tree(size, ranks, link):
    return 2 * math.ceil(math.log2(ranks)) * link.alpha + 2 * (ranks - 1) / ranks * size / link.bytes_per_second


def all_reduce(size, ranks, cluster):
    """Within nodes a reduce-scatter and an all-gather; between nodes each rank all-reduces its part."""
    local = min(ranks, cluster.per_node)
    nodes = math.ceil(ranks / local)
    return ring(size, local, cluster.inside) + min(f(size / local, nodes, cluster.between) for f in (ring, tree))


def exposed(player, ranks, batch, cluster, hidden):
    """The time that a player's step waits for its gradients.

    Buckets are ready at equal intervals of backward, and are sent one after the other. The last one is ready when backward ends.
    """
    if ranks == 1:
        return 0.0
    backward, end, sent = player.backward_per_image * batch, 0.0, 0.0
    for number, size in enumerate(player.buckets, start=1):
        took = all_reduce(size, ranks, cluster)
        end = max(end, backward * number / len(player.buckets)) + took
        sent += took
    waits = end - backward
    return waits + (1 - hidden) * (sent - waits)


class Round(NamedTuple):
    """The parts of a round's time, and the whole."""

    computes: float
    waits: float
    draws: float

    @property
    def seconds(self):
        return max(self.computes + self.waits, self.draws)


def predict(costs, ranks, batch, cluster):
    """A round with `batch` images on each of `ranks`."""
    waits = sum(exposed(player, ranks, batch, cluster, costs.hidden) for player in costs.players)
    return Round(costs.fixed + costs.per_image * batch, waits, costs.host * ranks * batch)


class Timing(NamedTuple):
    """A measured round: of which network, on how many ranks, how many images on each, sending how many bytes in how many collectives.

    Collectives alone are of no network.
    """

    network: str | None
    ranks: int
    batch: int
    seconds: float
    bytes: float
    collectives: int


class Fit(NamedTuple):
    """`compute` gives (fixed, per_image) by network; `residuals` are predicted over measured, less one."""

    compute: dict[str, tuple[float, float]]
    link: Link
    residuals: list[float]


def fit(timings):
    """Least squares of relative errors, with no coefficient below zero, of t = fixed + per_image b + 2 (n-1) alpha k + 2 (n-1)/n S/B.

    Gradients are sent after backward in these timings, in k collectives.
    """
    names = [name for name in dict.fromkeys(timing.network for timing in timings) if name is not None]
    rows = np.zeros((len(timings), 2 * len(names) + 2))
    for row, each in zip(rows, timings, strict=True):
        if each.network is not None:
            place = 2 * names.index(each.network)
            row[place : place + 2] = 1.0, each.batch
        row[-2:] = 2 * (each.ranks - 1) * each.collectives, 2 * (each.ranks - 1) / each.ranks * each.bytes
    seconds = np.array([timing.seconds for timing in timings])
    scale = np.abs(rows / seconds[:, None]).max(0)
    scale[scale == 0] = 1.0
    found = nnls(rows / seconds[:, None] / scale, np.ones(len(timings)))[0] / scale
    compute = {name: (float(found[2 * i]), float(found[2 * i + 1])) for i, name in enumerate(names)}
    link = Link(float(found[-2]), float(1 / found[-1]) if found[-1] > 0 else math.inf)
    return Fit(compute, link, [float(x) for x in rows @ found / seconds - 1])
