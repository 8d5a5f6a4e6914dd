"""Statistics of the steps since the last report, kept on the device until a report reads them."""

import torch
from torch import Tensor

from gan_core.distributed import mean_over_ranks
from gan_core.steps import Stats


class DivergenceError(RuntimeError):
    """A loss or gradient became NaN or infinite."""


class History:
    """Collects one vector for each step; reading it is the only place where training waits for the device."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, ...], list[Tensor]] = {}

    def add(self, stats: Stats) -> None:
        """Keep the 0-d tensors of one step; all have one dtype."""
        self._steps.setdefault(tuple(stats), []).append(torch.stack(list(stats.values())))

    def read(self, steps_taken: dict[str, int], last_good: int | None) -> dict[str, float]:
        """Means over the collected steps and over the ranks, and an empty history again.

        `steps_taken` counts the steps so far of each player, by metric prefix; `last_good` is the images_seen of the last
        checkpoint.

        Raises:
            DivergenceError: naming the first step and the first value that is not finite.
        """
        means: dict[str, float] = {}
        for keys, vectors in self._steps.items():
            table = mean_over_ranks(torch.stack(vectors).double()).cpu()
            bad = (~table.isfinite()).nonzero()
            if len(bad):
                row, column = bad[0].tolist()
                step = steps_taken[keys[0].split("/")[0]] - len(vectors) + row + 1
                kept = "there is no checkpoint yet" if last_good is None else f"the last good checkpoint is at images_seen {last_good:,}"
                raise DivergenceError(
                    f"{keys[column]} is {table[row, column].item()} at its step {step:,}; {kept}. A lower optimizer.*.lr, or "
                    f"optimizer.*.clip_norm, may help"
                )
            means.update(zip(keys, table.mean(0).tolist(), strict=True))
        self._steps.clear()
        return means
