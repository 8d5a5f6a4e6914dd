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
        self._vectors: dict[tuple[str, ...], list[Tensor]] = {}
        self._places: dict[tuple[str, ...], list[tuple[int, int]]] = {}
        self._count = 0

    def add(self, stats: Stats, step: int) -> None:
        """Keep the 0-d tensors, all of one dtype, of a player's step number `step`, counted from 1."""
        self._vectors.setdefault(tuple(stats), []).append(torch.stack(list(stats.values())))
        self._places.setdefault(tuple(stats), []).append((self._count, step))
        self._count += 1

    def read(self, last_good: int | None) -> dict[str, float]:
        """Means over the collected steps and over the ranks, and an empty history again.

        `last_good` is the images_seen of the last checkpoint.

        Raises:
            DivergenceError: naming the first value that is not finite, in the order of the steps of both players.
        """
        sums: dict[str, tuple[float, int]] = {}
        bad: list[tuple[int, str]] = []
        for keys, vectors in self._vectors.items():
            table = mean_over_ranks(torch.stack(vectors).double()).cpu()
            for key, column in zip(keys, table.sum(0).tolist(), strict=True):
                before, count = sums.get(key, (0.0, 0))
                sums[key] = (before + column, count + len(vectors))
            for row, column in (~table.isfinite()).nonzero()[:1].tolist():
                place, step = self._places[keys][row]
                bad.append((place, f"{keys[column]} is {table[row, column].item()} at its step {step:,}"))
        if bad:
            raise DivergenceError(f"{min(bad)[1]}; {_kept(last_good)}. {ADVICE}")
        self._vectors.clear()
        self._places.clear()
        return {key: total / count for key, (total, count) in sums.items()}


def require_finite(parameters: Iterable[Tensor], name: str, last_good: int | None) -> None:
    """Check weights before they are saved: the last step of a window can spoil them and leave its own loss finite.

    Raises:
        DivergenceError: a weight is NaN or infinite.
    """
    if not torch.stack([parameter.isfinite().all() for parameter in parameters]).all():
        raise DivergenceError(f"weights of the {name} are not finite; {_kept(last_good)}. {ADVICE}")


def _kept(last_good: int | None) -> str:
    return "there is no checkpoint yet" if last_good is None else f"the last good checkpoint is at images_seen {last_good:,}"
