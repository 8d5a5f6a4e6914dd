"""A run without Ray: one rank, in this process, with the same checkpoints and the same MLflow run. For debugging."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs
import torch

from gan_core import Report, Trainer
from gan_core.wishes import Wish
from pipelines import storage, worker
from pipelines.config import JobConfig
from pipelines.progress import Progress
from pipelines.signals import Asked


class LocalSession:
    """A Session in the driver's own process, keeping checkpoints in `<storage_path>/<run id>`."""

    rank = node_rank = local_rank = 0

    def __init__(self, config: JobConfig, run_id: str, progress: Progress, asked: Asked) -> None:
        self._asked = asked
        self.folder = Path(config.ray.storage_path) / run_id
        self.folder.mkdir(parents=True, exist_ok=True)
        self.keep = config.ray.checkpoints_to_keep
        use_gpu = torch.cuda.is_available() if config.ray.use_gpu is None else config.ray.use_gpu
        self.device = torch.device("cuda" if use_gpu else "cpu")
        self.show, self.say = progress.show, progress.say

    def begin(self, trainer: Trainer) -> None:
        """There is nobody to agree with."""

    def wait_for_all(self) -> None:
        """There is one rank."""

    def may_go_on(self, report: Report) -> bool:
        """Nobody compares this run with others while it lasts."""
        return True

    def wish(self) -> Wish:
        """To stop, once Ctrl-C or SIGTERM has asked for it."""
        return Wish.NONE if self._asked.signum is None else Wish.STOP

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        """The newest complete checkpoint, from a run with Ray or without."""
        yield storage.latest_in(self.folder)

    def save(self, name: str, fill: Callable[[Path], None], *, best_at: int | None) -> None:
        """Write a checkpoint that appears when it is complete, and thin out the old ones."""
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.folder))
        try:
            fill(temporary)
            if best_at is not None:
                storage.keep_best(pyarrow.fs.LocalFileSystem(), str(self.folder), temporary, best_at)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            temporary.rename(self.folder / name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        storage.keep_latest(self.folder, self.keep)


def launch(job: worker.Job, config: JobConfig, progress: Progress, asked: Asked) -> worker.Outcome:
    """Run the job here and now, until `asked`."""
    return worker.run(job, LocalSession(config, job["run_id"], progress, asked))
