"""What lies in memory while PyTorch code runs: every storage that an operator makes, what it is, and what the allocator itself counts.

`Live` follows storages from operator to operator. What operators take for themselves, and give back before they end, it does not see,
but the allocator does: `allocated` on a CPU (the profiler's memory events), torch.cuda.max_memory_allocated on a GPU.
"""

import math
import weakref
from collections import Counter
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch._C._profiler import _EventType
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

SAVED, GRADIENTS = "saved for backward", "gradients"


class Peak(NamedTuple):
    """The most that lay in memory at once, in bytes, by kind; `operators` divides what is transient by the operator that made it."""

    total: int
    kinds: Counter
    operators: Counter


NOTHING = Peak(0, Counter(), Counter())


class Live(TorchDispatchMode):
    """Follows storages, each counted once however many tensors share it, and keeps the peak of each `phase`, and the most that was saved
    for backward passes at once.

    `parameters` are those whose `.grad` counts as gradients. `device` is the type whose memory is looked at.
    """

    def __init__(self, parameters, device="cpu"):
        super().__init__()
        self.parameters, self.device = list(parameters), device
        self.bytes, self.operator, self.kind, self.references = {}, {}, {}, {}
        self.total, self.now = 0, "outside"
        self.peaks, self.saved, self.most_saved = {}, 0, {}

    def name(self, tensors, kind):
        """Say what the storages of `tensors` are; the first name stays."""
        for tensor in tensors:
            key = self._see(tensor, kind)
            if key is not None and key not in self.kind:
                self.kind[key] = kind
                self.saved += self.bytes[key] if kind == SAVED else 0
                self._look()

    @contextmanager
    def phase(self, name):
        """Whatever happens now belongs to this phase."""
        before, self.now = self.now, name
        self._look()
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def saving(self):
        """Have what autograd saves meanwhile named as such."""

        def pack(tensor):
            self.name([tensor], SAVED)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_iter(out):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf, str(func.overloadpacket))
        return out

    def _see(self, tensor, operator):
        """The storage's key, after counting it if it is new; None on another device."""
        if tensor.device.type != self.device:
            return None
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.bytes:
            self.bytes[key], self.operator[key] = storage.nbytes(), operator
            self.total += self.bytes[key]
            self.references[key] = weakref.ref(storage, lambda _: self._forget(key))
            self._look()
        return key

    def _forget(self, key):
        size = self.bytes.pop(key)
        self.total -= size
        self.saved -= size if self.kind.pop(key, None) == SAVED else 0
        del self.operator[key], self.references[key]

    def _look(self):
        """A new peak, if it is one."""
        self.most_saved[self.now] = max(self.saved, self.most_saved.get(self.now, 0))
        if self.total <= self.peaks.get(self.now, NOTHING).total:
            return
        gradients = {parameter.grad.untyped_storage()._cdata for parameter in self.parameters if parameter.grad is not None}
        kinds, operators = Counter(), Counter()
        for key, size in self.bytes.items():
            kind = GRADIENTS if key in gradients else self.kind.get(key, "transient")
            kinds[kind] += size
            if kind == "transient":
                operators[self.operator[key]] += size
        self.peaks[self.now] = Peak(self.total, kinds, operators)


class Allocation(NamedTuple):
    """A block of memory: when it was given out and given back (infinity if never), its bytes, and in which operators, None outside any."""

    start: float
    end: float
    size: int
    maker: int | None
    taker: int | None


class Held(NamedTuple):
    """The most bytes that the allocator had given out at once; of them, those that one operator took and gave back itself; and its name."""

    total: int
    workspace: int
    operator: str


@contextmanager
def allocated(peaks):
    """Fill `peaks` with what PyTorch's CPU allocator held at most during each `record_function` of the body whose name begins with
    `phase `, of what it gave out in the body.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield
    blocks, operators, phases = read_tree(profiler.profiler.kineto_results.experimental_event_tree())
    peaks.update(peak_of_phases(blocks, phases, operators))


def read_tree(roots):
    """The profiler's events as allocations, the names of the operators that they refer to, and phases (start, end, name)."""
    operators, phases, changes = [], [], []
    waiting = [(root, None) for root in roots]
    while waiting:
        event, operator = waiting.pop()
        kind, fields = event.typed
        if kind == _EventType.Allocation and fields.device.type == "cpu":
            changes.append((event.start_time_ns, fields.ptr, fields.alloc_size, operator))
        elif event.name.startswith("phase "):
            phases.append((event.start_time_ns, event.end_time_ns, event.name))
        elif operator is None and event.name.startswith("aten::"):
            operator = len(operators)
            operators.append(event.name)
        waiting += [(child, operator) for child in event.children]
    open_, blocks = {}, []
    for when, address, size, operator in sorted(changes, key=lambda change: change[0]):
        if size > 0:
            open_[address] = (when, size, operator)
        elif address in open_:
            start, taken, maker = open_.pop(address)
            blocks.append(Allocation(start, when, taken, maker, operator))
    blocks += [Allocation(start, math.inf, size, maker, None) for start, size, maker in open_.values()]
    return blocks, operators, phases


def peak_of_phases(blocks, phases, operators):
    """By name, what `blocks` held at most while one of `phases` (start, end, name) was the innermost."""
    peaks, total = {}, 0
    changes = [(block.start, block.size) for block in blocks] + [(block.end, -block.size) for block in blocks if block.end < math.inf]
    starts = [(start, 0) for start, *_ in phases]  # a phase begins with what lies there
    for when, size in sorted(changes + starts):
        total += size
        around = [(start, name) for start, end, name in phases if start <= when <= end]
        if around and total > peaks.get(name := max(around)[1], (-1, 0))[0]:
            peaks[name] = (total, when)
    return {name: _held(total, when, blocks, operators) for name, (total, when) in peaks.items()}


def _held(total, when, blocks, operators):
    own = [block for block in blocks if block.start <= when < block.end and block.maker is not None and block.maker == block.taker]
    return Held(total, sum(block.size for block in own), operators[own[0].maker] if own else "")
