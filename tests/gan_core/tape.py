"""A stand-in for CUDA graphs on the CPU: PyTorch's operations, recorded with the memory they read and write, and run again on it.

Like a CUDA graph it knows nothing of the Python between them, and like one it refuses operations whose result goes to the host.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

TO_HOST = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")


class Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in TO_HOST:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def replay(self):
        for func, args, kwargs, result in self.operations:
            again = func(*args, **kwargs)
            for old, new in zip(tree_flatten(result)[0], tree_flatten(again)[0], strict=True):
                if isinstance(old, torch.Tensor) and new.data_ptr() != old.data_ptr():  # neither in place nor a view
                    old.detach().copy_(new.detach())


class TapeRecorder:
    """Recording runs what it records, other than with CUDA: the first replay is left out."""

    def __init__(self):
        self.tapes = []

    def warm_up(self, function):
        return function()

    def record(self, function):
        tape = Tape()
        with tape:
            result = function()
        self.tapes.append(tape)
        skipped = []

        def replay():
            if not skipped:
                skipped.append(True)
                return
            with torch.no_grad():
                tape.replay()

        return result.detach(), replay
