"""Statistics of the steps since the last report, kept on the device until a report reads them."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from gan_core import distributed
from gan_core.game import Stats

ADVICE = "A lower optimizer.*.lr, or optimizer.*.clip_norm, may help"
LEAD_UP = 3  # steps before a bad one that are told
TOGETHER = 16  # steps whose values are made one table at once: in a small network's round a call for each takes eight times as long

Keys = tuple[str, ...]


class Spoiled(NamedTuple):
    """The first value that is not finite: `what` of which step, and on which ranks. `lead_up` tells of the steps before."""

    what: str
    ranks: list[int]
    lead_up: str


class DivergenceError(RuntimeError):
    """A loss, a gradient or a weight became NaN or infinite, which every rank knows."""

    def __init__(self, spoiled: Spoiled, last_good: int | None) -> None:
        self.spoiled, self.last_good = spoiled, last_good
        super().__init__(f"{spoiled.what}; {_kept(last_good)}. {ADVICE}")


class History:
    """Collects the values of each step; reading it is the only place where training waits for the device."""

    def __init__(self) -> None:
        self._values: dict[Keys, list[Tensor]] = {}
        self._vectors: dict[Keys, list[Tensor]] = {}
        self._places: dict[Keys, list[tuple[int, int]]] = {}
        self._before: dict[Keys, Float64[Tensor, "steps keys"]] = {}
        self._count = 0

    def add(self, stats: Stats, step: int) -> None:
        """Keep the 0-d tensors, all of one dtype, of a player's step number `step`, counted from 1.

        They are read some steps later: nobody may write to them.
        """
        keys = tuple(stats)
        values = self._values.setdefault(keys, [])
        values += stats.values()
        self._place(keys, step)
        if len(values) >= TOGETHER * len(keys):
            self._stack(keys)

    def add_vector(self, keys: Keys, values: Float[Tensor, " keys"], step: int) -> None:
        """The same of values that are one tensor."""
        self._stack(keys)
        self._place(keys, step)
        self._vectors[keys].append(values)

    def _place(self, keys: Keys, step: int) -> None:
        self._vectors.setdefault(keys, [])  # kinds are told in the order of their first steps
        self._places.setdefault(keys, []).append((self._count, step))
        self._count += 1

    def _stack(self, keys: Keys) -> None:
        """Make vectors of the values that wait for it."""
        if values := self._values.pop(keys, None):
            self._vectors[keys] += torch.stack(values).view(-1, len(keys)).unbind()

    def read(self, last_good: int | None) -> dict[str, float]:
        """Means over the collected steps and over the ranks, and an empty history again.

        `last_good` is the images_seen of the last checkpoint.

        Raises:
            DivergenceError: naming the first value that is not finite, in the order of the steps of both players.
        """
        sums: dict[str, tuple[float, int]] = {}
        for keys, table in self._tables(last_good).items():
            for key, column in zip(keys, table.sum(0).tolist(), strict=True):
                before, count = sums.get(key, (0.0, 0))
                sums[key] = (before + column, count + len(table))
        self._vectors.clear()
        self._places.clear()
        self._before.clear()
        return {key: total / count for key, (total, count) in sums.items()}

    def state_dict(self, last_good: int | None) -> list[dict[str, Any]]:
        """What `read` would begin with, as rows that are means over the ranks; changes nothing. All ranks call it together.

        Raises:
            DivergenceError: a value is not finite.
        """
        return [{"keys": list(keys), "rows": table} for keys, table in self._tables(last_good).items()]

    def load_state_dict(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Begin with the rows of `state`: means taken later then have the bits that they would have had."""
        self._before = {tuple(part["keys"]): part["rows"].double() for part in state}

    def _tables(self, last_good: int | None) -> dict[Keys, Float64[Tensor, "steps keys"]]:
        """For each kind of step a row for each one, the mean over the ranks; on the CPU."""
        tables: dict[Keys, Tensor] = dict(self._before)
        shards: dict[Keys, Tensor] = {}
        for keys in list(self._values):
            self._stack(keys)
        for keys, vectors in self._vectors.items():
            mine = torch.stack(vectors).double()
            shards[keys] = distributed.gather(mine.unsqueeze(0)).cpu()
            # Summed in the order of ranks: a ring's order depends on the place in the buffer, so on when a table is read.
            rows = sum(shards[keys][1:], start=shards[keys][0]) / len(shards[keys])
            tables[keys] = torch.cat([self._before[keys], rows]) if keys in self._before else rows
        if not all(bool(table.isfinite().all()) for table in tables.values()):
            raise DivergenceError(self._spoiled(shards), last_good)
        return tables

    def _spoiled(self, shards: Mapping[Keys, Float64[Tensor, "ranks steps keys"]]) -> Spoiled:
        found = []
        for keys, shard in shards.items():
            bad = ~shard.isfinite()
            for row, column in bad.any(0).nonzero()[:1].tolist():
                place, step = self._places[keys][row]
                ranks = bad[:, row, column].nonzero().flatten().tolist()
                value = shard[ranks[0], row, column].item()
                found.append((place, f"{keys[column]} is {value} at its step {step:,}", ranks))
        place, what, ranks = min(found)
        return Spoiled(what, ranks, self._lead_up(shards, place))

    def _lead_up(self, shards: Mapping[Keys, Float64[Tensor, "ranks steps keys"]], place: int) -> str:
        """Losses and gradient norms in the last steps before that at `place`."""
        told = []
        for key in ("d/loss", "d/gradient_norm", "g/loss", "g/gradient_norm"):
            rows = [
                (where, shard[:, row, keys.index(key)].mean().item())
                for keys, shard in shards.items()
                if key in keys
                for row, (where, _) in enumerate(self._places[keys])
                if where < place
            ]
            if rows:
                told.append(f"{key} {', '.join(f'{value:.4g}' for _, value in sorted(rows)[-LEAD_UP:])}")
        return "; ".join(told)


def require_finite(parameters: Iterable[Tensor], name: str, last_good: int | None) -> None:
    """Check weights before they are saved: the last step of a window can spoil them and leave its own loss finite.

    Raises:
        DivergenceError: a weight is NaN or infinite, on any rank.
    """
    fine = torch.stack([parameter.isfinite().all() for parameter in parameters]).all()
    ranks = distributed.gather((~fine).reshape(1).int()).nonzero().flatten().tolist()
    if ranks:
        raise DivergenceError(Spoiled(f"weights of the {name} are not finite", ranks, ""), last_good)


def _kept(last_good: int | None) -> str:
    return "there is no checkpoint yet" if last_good is None else f"the last good checkpoint is at images_seen {last_good:,}"
