"""What ranks share. With sampling.py the only file that knows the rank; it uses torch.distributed if somebody initialised it.

Gradients are averaged here, explicitly, and networks are not wrapped in DistributedDataParallel: DDP gives ranks different
gradients, silently, when a parameter is reached only through autograd.grad(create_graph=True) (pytorch issue 47562).
"""

import weakref
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn

BUCKET_BYTES = 8 * 2**20  # of 1 to 64 MiB the least waiting on 8 to 512 GPUs, by the model of tests/benchmarks/scaling.py
ALIGNMENT_BYTES = 16  # of a gradient in its bucket: fused optimizers read four floats at once

Piece = TypeVar("Piece")


def rank() -> int:
    """This process's number, 0 when there is one process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


class _Sent(NamedTuple):
    """A bucket on its way: `flat` becomes the sum over the ranks when `work` is done, and the gradients in it are views of it already.

    `sums` are the views that belong to `buffers`.
    """

    flat: Tensor
    work: dist.Work
    buffers: list[Tensor]
    sums: list[Tensor]


class Reducer:
    """Sums the gradients of `parameters` over the ranks while backward still runs: a bucket is sent as soon as all of it is ready.

    Buckets hold the parameters from the last one to the first, which is about the order in which backward reaches them. What is in a bucket
    and the order in which buckets are sent are the same on every rank, whatever the order in which gradients come there. The last
    bucket, and what has not been ready, is sent by `average_over_ranks`. With one rank, or one bucket, there are no hooks.

    Collectives of a backward itself (`gather_with_gradient`) would mix with these in an order that a rank's graph decides: losses that have
    them do without a reducer.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._buckets = [] if world_size() == 1 else list(_buckets(parameters[::-1]))[:-1]
        self._backwards = 0
        self._sent: list[_Sent] = []
        self._missing: list[int] = []
        self._times: dict[Tensor, int] = {}
        this = weakref.ref(self)  # parameters, which hold their hooks, are to go with the trainer and not with the next collection
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket:

                def ready(parameter: Tensor, number: int = number) -> None:
                    reducer = this()
                    if reducer is not None:
                        reducer._ready(parameter, number)

                parameter.register_post_accumulate_grad_hook(ready)

    def expect(self, backwards: int) -> None:
        """Gradients are whole after so many calls of `backward` from here. Until this is called nothing is sent early."""
        self._backwards, self._sent = backwards, []  # of a step that failed half way, as one that cannot be recorded may
        self._missing = [len(bucket) for bucket in self._buckets]
        self._times = {parameter: 0 for bucket in self._buckets for parameter in bucket}

    def _ready(self, parameter: Tensor, number: int) -> None:
        if not self._backwards:
            return
        self._times[parameter] += 1
        assert self._times[parameter] <= self._backwards, f"{self._times[parameter]} calls of backward, expected {self._backwards}"
        if self._times[parameter] == self._backwards:
            self._missing[number] -= 1
            while len(self._sent) < len(self._buckets) and not self._missing[len(self._sent)]:
                self._sent.append(_send(self._buckets[len(self._sent)]))

    def take(self) -> list[_Sent]:
        """The buckets that have been sent, the first ones; nothing more is sent before the next `expect`."""
        sent, self._sent, self._backwards = self._sent, [], 0
        return sent


def average_over_ranks(parameters: list[nn.Parameter], buffers: list[Tensor], reducer: Reducer | None = None) -> None:
    """Replace every parameter's gradient, and every floating-point buffer (batch-norm statistics), by its mean over the ranks.

    A gradient that is None becomes zero, with one rank too: a rank whose backward did not reach a parameter still takes part, and
    Adam, which passes over None but moves by its momentum on zero, does the same for any number of ranks. Buckets that `reducer` has sent
    during backward are waited for; the same sums come of it without.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if world_size() == 1:
        return
    *buckets, last = _buckets(parameters[::-1])
    sent = [] if reducer is None else reducer.take()
    sent += [_send(tensors) for tensors in [*buckets[len(sent) :], *_buckets([*last, *buffers])]]
    for bucket in sent:
        wait_for_sum(bucket.work)
        bucket.flat.div_(world_size())
        if bucket.buffers:
            torch._foreach_copy_(bucket.buffers, bucket.sums)


def wait_for_sum(work: dist.Work) -> None:
    """Nothing else is done here, and in C++: who sees a thread in this function knows that it waits for other ranks."""
    work.wait()


@torch.no_grad()
def _send(bucket: Sequence[Tensor]) -> _Sent:
    """Begin to sum a bucket over the ranks: of a parameter its gradient, which becomes a view of the sum, of anything else itself."""
    unit = ALIGNMENT_BYTES // bucket[0].itemsize
    sizes = [-(-tensor.numel() // unit) * unit for tensor in bucket]
    flat = torch.zeros(sum(sizes), dtype=bucket[0].dtype, device=bucket[0].device)
    # In each tensor's own strides, channels_last or not, for optimizers walk parameters and gradients alike.
    views = [part.as_strided(t.size(), t.stride()) for part, t in zip(flat.split(sizes), bucket, strict=True)]
    torch._foreach_copy_(views, [_summand(tensor) for tensor in bucket])
    work = dist.all_reduce(flat, async_op=True)
    assert work is not None
    buffers, sums = [], []
    for tensor, view in zip(bucket, views, strict=True):
        if isinstance(tensor, nn.Parameter):
            tensor.grad = view
        else:
            buffers.append(tensor)
            sums.append(view)
    return _Sent(flat, work, buffers, sums)


def _summand(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, nn.Parameter):
        return tensor
    assert tensor.grad is not None
    return tensor.grad


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


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
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
