"""A bound on what threads have in memory at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """So many pixels may be taken at once: who wants more waits until others give theirs back. Nobody may want more than all."""

    def __init__(self, pixels: int) -> None:
        self._left, self._changed = pixels, threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Pixels for as long as the block lasts."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()
