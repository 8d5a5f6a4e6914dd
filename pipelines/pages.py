"""Memory that training on a CPU frees is kept for its next step: a tenth of a convolutional step is the kernel handing out the same pages.

glibc gives large blocks back to the kernel as soon as they are freed, and takes them anew, filled with zeros, a page of 4 KiB at a time.
Training takes blocks of the same sizes at each step. `pipelines/__init__.py` has PyTorch ask for pages of 2 MiB (THP_MEM_ALLOC_ENABLE,
where the kernel's transparent huge pages are at `madvise` or `always`).
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# The names of malloc.h; what they mean is in mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER, NONE, PAD_BYTES = -1, 0, 2**26
OF_USERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")


def keep() -> bool:
    """Have this process keep what it frees from here on; returns whether it will. Its resident memory stays at its peak.

    A user who has told glibc what to do by one of its environment variables is obeyed, and other C libraries go by themselves.
    """
    chosen = any(name in os.environ for name in OF_USERS) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if chosen or mallopt is None:
        return False
    granted = [mallopt(name, value) == 1 for name, value in ((M_MMAP_MAX, NONE), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, PAD_BYTES))]
    return all(granted)


@contextmanager
def kept() -> Iterator[None]:
    """`keep` for one training; what was kept goes back to the kernel after it, for processes that have other things to do."""
    mine = keep()
    try:
        yield
    finally:
        if mine:
            ctypes.CDLL(None).malloc_trim(0)
