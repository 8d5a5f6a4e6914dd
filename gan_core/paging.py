"""How much of a memory map stays resident: pages that were read count as the process's memory until they are let go."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

SMALL_BYTES, RESIDENT_BYTES = 2**28, 2**26
STATISTICS = Path("/proc/self/statm")


class Pages:
    """The pages of a file's map, let go when RESIDENT_BYTES of them were mapped; a map of SMALL_BYTES or less stays.

    Letting go costs nothing that is not read again, and then a page fault: the kernel keeps the file's pages in its own cache, which
    all processes of the machine share, as long as nobody else needs the memory. Where the kernel does not tell what is mapped (it may
    be 2 MiB for each byte that is read) nothing is let go.
    """

    def __init__(self, file: Path) -> None:
        with file.open("rb") as stream:
            # A private map (copy on write) shares pages as a read-only one does, and gives torch the writable array that it asks for.
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        self._lets_go = len(self._map) > SMALL_BYTES and hasattr(mmap, "MADV_DONTNEED") and STATISTICS.exists()
        self._before = _file_bytes() if self._lets_go else 0

    def array(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The file's bytes, unread."""
        return np.frombuffer(self._map, np.uint8)

    def was_read(self) -> None:
        """To be told after some reading, such as a batch."""
        if self._lets_go and _file_bytes() - self._before >= RESIDENT_BYTES:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._before = _file_bytes()


def _file_bytes() -> int:
    """Resident memory of this process that files back (proc(5), statm): of this map and of the program's own code."""
    return int(STATISTICS.read_bytes().split()[2]) * mmap.PAGESIZE
