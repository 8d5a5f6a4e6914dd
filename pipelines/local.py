"""A run without Ray: one rank, in this process, with the same checkpoints and the same MLflow run. For debugging."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from gan_core import Report, Trainer
from gan_core.wishes import Wish
from pipelines import storage, worker
from pipelines.config import JobConfig
from pipelines.machine_metrics import MachineMetrics
from pipelines.progress import Progress
from pipelines.session import Job, Outcome
from pipelines.shelf import Shelf
from pipelines.signals import Asked


class LocalSession:
    """A Session in the driver's own process, keeping checkpoints in `<storage_path>/<run id>`."""

    rank = node_rank = local_rank = 0

    def __init__(self, config: JobConfig, run_id: str, progress: Progress, ending: Asked) -> None:
        asked, self._ending = config.ray, ending
        self.show, self.say = progress.show, progress.say
        place = storage.make_folder(asked.storage_path, run_id)
        self._shelf = Shelf(place, keep=asked.checkpoints_to_keep, timeout_seconds=asked.storage_timeout_seconds, say=self.say)
        self._shelf.prepare()
        use_gpu = torch.cuda.is_available() if asked.use_gpu is None else asked.use_gpu
        self.device = torch.device("cuda" if use_gpu else "cpu")

    def begin(self, trainer: Trainer) -> None:
        """There is nobody to agree with."""

    def wait_for_all(self) -> None:
        """There is one rank."""

    def waiting(self) -> AbstractContextManager[None]:
        """There is no other run in this process."""
        return nullcontext()

    def machine(self, job: Job) -> MachineMetrics:
        """Of this process alone."""
        return MachineMetrics(job["run_id"], job["tracking_uri"])

    def may_go_on(self, report: Report) -> bool:
        """Nobody compares this run with others while it lasts."""
        return True

    def wish(self) -> Wish:
        """To stop, once Ctrl-C or SIGTERM has asked for it."""
        return Wish.NONE if self._ending.signum is None else Wish.STOP

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


def launch(job: Job, config: JobConfig, progress: Progress, asked: Asked) -> Outcome:
    """Run the job here and now, until `asked`."""
    return worker.run(job, LocalSession(config, job["run_id"], progress, asked))
