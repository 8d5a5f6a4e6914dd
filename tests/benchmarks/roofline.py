"""The arithmetic floor of a step: its floating-point operations over the machine's matrix rate, and the bytes it must move over its memory
rate (Williams et al. 2009, "Roofline").

Rates are measured in the run that uses them, with its threads, device and precision. Operations are those of matrix products and
convolutions (torch.utils.flop_counter), a multiplication and an addition each; pointwise work is not counted. Bytes are the fewest that a
step of these tensors can move: parameters, moments and gradients that it reads or writes, once each, and what it saves for the backward
pass, written and read. Working sets that fit a cache are measured as such, since the rate is that of a copy of as many bytes.
"""

import time
from functools import partial
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry

MATRIX_SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
LARGEST_COPY = 2**28


class Work(NamedTuple):
    """What a step has to do: floating-point operations, and the fewest bytes moved."""

    flops: int
    bytes: int


class Rates(NamedTuple):
    """Floating-point operations a second of a matrix product; bytes a second of a copy, read and written, for a working set."""

    flops: float
    bytes: float


def floor_seconds(work, rates):
    """The shortest time that the slower of both needs: they may overlap wholly."""
    return max(work.flops / rates.flops, work.bytes / rates.bytes)


def matrix_rate(device, dtype, repeats=5):
    """The best rate over a few sizes of square matrices, in operations a second."""
    best = 0.0
    for size in MATRIX_SIZES[device.type]:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty(size, size, device=device, dtype=dtype)
        best = max(best, 2 * size**3 / shortest(partial(torch.mm, left, right, out=out), device, repeats))
    return best


def memory_rate(device, nbytes, repeats=5):
    """The best rate of a copy with a working set of `nbytes`, LARGEST_COPY at most: bytes read and written a second."""
    half = max(4096, min(nbytes, LARGEST_COPY) // 2)
    source, target = (torch.zeros(half, dtype=torch.uint8, device=device) for _ in range(2))
    times = max(1, 2**24 // half)

    def copies():
        for _ in range(times):
            target.copy_(source)

    return 2 * half * times / shortest(copies, device, repeats)


def shortest(function, device, repeats):
    """Seconds of the fastest of `repeats` calls, after one that warms up."""
    function()
    wait(device)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


class Operations(TorchDispatchMode):
    """Counts as torch.utils.flop_counter.FlopCounterMode does, without its hooks on modules, which fail on views made without a graph, and
    with gradients of grouped convolutions, which it counts `groups` times (torch 2.15), counted once.
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if func.overloadpacket is torch.ops.aten.convolution_backward:
            slope, inputs, weight, *_, transposed, _, _, wanted = args
            self.total += sum(wanted[:2]) * conv_flop_count(inputs.shape, weight.shape, slope.shape, transposed=transposed)
        elif count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def flops_of(function):
    """Operations of the matrix products and convolutions in a call, forward and backward."""
    with Operations() as counter:
        function()
    return counter.total


def saved_bytes(function, beside=()):
    """Bytes of the storages that a call saves for backward passes, each counted once; those of the tensors `beside` are not counted."""
    known = {tensor.untyped_storage().data_ptr() for tensor in beside}
    storages = {}  # kept, so that no address comes twice

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(storage.nbytes() for storage in storages.values())


def work_of(loop):
    """The mean work of a D step and that of a G step of a tests.benchmarks.floor.Floor, which takes some of both."""
    parameters = {"g": list(loop.generator.parameters()), "d": list(loop.discriminator.parameters())}
    nbytes = {player: sum(parameter.nbytes for parameter in owned) for player, owned in parameters.items()}
    beside = parameters["g"] + parameters["d"]
    found = {}
    for player, step, period in (("d", loop.step_discriminator, loop.r1_interval), ("g", loop.step_generator, 1)):
        flops = flops_of(lambda step=step, period=period: [step() for _ in range(period)])
        saved = sum(saved_bytes(step, beside) for _ in range(period))
        # Own parameters and both moments are read and written, own gradients written and read, the opponent's parameters read.
        fixed = 8 * nbytes[player] + nbytes["d" if player == "g" else "g"]
        found[player] = Work(flops // period, fixed + 2 * saved // period)
    return found


def limit(loop):
    """The arithmetic floor of a D step, a G step and a round of a tests.benchmarks.floor.Floor, in seconds, and what it is made of."""
    work = work_of(loop)
    flops = matrix_rate(loop.device, torch.bfloat16 if loop.bfloat16 else torch.float32)
    rates = {player: Rates(flops, memory_rate(loop.device, need.bytes)) for player, need in work.items()}
    seconds = {player: floor_seconds(need, rates[player]) for player, need in work.items()}
    seconds["round"] = loop.ratio.d * seconds["d"] + loop.ratio.g * seconds["g"]
    parts = [
        f"{player.upper()} step {need.flops / 1e9:.2f} GFLOP, {need.bytes / 1e6:.1f} MB at {rates[player].bytes / 1e9:.1f} GB/s"
        for player, need in work.items()
    ]
    return seconds, f"{'; '.join(parts)}; matrices {flops / 1e9:,.0f} GFLOP/s."
