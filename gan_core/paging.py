"""How much of a memory map stays resident: pages that were read count as the process's memory until they are let go."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

RESIDENT_BYTES = 2**28
PAGE_BYTES = mmap.PAGESIZE
FAULT_BYTES = 2**16  # Linux maps the pages around the one that is asked for, where they are cached, by 64 KiB


class Pages:
    """The pages of a file's map, let go after about RESIDENT_BYTES of them were read; a map that is not larger stays.

    Letting go costs nothing that is not read again, and then a page fault: the kernel keeps the file's pages in its own cache, which
    all processes of the machine share, as long as nobody else needs the memory.
    """

    def __init__(self, file: Path, item_bytes: int) -> None:
        with file.open("rb") as stream:
            # A private map (copy on write) shares pages as a read-only one does, and gives torch the writable array that it asks for.
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        self._cost = -(-item_bytes // PAGE_BYTES) * PAGE_BYTES + FAULT_BYTES
        self._resident = 0
        self._lets_go = len(self._map) > RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED")

    def array(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The file's bytes, unread."""
        return np.frombuffer(self._map, np.uint8)

    def read(self, items: int) -> None:
        """To be told after each reading how many items it was."""
        self._resident += items * self._cost
        if self._lets_go and self._resident >= RESIDENT_BYTES:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._resident = 0
