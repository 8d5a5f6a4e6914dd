"""Processes of Ray's that work now and then beside those that train, each a hundred times a second: they wait until a core is free."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

NICENESS = 15  # what Ray gives to all its workers, those that train too
THREADS = Path("/proc/self/task")  # Linux has a niceness for each


def begin(_: Any = None) -> None:
    """Have this process yield to others from here on. It cannot take that back."""
    if os.getpriority(os.PRIO_PROCESS, 0) == NICENESS:
        return
    for thread in THREADS.iterdir() if THREADS.is_dir() else [Path("0")]:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.setpriority(os.PRIO_PROCESS, int(thread.name), NICENESS)
