"""Processes of Ray's that work now and then beside those that train, each a hundred times a second: the ranks come before them."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

NICENESS = 5  # a quarter of a core against one rank on it: on a busy machine they still answer, and start the next ranks
THREADS = Path("/proc/self/task")  # Linux has a niceness for each


def begin(_: Any = None) -> None:
    """Have this process yield to the ranks from here on. It cannot take that back, nor what it yields already, by `nice` say."""
    if os.getpriority(os.PRIO_PROCESS, 0) >= NICENESS:
        return
    for thread in THREADS.iterdir() if THREADS.is_dir() else [Path("0")]:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            number = int(thread.name)
            if os.getpriority(os.PRIO_PROCESS, number) < NICENESS:
                os.setpriority(os.PRIO_PROCESS, number, NICENESS)
