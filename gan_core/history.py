"""Statistics of the steps since the last report, kept on the device until a report reads them."""

from collections.abc import Iterable

import torch
from torch import Tensor

from gan_core.distributed import mean_over_ranks
from gan_core.steps import Stats

ADVICE = "A lower optimizer.*.lr, or optimizer.*.clip_norm, may help"


class DivergenceError(RuntimeError):
    """A loss or gradient became NaN or infinite."""


class History:
    """Collects one vector for each step; reading it is the only place where training waits for the device."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, ...], list[Tensor]] = {}
        self._places: dict[tuple[str, ...], list[int]] = {}
        self._count = 0

    def add(self, stats: Stats) -> None:
        """Keep the 0-d tensors of one step; all have one dtype."""
        self._steps.setdefault(tuple(stats), []).append(torch.stack(list(stats.values())))
        self._places.setdefault(tuple(stats), []).append(self._count)
        self._count += 1

    def read(self, steps_taken: dict[str, int], last_good: int | None) -> dict[str, float]:
        """Means over the collected steps and over the ranks, and an empty history again.

        `steps_taken` counts the steps so far of each player, by metric prefix; `last_good` is the images_seen of the last
        checkpoint.

        Raises:
            DivergenceError: naming the first value that is not finite, in the order of the steps of both players.
        """
        means: dict[str, float] = {}
        bad: list[tuple[int, str]] = []
        for keys, vectors in self._steps.items():
            table = mean_over_ranks(torch.stack(vectors).double()).cpu()
            means.update(zip(keys, table.mean(0).tolist(), strict=True))
            for row, column in (~table.isfinite()).nonzero()[:1].tolist():
                step = steps_taken[keys[0].split("/")[0]] - len(vectors) + row + 1
                bad.append((self._places[keys][row], f"{keys[column]} is {table[row, column].item()} at its step {step:,}"))
        if bad:
            raise DivergenceError(f"{min(bad)[1]}; {_kept(last_good)}. {ADVICE}")
        self._steps.clear()
        self._places.clear()
        return means


def require_finite(parameters: Iterable[Tensor], name: str, last_good: int | None) -> None:
    """Check weights before they are saved: the last step of a window can spoil them and leave its own loss finite.

    Raises:
        DivergenceError: a weight is NaN or infinite.
    """
    if not torch.stack([parameter.isfinite().all() for parameter in parameters]).all():
        raise DivergenceError(f"weights of the {name} are not finite; {_kept(last_good)}. {ADVICE}")


def _kept(last_good: int | None) -> str:
    return "there is no checkpoint yet" if last_good is None else f"the last good checkpoint is at images_seen {last_good:,}"
