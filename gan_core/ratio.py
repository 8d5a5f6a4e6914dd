"""The D:G step ratio: how many steps each player takes in a round, fixed, warmed up, or steered by how far ahead the discriminator is."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gan_core.distributed import gather, mean_over_ranks, mine
from gan_core.wording import brief


class StepRatio(NamedTuple):
    """`d` discriminator steps, then `g` generator steps: one round. Goodfellow et al. 2014, algorithm 1, has k:1."""

    d: int
    g: int

    @classmethod
    def parse(cls, text: object, key: str = "step_ratio") -> "StepRatio":
        """Read "5:1".

        Raises:
            ValueError: not two whole numbers above zero; `key` names the setting.
        """
        match = re.fullmatch(r"([1-9]\d{0,5}):([1-9]\d{0,5})", text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(
                f'{key}: {brief(text)} is not d:g with two whole numbers above 0, such as "5:1" (5 discriminator steps, then 1 '
                f'generator step) or "1:2"'
            )
        return cls(int(match[1]), int(match[2]))

    @property
    def rung(self) -> int | None:
        """The place on the ladder ... 1:3, 1:2, 1:1, 2:1, 3:1 ..., with 1:1 at 0; None for a ratio such as 3:2."""
        if self.g == 1:
            return self.d - 1
        return 1 - self.g if self.d == 1 else None

    @classmethod
    def of_rung(cls, rung: int) -> "StepRatio":
        """The inverse of `rung`."""
        return cls(rung + 1, 1) if rung >= 0 else cls(1, 1 - rung)


class Warmup(NamedTuple):
    """`ratio` until `images` real images have been seen: Arjovsky et al. 2017 begin with 100 critic steps a round (their code)."""

    ratio: StepRatio
    images: float


class Band(NamedTuple):
    """Keep the discriminator's advantage between `low` and `high`, looking every `images` real images, on rungs `lowest` to `highest`."""

    low: float
    high: float
    images: float
    lowest: int
    highest: int


class RatioSchedule:
    """Which ratio the next round has; its state is what a checkpoint keeps.

    The advantage is the share of reals judged rightly plus that of fakes, minus 1: 0 for a discriminator that guesses, 1 for one
    that is never wrong (Youden's J; as a bound, the total variation). It is averaged over the steps and ranks since the last
    look. Above the band the generator gets more steps, below it the discriminator, one rung at a time: the idea of adaptive
    discriminator augmentation's controller (1912.04958's successor, 2006.06676, section 3.1), acting on the ratio.
    """

    def __init__(self, ratio: StepRatio, *, warmup: Warmup | None = None, band: Band | None = None) -> None:
        self.steady = ratio
        self.warmup = warmup
        self.band = band
        self.advantage: float | None = None
        self._sum: Tensor | None = None
        self._sums: list[float] = []
        self._count = 0

    def current(self, images_seen: int) -> StepRatio:
        """The ratio of the round that begins at `images_seen`."""
        if self.warmup is not None and images_seen < self.warmup.images:
            return self.warmup.ratio
        return self.steady

    def observe(self, stats: Mapping[str, Tensor]) -> None:
        """Take note of a discriminator step; does not wait for the device."""
        if self.band is None:
            return
        ahead = (stats["d/accuracy_real"] + stats["d/accuracy_fake"] - 1.0).double()
        self._sum = ahead if self._sum is None else self._sum.to(ahead.device) + ahead
        self._count += 1
        self._sums = []

    def adjust(self, images_seen: int, previous: int) -> None:
        """Move a rung if a look is due since `previous` and the advantage is out of its band. All ranks call it together."""
        band = self.band
        if self.warmup is not None and previous < self.warmup.images:
            self._sum, self._count, self._sums = None, 0, []  # that was another ratio's doing
            return
        if band is None or images_seen // band.images <= previous // band.images:
            return
        if self._sum is not None:
            self.advantage = float(mean_over_ranks(self._sum)) / self._count
            rung = self.steady.rung
            assert rung is not None, "the config asks for a ratio on the ladder"
            step = -1 if self.advantage > band.high else 1 if self.advantage < band.low else 0
            self.steady = StepRatio.of_rung(min(max(rung + step, band.lowest), band.highest))
        self._sum, self._count, self._sums = None, 0, []

    def share(self) -> None:
        """Make the sum since the last look the ranks' mean, so that one rank's `state_dict` is everybody's. All ranks call it together."""
        if self._sum is not None:
            self._sum = mean_over_ranks(self._sum)
        self._sums = []

    def note(self) -> None:
        """Let one rank's `state_dict` hold every rank's sum, and change none. All ranks call it together, just before."""
        self._sums = [] if self._sum is None else gather(self._sum.reshape(1)).tolist()

    def state_dict(self) -> dict[str, Any]:
        """Plain values: the steady ratio, the last advantage seen, and the sum of those since; after `note` every rank's."""
        total = None if self._sum is None else float(self._sum)
        state = {"d": self.steady.d, "g": self.steady.g, "advantage": self.advantage, "sum": total, "count": self._count}
        return {**state, "sums": self._sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; another number of ranks goes on from the mean."""
        self.steady = StepRatio(state["d"], state["g"])
        self.advantage = state["advantage"]
        sums = state.get("sums", [])  # a former version has none
        own = mine(sums) if sums else state["sum"]
        start = sum(sums) / len(sums) if own is None and sums else own
        self._sum = None if start is None else torch.tensor(start, dtype=torch.float64)
        self._count = state["count"]
