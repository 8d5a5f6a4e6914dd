"""What Ray Train runs on every rank. Imports are inside: Ray's controller loads this module too, and needs no PyTorch for it."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.agreement import DATA, facts
from pipelines.pulse import Pulse

if TYPE_CHECKING:
    from gan_core import Report, Trainer
    from gan_core.wishes import Wish
    from pipelines.worker import Outcome

ANSWER_SECONDS = 0.05


class Question(NamedTuple):
    """Whether the run may go on: what `may_go_on` of rank 0 puts on the board."""

    images_seen: int
    metrics: dict[str, float]
    done: bool


def train(told: dict[str, Any]) -> "Outcome":
    """Run the job that the driver sent, as one rank."""
    os.environ.update(told["credentials"])  # for MLflow; not in the runtime environment, which the dashboard shows

    pulse = Pulse(told["board"])
    try:
        from pipelines import gauges, worker

        labels = gauges.labels_of(told["job"]["run_id"], told["job"]["config"])
        session = RaySession(told["board"], pulse, labels, validates=told["validates"], asks=told["asks"])
        outcome = worker.run(told["job"], session)
        pulse.finish()
        return outcome
    finally:
        pulse.stop()


class RaySession:
    """A Session inside a Ray Train worker; `validates` lets Ray Train have each checkpoint scored, `asks` waits for leave to go on.

    `labels` are the run's gauges'.
    """

    def __init__(self, board: Any, pulse: Pulse, labels: dict[str, str], *, validates: bool, asks: bool) -> None:
        import ray.train.torch

        context = ray.train.get_context()
        self.rank, self.node_rank, self.local_rank = context.get_world_rank(), context.get_node_rank(), context.get_local_rank()
        self.device = ray.train.torch.get_device()
        self._storage = context.get_storage()
        self._board, self._pulse, self._labels = board, pulse, labels
        self._noticed = self._heeded = _preemption()
        self._where = f"rank {self.rank} on node {ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"
        self._validates, self._asks = validates, asks

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        """The checkpoint that Ray Train resumes from, else the newest that a run without Ray left in the same place."""
        import ray.train

        from pipelines import storage

        found = ray.train.get_checkpoint()
        if found is None:
            with storage.latest_at(self._storage.storage_filesystem, self._storage.experiment_fs_path) as newest:
                yield newest
        else:
            with found.as_directory() as folder:
                yield Path(folder)

    def save(self, name: str, fill: Callable[[Path], None], *, best_at: int | None) -> None:
        """Hand a checkpoint to Ray Train, which makes it durable before this returns."""
        import ray.train

        from pipelines import storage

        with tempfile.TemporaryDirectory(prefix="raygan-") as folder:
            checkpoint = None
            if self.rank == 0:
                fill(Path(folder))
                if best_at is not None:
                    storage.keep_best(self._storage.storage_filesystem, self._storage.experiment_fs_path, Path(folder), best_at)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"checkpoint": name}, checkpoint=checkpoint, checkpoint_dir_name=name, validation=self._validates)
        self._heeded = self._noticed

    def begin(self, trainer: "Trainer") -> None:
        """Tell the driver's board what this rank runs on, and what it trains; its pulse follows the trainer from here on.

        Raises:
            RuntimeError: it differs from the driver's. The driver, which hears of it too, ends the run.
        """
        import ray

        mine = {**facts(), DATA: trainer.parts.dataset.content_hash}
        if sentence := ray.get(self._board.attest.remote(self._where, mine)):
            raise RuntimeError(sentence)
        self._pulse.follow(lambda: (trainer.images_seen, trainer.d_steps + trainer.g_steps))

    def wait_for_all(self) -> None:
        """Returns when every rank has called it, however long one of them takes."""
        from ray.train.collective import barrier

        barrier()

    def show(self, images_seen: int, metrics: dict[str, float]) -> None:
        """Send progress to the driver, without waiting, and to who watches the cluster."""
        from pipelines import gauges

        self._board.put.remote((images_seen, metrics))
        gauges.show(self._labels, images_seen, metrics)

    def say(self, sentence: str) -> None:
        """Send a sentence to the driver, without waiting."""
        self._board.put.remote(sentence)

    def may_go_on(self, report: "Report") -> bool:
        """Have rank 0 put the question on the board, and every rank wait for the driver's answer."""
        if not self._asks:
            return True
        import ray
        from ray.train.collective import broadcast_from_rank_zero

        answer: bool | None = None
        if self.rank == 0:
            ray.get(self._board.put.remote(Question(report.images_seen, report.metrics, report.done)))
            while (answer := ray.get(self._board.answer.remote(report.images_seen))) is None:
                time.sleep(ANSWER_SECONDS)
        return bool(broadcast_from_rank_zero(answer))

    def wish(self) -> "Wish":
        """What the driver wants; and a checkpoint, once for each notice that a node of this run will be taken away."""
        from gan_core.wishes import Wish

        self._noticed = _preemption()
        return max(self._pulse.wish, Wish.NONE if self._noticed in (None, self._heeded) else Wish.CHECKPOINT)


def _preemption() -> Any:
    """Ray's notice that nodes of this group will be taken away, or None. `ray.train.get_preemption_info` would wait for all ranks."""
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info
