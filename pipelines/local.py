"""A run without Ray: one rank, in this process, with the same checkpoints and the same MLflow run. For debugging."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from gan_core import Report
from gan_core.wishes import Wish
from pipelines import storage, worker
from pipelines.config import JobConfig
from pipelines.progress import Progress
from pipelines.shelf import Shelf
from pipelines.signals import asked_to_end


class LocalSession:
    """A Session in the driver's own process, keeping checkpoints in `<storage_path>/<run id>`. `ending` is set when the run is to stop."""

    rank = node_rank = local_rank = 0

    def __init__(self, config: JobConfig, run_id: str, progress: Progress, ending: threading.Event) -> None:
        asked, self._ending = config.ray, ending
        self.show, self.say = progress.show, progress.say
        place = storage.place_of(asked.storage_path, run_id)
        self._shelf = Shelf(place, keep=asked.checkpoints_to_keep, timeout_seconds=asked.storage_timeout_seconds, say=self.say)
        self._shelf.prepare()
        use_gpu = torch.cuda.is_available() if asked.use_gpu is None else asked.use_gpu
        self.device = torch.device("cuda" if use_gpu else "cpu")

    def wait_for_all(self) -> None:
        """There is one rank."""

    def may_go_on(self, report: Report) -> bool:
        """Nobody compares this run with others while it lasts."""
        return True

    def wish(self) -> Wish:
        """To stop, once SIGTERM came."""
        return Wish.STOP if self._ending.is_set() else Wish.NONE

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


def launch(job: worker.Job, config: JobConfig, progress: Progress) -> worker.Outcome:
    """Run the job here and now. SIGTERM has it checkpoint and stop; a second one is as Ctrl-C."""
    with asked_to_end() as ending:
        return worker.run(job, LocalSession(config, job["run_id"], progress, ending))
