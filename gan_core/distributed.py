"""What ranks share. With sampling.py the only file that knows the rank; it uses torch.distributed if somebody initialised it.

Gradients are averaged here, explicitly, and networks are not wrapped in DistributedDataParallel: DDP gives ranks different
gradients, silently, when a parameter is reached only through autograd.grad(create_graph=True) (pytorch issue 47562).
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn

BUCKET_BYTES = 32 * 2**20

Piece = TypeVar("Piece")


def rank() -> int:
    """This process's number, 0 when there is one process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def average_over_ranks(parameters: list[nn.Parameter], buffers: list[Tensor]) -> None:
    """Replace every parameter's gradient, and every floating-point buffer (batch-norm statistics), by its mean over the ranks.

    A gradient that is None becomes zero, with one rank too: a rank whose backward did not reach a parameter still takes part, and
    Adam, which passes over None but moves by its momentum on zero, does the same for any number of ranks.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for bucket in _buckets(gradients + buffers):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        dist.all_reduce(flat)
        flat /= world_size()
        parts = flat.split([tensor.numel() for tensor in bucket])
        torch._foreach_copy_(bucket, [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)])


def mean_over_ranks(values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """The mean of `values` over the ranks, the same on each."""
    if world_size() > 1:
        dist.all_reduce(values)
        values = values / world_size()
    return values


def sum_over_ranks(values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """The sum of `values` over the ranks, the same on each; `values` is left as it was."""
    if world_size() == 1:
        return values
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def my_part(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """The pieces of work that are this rank's: every world_size-th one, so that the parts differ by one piece at most."""
    return pieces[rank() :: world_size()]


def any_rank(here: bool, device: torch.device) -> bool:
    """Whether it is so on any rank; the same answer on all, so that they take the same way."""
    if world_size() == 1:
        return here
    count = torch.tensor(int(here), device=device)
    dist.all_reduce(count)
    return bool(count)


def largest(values: list[int], device: torch.device) -> list[int]:
    """Each value's maximum over the ranks, the same on all."""
    if world_size() == 1:
        return values
    found = torch.tensor(values, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return [int(value) for value in found.tolist()]


def mine(values: Sequence[Piece]) -> Piece | None:
    """This rank's of `values`, one for each rank in order; None where they are of another number of ranks."""
    return values[rank()] if len(values) == world_size() else None


def gather(shard: Shaped[Tensor, "shard ..."]) -> Shaped[Tensor, "batch ..."]:
    """The ranks' equal `shard`s, concatenated in rank order, on every rank."""
    if world_size() == 1:
        return shard
    shards = [torch.empty_like(shard) for _ in range(world_size())]
    dist.all_gather(shards, shard.contiguous())
    return torch.cat(shards)


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(_: torch.autograd.function.FunctionCtx, shard: Tensor) -> Tensor:
        return gather(shard.detach())

    @staticmethod
    def backward(_: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


def gather_with_gradient(shard: Shaped[Tensor, "shard ..."]) -> Shaped[Tensor, "batch ..."]:
    """`gather`, and backwards the sum over the ranks of the gradients for this rank's part.

    Each rank then takes the same loss of the whole batch, and averaging parameter gradients over the ranks is right: the sum here
    counts the loss once for each rank, the average takes that back.
    """
    if world_size() == 1:
        return shard
    whole: Tensor = _GatherWithGradient.apply(shard)
    return whole


def require_equal_replicas(network: nn.Module, name: str) -> None:
    """Compare bitwise checksums of parameters and buffers over the ranks.

    Raises:
        RuntimeError: the ranks hold different weights; training has been wrong since they parted.
    """
    if world_size() == 1:
        return
    sums = gather(_checksum(network).reshape(1)).tolist()
    if len(set(sums)) > 1:
        raise RuntimeError(f"the ranks' copies of the {name} differ (checksums by rank: {sums}); the last checkpoint is good")


def require_equal_text(text: str, what: str, device: torch.device) -> None:
    """Compare a hash, or any text, over the ranks.

    Raises:
        ValueError: the ranks hold different ones.
    """
    mine = torch.frombuffer(bytearray(sha256(text.encode()).digest()), dtype=torch.uint8).to(device)
    if any_rank(bool((gather(mine).view(-1, len(mine)) != mine).any()), device):
        raise ValueError(f"{what} differs between the workers, so that their scores would not mix; give all nodes one $RAYGAN_CACHE")


def gather_text(text: str, device: torch.device) -> list[str]:
    """Each rank's `text`, of which the first 64 bytes travel."""
    mine = torch.frombuffer(bytearray(text.encode()[:64].ljust(64, b"\0")), dtype=torch.uint8).to(device)
    return [bytes(row.tolist()).rstrip(b"\0").decode(errors="replace") for row in gather(mine).view(-1, 64)]


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one dtype, up to BUCKET_BYTES together."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or size + tensor.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


def _checksum(network: nn.Module) -> Tensor:
    """An int64 that changes with any bit of any parameter or buffer: each 32-bit word weighted by its odd-numbered place."""
    total = torch.zeros((), dtype=torch.int64, device=next(network.parameters()).device)
    for tensor in network.state_dict().values():
        flat = tensor.detach().reshape(-1).contiguous()
        words = flat.view(torch.int32 if flat.nbytes % 4 == 0 else torch.uint8).to(torch.int64)
        places = torch.arange(words.numel(), device=words.device, dtype=torch.int64)
        total = total * 1_000_003 + (words * (2 * places + 1)).sum()
    return total
