"""How a run goes on after what its own steps met: numbers that are not finite, or no memory. The same decisions on every rank."""

import socket
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch

from gan_core import DivergenceError, OutOfMemoryError, Trainer, distributed
from gan_core.fitting import has_batch_norm

MICRO_BATCH, GIVEN_UP = "micro_batch", "given_up"
ROLLBACK_TAG, HEALED_TAG, MEMORY_TAG = "raygan.rollback", "raygan.healed", "raygan.micro_batch"


class Facts(Protocol):
    """Where facts about the run outlive its processes."""

    def recall(self) -> dict[str, Any]:
        """What `remember` was given last, the same on every rank."""
        ...

    def remember(self, facts: dict[str, Any]) -> None:
        """Keep facts beside the checkpoints; one rank calls it."""
        ...


class Tried(NamedTuple):
    """What was found not finite, when it was noticed, and who to look at if it was the hardware."""

    what: str
    images_seen: int
    suspect: str


class Course:
    """What the run has been through, and so how it goes on. `tell` is given sentences for the user, each with the tag that keeps it."""

    def __init__(self, facts: Facts, *, max_rollbacks: int, device: torch.device) -> None:
        self._facts, self._max_rollbacks, self._device = facts, max_rollbacks, device
        self._known = facts.recall()
        self._tried: list[Tried] = []
        self._from: int | None = None

    @property
    def micro_batch(self) -> int | None:
        """The most images that a rank can take at once, where that was found out."""
        found = self._known.get(MICRO_BATCH)
        return found if isinstance(found, int) and found > 0 else None

    def given_up(self) -> str:
        """Why an earlier group of ranks gave up, once: whoever resumes the run tries again."""
        reason = self._known.pop(GIVEN_UP, "")
        if reason and distributed.rank() == 0:
            self._facts.remember(self._known)
        return str(reason)

    def tell_micro_batch(self, trainer: Trainer, tell: Callable[[str, str], None]) -> None:
        """That ranks take fewer images at once than the config says, if they do."""
        steps, config = trainer.parts.game.accumulation_steps, trainer.config
        if steps == config.accumulation_steps:
            return
        networks = (trainer.parts.g.network, trainer.parts.d.network)
        same = "the result is the same, for gradients are accumulated"
        if any(map(has_batch_norm, networks)):
            same = "gradients are accumulated; batch norm sees fewer images at once, which changes its statistics"
        elif config.regularizers.spectral_norm:
            same = "gradients are accumulated; spectral norm takes a power iteration each time, so its estimate is another one"
        tell(
            f"memory did not suffice: each worker takes {trainer.micro_batch} images at once, as accumulation_steps={steps} would have it "
            f"(config: {config.accumulation_steps}). The batch stays {config.batch_size}; {same}",
            MEMORY_TAG,
        )

    def after_out_of_memory(self, error: OutOfMemoryError, trainer: Trainer) -> str:
        """Note that fewer images are to be taken at once from here on, for this rank and all that come; returns why not, or nothing."""
        where = f"rank {distributed.rank()} on {socket.gethostname()}"
        found = f"{where} is out of memory with {trainer.micro_batch} images at once ({error})"
        try:
            self._known[MICRO_BATCH] = trainer.halved_micro_batch()
        except ValueError as reason:
            failure = f"{found}: {reason}"
            if distributed.world_size() > 1:  # the other ranks wait in a step, and hear of it when the group starts again
                self._known[GIVEN_UP] = failure
                self._facts.remember(self._known)
            return failure
        self._facts.remember(self._known)
        return ""

    def after_divergence(self, error: DivergenceError, images_seen: int, tell: Callable[[str, str], None]) -> str:
        """Whether to go back to the last checkpoint and try again: returns nothing, or the diagnosis if that is of no use."""
        if self._from != error.last_good:
            self._tried.clear()  # it got further since
        self._from = error.last_good
        now = Tried(error.spoiled.what, images_seen, _suspect(error, self._device))
        repeated = any((tried.what, tried.images_seen) == (now.what, now.images_seen) for tried in self._tried)
        if repeated or len(self._tried) >= self._max_rollbacks:
            return self._diagnosis(error, now, repeated=repeated)
        self._tried.append(now)
        back = "the beginning" if error.last_good is None else f"the checkpoint at {error.last_good / 1000:.1f} kimg"
        tell(f"{now.what}: going back to {back}, try {len(self._tried)} of {self._max_rollbacks}", ROLLBACK_TAG)
        return ""

    def passed(self, images_seen: int, tell: Callable[[str, str], None]) -> None:
        """Take note of a checkpoint: numbers that were not finite before and are now were a passing fault."""
        if self._tried and images_seen >= max(tried.images_seen for tried in self._tried):
            first = self._tried[0]
            tell(
                f"{first.what} did not come again: a passing fault, which sound hardware does not have; look at {first.suspect}", HEALED_TAG
            )
            self._tried.clear()

    def _diagnosis(self, error: DivergenceError, now: Tried, *, repeated: bool) -> str:
        lead_up = f" In the steps before: {error.spoiled.lead_up}." if error.spoiled.lead_up else ""
        if repeated:
            verdict = "Trained again from there it came at the same step: it is the settings, not the machine, and no further try was made"
        elif self._tried:
            others = "; ".join(tried.what for tried in self._tried)
            suspects = ", ".join(dict.fromkeys(tried.suspect for tried in (*self._tried, now)))
            verdict = (
                f"{len(self._tried) + 1} tries ended differently (before: {others}), and equal steps give equal numbers on sound hardware: "
                f"suspect {suspects}"
            )
        else:
            verdict = "Nothing was tried again, as ray.max_rollbacks=0 says"
        return f"{error}.{lead_up} {verdict}"


def _suspect(error: DivergenceError, device: torch.device) -> str:
    """The ranks on which it began, with their hosts. All ranks call it together."""
    hosts = distributed.gather_text(socket.gethostname(), device)
    return ", ".join(f"rank {rank} on {hosts[rank]}" for rank in error.spoiled.ranks)
