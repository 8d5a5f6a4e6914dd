"""One statement of theory beside its measurement."""

from typing import NamedTuple

HOLDS, DIFFERS, FAILS = "holds", "differs as known", "FAILS"


class Check(NamedTuple):
    """`measured` should be `theory`; it passes if `low <= measured - theory <= high`, and a NaN never does.

    `name` is a path of lower-case words, `claim` a phrase for readers. A bound from below has a `high` of rounding errors only.
    `departs` says why practice departs from theory here. Such a check does not hold: it guards how far apart the two are known to be.
    """

    name: str
    claim: str
    theory: float
    measured: float
    low: float
    high: float
    departs: str = ""

    @property
    def difference(self) -> float:
        return self.measured - self.theory

    @property
    def passes(self) -> bool:
        return self.low <= self.difference <= self.high

    @property
    def verdict(self) -> str:
        """One of HOLDS, DIFFERS and FAILS."""
        if not self.passes:
            return FAILS
        return DIFFERS if self.departs else HOLDS
