"""Batches, latents and seeds as pure functions of (seed, stream, step), drawn for the GLOBAL batch and then cut by rank.

So there is no random state to save: a resumed run continues bit for bit, and any number of ranks sees the same images and
latents as one rank with the whole batch would. With distributed.py the only file that knows the rank.
"""

from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from gan_core import distributed

Orders = Callable[[int, str, int, int], Tensor]


def derive_seed(seed: int, stream: str, *counters: int) -> int:
    """A 63-bit seed that any change of `seed`, `stream` or a counter replaces by an unrelated one."""
    key = ":".join([str(seed), stream, *map(str, counters)])
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little") >> 1


def random_source(seed: int, stream: str, *counters: int) -> torch.Generator:
    """A CPU random generator at the start of the named stream: the numbers do not depend on the training device."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, *counters))


def shard(batch: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "shard ..."]:
    """This rank's consecutive part of a global batch, whose length the number of ranks must divide."""
    size = len(batch) // distributed.world_size()
    return batch.narrow(0, distributed.rank() * size, size)


def latents(seed: int, stream: str, step: int, *, batch_size: int, z_dim: int) -> Float[Tensor, "shard z_dim"]:
    """This rank's part of the standard normal z of one step; `batch_size` is global."""
    return shard(torch.randn(batch_size, z_dim, generator=random_source(seed, stream, step)))


def uniforms(seed: int, stream: str, step: int, *, count: int, per_sample: int) -> Float[Tensor, "shard per_sample"]:
    """This rank's part of `count` rows of uniform numbers from [0, 1); `count` is global."""
    return shard(torch.rand(count, per_sample, generator=random_source(seed, stream, step)))


def latents_of_seeds(first_seed: int, count: int, *, z_dim: int) -> Float[Tensor, "count z_dim"]:
    """One z for each of `count` consecutive image seeds: image i is the same whatever is drawn around it.

    The exported MLflow model draws its latents in this way too.
    """
    sources = (torch.Generator().manual_seed(first_seed + offset) for offset in range(count))
    return torch.stack([torch.randn(z_dim, generator=source) for source in sources])


def batch_indices(
    seed: int, stream: str, step: int, *, batch_size: int, dataset_size: int, orders: Orders | None = None
) -> Int64[Tensor, " shard"]:
    """This rank's part of the image numbers of one step.

    The stream runs through the data set in a new random order each epoch, without replacement; a batch may end one epoch and
    begin the next. `orders` is an `epoch_order` that remembers; None is one that remembers the last few.
    """
    start = step * batch_size
    pieces: list[Tensor] = []
    while start < (step + 1) * batch_size:
        epoch, offset = divmod(start, dataset_size)
        length = min(dataset_size - offset, (step + 1) * batch_size - start)
        pieces.append((orders or _last_orders)(seed, stream, epoch, dataset_size).narrow(0, offset, length))
        start += length
    return shard(torch.cat(pieces))


def epoch_order(seed: int, stream: str, epoch: int, dataset_size: int) -> Int64[Tensor, " dataset_size"]:
    """The order in which a stream goes through the data set in one epoch."""
    return torch.randperm(dataset_size, generator=random_source(seed, f"{stream}/epoch", epoch))


_last_orders = lru_cache(maxsize=4)(epoch_order)


def seed_layers(seed: int, player: str, step: int, device: torch.device) -> None:
    """Seed the generators that layers such as dropout draw from, for one step on this rank.

    Resuming stays exact. Such layers draw for the rank's own part of a batch, so their noise depends on the number of ranks.
    """
    value = derive_seed(seed, f"layers/{player}", step, distributed.rank())
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(value)


def evaluation_indices(seed: int, *, count: int, dataset_size: int) -> Int64[Tensor, " count"]:
    """The same `count` different image numbers at every evaluation, on every rank."""
    return torch.randperm(dataset_size, generator=random_source(seed, "evaluate"))[:count]


def held_out_split(dataset_size: int, share: float) -> tuple[Int64[Tensor, " train"], Int64[Tensor, " held_out"]]:
    """Image numbers to train on and image numbers kept from training, the same for every seed, so that runs can be compared."""
    order = torch.randperm(dataset_size, generator=random_source(0, "held out"))
    count = int(dataset_size * share)
    return order[count:].sort().values, order[:count].sort().values


def diagnostic_indices(seed: int, stream: str, step: int, *, count: int, dataset_size: int) -> Int64[Tensor, " shard"]:
    """This rank's part of `count` image numbers drawn with replacement."""
    return shard(torch.randint(dataset_size, (count,), generator=random_source(seed, stream, step)))


def first_of_share(share: int) -> int:
    """The first of this rank's `share` consecutive items, when ranks divide a list of items in rank order."""
    return distributed.rank() * share
