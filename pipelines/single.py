"""What a Session is wherever a run has one rank: here and now, or as a trial."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.config import JobConfig
from pipelines.shelf import Shelf


class SingleSession:
    """The part of a Session that has to do with checkpoints: they are in `<storage_path>/<run id>`."""

    writes_apart = False  # of many trials in one process there would be as many processes
    rank = node_rank = local_rank = 0

    def __init__(self, config: JobConfig, run_id: str, say: Callable[[str], None]) -> None:
        asked, self.say = config.ray, say
        place = storage.make_folder(asked.storage_path, run_id)
        self._shelf = Shelf(place, keep=asked.checkpoints_to_keep, timeout_seconds=asked.storage_timeout_seconds, say=say)
        with self.waiting():
            self._shelf.prepare()

    def waiting(self) -> AbstractContextManager[None]:
        """There is no other run in this process, unless somebody says so."""
        return nullcontext()

    def latest_checkpoint(self) -> AbstractContextManager[storage.Found]:
        """The newest sound one, from a run with Ray or without."""
        return self._shelf.newest()

    def save(self, name: str, fill: Callable[[Path], None], *, best_at: int | None) -> None:
        """Write a checkpoint, and thin out the old ones."""
        self._shelf.save(name, fill, best_at=best_at)

    def recall(self) -> dict[str, Any]:
        """From the run's folder."""
        return self._shelf.recall()

    def remember(self, facts: dict[str, Any]) -> None:
        """In the run's folder."""
        self._shelf.remember(facts)
