"""Which members of a pack pay which penalties at which step."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from gan_core.population.feed import Feed
from gan_core.population.players import Rows
from gan_core.population.steps import Fine, Late
from gan_core.regularizers import REGULARIZERS
from gan_core.trainer import Trainer

MOST_KNOWN = 1024  # choices of members to remember


class Kind(NamedTuple):
    """A penalty as members share it: its numbers are columns `first_draw` to `first_draw + draws` of the `of` that a decision has."""

    name: str
    interval: int
    first_draw: int
    draws: int
    of: int


class Fines:
    """The penalties of `trainers`, whose numbers are drawn by `feed`."""

    def __init__(self, trainers: Sequence[Trainer], feed: Feed) -> None:
        self._feed = feed
        self._kinds = _kinds(trainers)
        self._device, self._dtype = trainers[0].parts.device, trainers[0].parts.dtype
        self._known: dict[tuple[Kind, tuple[int, ...]], Fine] = {}
        self._late: dict[frozenset[int], Rows] = {}

    def due(self, steps: Sequence[int]) -> tuple[list[Fine], Late | None]:
        """Those of every step, and those that are lazy and due, where discriminators have taken so many `steps`."""
        fines: tuple[list[Fine], list[Fine]] = ([], [])
        for kind, weights in self._kinds.items():
            payers = tuple(number for number in weights if steps[number] % kind.interval == 0)
            if payers:
                fines[kind.interval > 1].append(self._fine(kind, weights, payers, [steps[number] for number in payers]))
        every_step, lazy = fines
        return every_step, Late(lazy, self._rows(lazy)) if lazy else None

    def _fine(self, kind: Kind, weights: Mapping[int, float], payers: tuple[int, ...], steps: Sequence[int]) -> Fine:
        if (kind, payers) not in self._known:
            forget_if_many(self._known)
            own = torch.tensor([weights[number] for number in payers], device=self._device, dtype=self._dtype)
            self._known[kind, payers] = Fine(kind.name, REGULARIZERS[kind.name], Rows.of(payers, self._device), own, None)
        fine = self._known[kind, payers]
        if not kind.draws:
            return fine
        uniforms = self._feed.penalty_draws(fine.rows, steps, kind.of)
        return fine._replace(uniforms=uniforms[:, kind.first_draw : kind.first_draw + kind.draws])

    def _rows(self, fines: Sequence[Fine]) -> Rows:
        payers = frozenset(number for fine in fines for number in fine.rows.numbers)
        if payers not in self._late:
            forget_if_many(self._late)
            self._late[payers] = Rows.of(sorted(payers), self._device)
        return self._late[payers]


def forget_if_many(known: dict[Any, Any]) -> None:
    """Begin anew where there are too many to remember."""
    if len(known) >= MOST_KNOWN:
        known.clear()


def _kinds(trainers: Sequence[Trainer]) -> dict[Kind, dict[int, float]]:
    """Who pays which, with the weight; a lazy penalty counts `interval` times, since it acts once in so many steps."""
    found: dict[Kind, dict[int, float]] = {}
    for name in REGULARIZERS:  # the order in which a member has them
        for number, trainer in enumerate(trainers):
            for penalty in trainer.parts.game.penalties:
                if penalty.name == name:
                    draws = REGULARIZERS[name].draws(_shape_of_decisions(trainer))
                    kind = Kind(name, penalty.interval, penalty.first_draw, draws, trainer.parts.draws)
                    found.setdefault(kind, {})[number] = penalty.weight * penalty.interval
    return found


def _shape_of_decisions(trainer: Trainer) -> torch.Size:
    dataset = trainer.parts.dataset
    return torch.Size((dataset.channels * trainer.parts.game.packing, dataset.resolution, dataset.resolution))
