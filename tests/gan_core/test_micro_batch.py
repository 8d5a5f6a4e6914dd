"""What counts as no memory."""

import pytest
import torch

from gan_core import OutOfMemoryError, taking
from gan_core.micro_batch import is_out_of_memory
from tests.support import tiny_trainer


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.OutOfMemoryError("Allocation on device"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
        RuntimeError("alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        MemoryError(),
        MemoryError("std::bad_alloc"),
    ],
)
def test_a_step_without_memory_is_told_from_other_errors_whoever_says_so(monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(taking, "discriminator_step", fails)
    first_line = str(error).partition("\n")[0] or "MemoryError"
    with pytest.raises(OutOfMemoryError) as raised:
        tiny_trainer().run([].append)
    assert str(raised.value) == first_line


@pytest.mark.parametrize("text", ["CUDA error: an illegal memory access was encountered", "expected 3 channels", "memory format"])
def test_other_errors_are_not_put_down_to_memory(text):
    assert not is_out_of_memory(RuntimeError(text))
