"""What moves the members of a population: a pack for each architecture, and in turn those that no pack can take."""

from collections.abc import Callable, Iterator

import torch

from gan_core.population.pack import Pack, architecture, why_not_batched
from gan_core.trainer import Trainer

AT_ONCE = 4  # rounds of a member that trains in turn: its weights are in the cache by the second


class Engine:
    """The members: in `packs`, and `alone`. Packs are made when members are first to be moved after one came or left."""

    def __init__(self) -> None:
        self._members: list[Trainer] = []
        self.packs: list[Pack] = []
        self._pack_of: dict[Trainer, Pack] = {}
        self.alone: list[Trainer] = []
        self._changed = False

    def add(self, trainer: Trainer) -> None:
        """Move it from the next tick on."""
        self._members.append(trainer)
        self._changed = True

    def remove(self, trainer: Trainer) -> None:
        """Move it no more; it owns its tensors again."""
        self._members.remove(trainer)
        self._release(trainer)
        self._changed = True

    def look(self) -> None:
        """Take note of members that have loaded a state, to be called when members may have done something else than train."""
        for trainer, pack in list(self._pack_of.items()):
            if not pack.holds(trainer):
                del self._pack_of[trainer]
                self._changed = True

    def tick(self, goes_on: Callable[[Trainer], bool]) -> Iterator[tuple[Trainer, Exception | None]]:
        """Move each member on; gives those that ended a round, each time with the error that stopped it or None.

        After each round of one that is alone, `goes_on` says whether it may take another at once.
        """
        if self._changed:
            self._pack()
        for pack in self.packs:
            for trainer in pack.tick():
                yield trainer, None
        for trainer in self.alone:
            for _ in range(AT_ONCE):
                yield trainer, _error_of_round(trainer)
                if not goes_on(trainer):
                    break

    def wait_for_device(self) -> None:
        """Until everything that was asked for is done."""
        for device in {trainer.parts.device for trainer in self._members if trainer.parts.device.type == "cuda"}:
            torch.cuda.synchronize(device)

    def _pack(self) -> None:
        """A pack for each architecture that two members share, or one member in the middle of a round; the others are alone."""
        rounds = {trainer: pack.round_of(trainer) for trainer, pack in self._pack_of.items()}
        begun = {trainer: current for trainer, current in rounds.items() if current.has_begun}
        groups: dict[tuple[object, ...], list[Trainer]] = {}
        alone: list[Trainer] = []
        for trainer in self._members:
            if why_not_batched(trainer) is None:
                groups.setdefault(architecture(trainer), []).append(trainer)
            else:
                alone.append(trainer)
        crowds = [group for group in groups.values() if len(group) > 1 or group[0] in begun]
        alone += [group[0] for group in groups.values() if group not in crowds]
        for trainer in alone:
            self._release(trainer)
        self.packs, self.alone, self._changed = [Pack(group, begun) for group in crowds], alone, False
        self._pack_of = {trainer: pack for pack in self.packs for trainer in pack.trainers}

    def _release(self, trainer: Trainer) -> None:
        if (pack := self._pack_of.pop(trainer, None)) is not None:
            pack.release(trainer)


def _error_of_round(trainer: Trainer) -> Exception | None:
    try:
        trainer._round()
    except Exception as error:
        return error
    return None
