"""How many images a rank takes at once. Where memory does not suffice, fewer: gradients are accumulated, and the result is the same."""

from torch import nn

from gan_core.config import GanConfig
from gan_core.losses import LOSSES

REMEDY = "take a smaller batch_size or network, precision=bfloat16, or more workers (ray.num_workers)"
# PyTorch has no class for these: CUDA's and NCCL's own words, the CPU's allocator, cuBLAS and cuDNN.
SIGNS = ("out of memory", "DefaultCPUAllocator: can't allocate memory", "STATUS_ALLOC_FAILED")


class OutOfMemoryError(RuntimeError):
    """A step found no memory, and is half done: networks, optimizers and running statistics are as nobody wants them."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says that memory was wanting, on a GPU or on the CPU."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(sign in str(error) for sign in SIGNS)


def size(config: GanConfig, accumulation_steps: int, ranks: int) -> int:
    """Images that a rank takes at once."""
    return config.batch_size // (ranks * accumulation_steps)


def halved(config: GanConfig, discriminator: nn.Module, accumulation_steps: int, ranks: int) -> int:
    """Accumulation steps with which a rank takes half as many images at once, or the next smaller share where half is no whole number.

    Raises:
        ValueError: it cannot be smaller, and why.
    """
    now = size(config, accumulation_steps, ranks)
    loss = LOSSES[config.loss.name]
    if loss.across_batch or loss.on_witness:
        raise ValueError(f"the loss '{config.loss.name}' compares samples across the batch, which cannot be divided; {REMEDY}")
    if config.reuse_fakes:
        raise ValueError(f"reuse_fakes keeps the graph of the whole batch; set it to false; {REMEDY}")
    group = getattr(discriminator, "minibatch_stddev_group", None) or 1
    unit = config.network.packing * group
    for factor in range(2, now // unit + 1):
        if now % (factor * unit) == 0:
            return accumulation_steps * factor
    together = "" if unit == 1 else f", which network.packing={config.network.packing} and groups of {group} keep together,"
    raise ValueError(f"{now} images at once{together} cannot be fewer; {REMEDY}")


def accumulation(config: GanConfig, discriminator: nn.Module, ranks: int, most: int | None) -> int:
    """The config's accumulation steps, or as many more as a rank needs to take `most` images at once, as far as they can be divided."""
    steps = config.accumulation_steps
    while most is not None and size(config, steps, ranks) > most:
        try:
            steps = halved(config, discriminator, steps, ranks)
        except ValueError:
            break
    return steps
