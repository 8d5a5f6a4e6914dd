"""A run without Ray: one rank, in this process, with the same checkpoints and the same MLflow run. For debugging."""

import torch

from gan_core import Report, Trainer
from gan_core.wishes import Wish
from pipelines import worker
from pipelines.config import JobConfig
from pipelines.machine_metrics import MachineMetrics
from pipelines.progress import Progress
from pipelines.session import Job, Outcome
from pipelines.signals import Asked
from pipelines.single import SingleSession


class LocalSession(SingleSession):
    """A Session in the driver's own process."""

    def __init__(self, config: JobConfig, run_id: str, progress: Progress, ending: Asked) -> None:
        super().__init__(config, run_id, progress.say)
        self.show, self._ending = progress.show, ending
        use_gpu = torch.cuda.is_available() if config.ray.use_gpu is None else config.ray.use_gpu
        self.device = torch.device("cuda" if use_gpu else "cpu")

    def begin(self, trainer: Trainer) -> None:
        """There is nobody to agree with."""

    def wait_for_all(self) -> None:
        """There is one rank."""

    def machine(self, job: Job) -> MachineMetrics:
        """Of this process alone."""
        return MachineMetrics(job["run_id"], job["tracking_uri"])

    def may_go_on(self, report: Report) -> bool:
        """Nobody compares this run with others while it lasts."""
        return True

    def wish(self) -> Wish:
        """To stop, once Ctrl-C or SIGTERM has asked for it."""
        return Wish.NONE if self._ending.signum is None else Wish.STOP


def launch(job: Job, config: JobConfig, progress: Progress, asked: Asked) -> Outcome:
    """Run the job here and now, until `asked`."""
    return worker.run(job, LocalSession(config, job["run_id"], progress, asked))
