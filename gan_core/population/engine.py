"""What moves the members of a population: each takes a round in turn."""

from collections.abc import Iterator

import torch

from gan_core.trainer import Trainer


class Engine:
    """The members, in the order in which they came."""

    def __init__(self) -> None:
        self._members: list[Trainer] = []

    def add(self, trainer: Trainer) -> None:
        """Move it from the next tick on."""
        self._members.append(trainer)

    def remove(self, trainer: Trainer) -> None:
        """Move it no more; it owns its tensors again."""
        self._members.remove(trainer)

    def tick(self) -> Iterator[tuple[Trainer, Exception | None]]:
        """Move each member on; gives those that ended a round, with the error that stopped it or None."""
        for trainer in self._members:
            try:
                trainer._round()
            except Exception as error:
                yield trainer, error
            else:
                yield trainer, None

    def wait_for_device(self) -> None:
        """Until everything that was asked for is done."""
        for device in {trainer.parts.device for trainer in self._members if trainer.parts.device.type == "cuda"}:
            torch.cuda.synchronize(device)
