"""What somebody outside wants of a run between its scheduled moments, and when the ranks look for it."""

import time
from collections.abc import Callable
from enum import IntEnum

import torch

from gan_core import distributed

LOOK_SECONDS = 2.0
MOST_ROUNDS = 100_000  # between two looks


class Wish(IntEnum):
    """The largest one wins where ranks hear different ones."""

    NONE = 0
    CHECKPOINT = 1
    STOP = 2


class Lookout:
    """Looks for wishes about every LOOK_SECONDS, at the same rounds on every rank.

    A look costs a small all-reduce, and waits for the device. How many rounds lie between two follows from the time that a round takes,
    and is agreed on in that same all-reduce.
    """

    def __init__(self, wish: Callable[[], Wish], device: torch.device) -> None:
        self._wish, self._device = wish, device
        self._rounds = self._left = 1
        self._since = time.perf_counter()

    def after_round(self) -> Wish:
        """The largest wish of any rank if it is time to look, else NONE. Every rank calls it after every round."""
        self._left -= 1
        return Wish.NONE if self._left else self.look()

    def look(self) -> Wish:
        """The largest wish of any rank now. Every rank calls it at the same round."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        done = self._rounds - self._left
        if done:
            seconds = (time.perf_counter() - self._since) / done
            self._rounds = max(1, min(MOST_ROUNDS, int(LOOK_SECONDS / max(seconds, 1e-9))))
        wish, fewer = distributed.largest([int(self._wish()), -self._rounds], self._device)
        self._rounds = self._left = -fewer
        self._since = time.perf_counter()
        return Wish(wish)
