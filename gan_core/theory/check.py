"""One statement of theory beside its measurement."""

from typing import NamedTuple


class Check(NamedTuple):
    """`measured` should be `theory`; it holds if `low <= measured - theory <= high`, and a NaN never does.

    `name` is a path of lower-case words, `claim` a phrase for readers. A bound from below has a `high` of rounding errors only.
    """

    name: str
    claim: str
    theory: float
    measured: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        return self.measured - self.theory

    @property
    def holds(self) -> bool:
        return self.low <= self.difference <= self.high
