"""What Ray Train runs on every rank. Imports are inside: Ray's controller loads this module too, and needs no PyTorch for it."""

import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from pipelines.agreement import DATA, facts
from pipelines.pulse import Pulse

if TYPE_CHECKING:
    from gan_core import Report, Trainer
    from gan_core.wishes import Wish
    from pipelines.config import JobConfig
    from pipelines.machine_metrics import MachineMetrics
    from pipelines.session import Job, Outcome
    from pipelines.storage import Found

ANSWER_SECONDS, REPEAT_SECONDS, SILENCE_SECONDS = 0.05, 30.0, 60.0
T = TypeVar("T")


class Question(NamedTuple):
    """Whether the run may go on: what `may_go_on` of rank 0 puts on the board."""

    images_seen: int
    metrics: dict[str, float]
    done: bool


class Restart(RuntimeError):  # noqa: N818 - it is a wish rather than an error
    """A rank that leaves so that the group starts again, with what it has noted beside the checkpoints; no failure of the run."""


def train(credentials: dict[str, str], told: dict[str, Any]) -> "Outcome":
    """Run the job that the driver sent, as one rank. `credentials` are MLflow's."""
    os.environ.update(credentials)  # not in the runtime environment, which the dashboard shows

    from gan_core import OutOfMemoryError

    pulse = Pulse(told["board"])
    try:
        from gan_core.overrides import validate
        from pipelines import gauges, worker
        from pipelines.config import JobConfig

        config = validate(told["job"]["config"], JobConfig)
        labels = gauges.labels_of(told["job"]["run_id"], told["job"]["config"])
        if told["watched"]:
            pulse.export = partial(gauges.show, labels)
        session = RaySession(config, told["board"], pulse, validates=told["validates"], asks=told["asks"])
        outcome = worker.run(told["job"], session)
        pulse.finish()
        return outcome
    except OutOfMemoryError as error:
        raise Restart(str(error)) from None
    finally:
        pulse.stop()


class RaySession:
    """A Session inside a Ray Train worker; `validates` lets Ray Train have each checkpoint scored, `asks` waits for leave to go on."""

    writes_apart = True

    def __init__(self, config: "JobConfig", board: Any, pulse: Pulse, *, validates: bool, asks: bool) -> None:
        import ray.train.torch

        from pipelines.shelf import Shelf
        from pipelines.storage import Place

        context = ray.train.get_context()
        self.rank, self.node_rank, self.local_rank = context.get_world_rank(), context.get_node_rank(), context.get_local_rank()
        self.device = ray.train.torch.get_device()
        self._board, self._pulse = board, pulse
        self._noticed = self._heeded = _preemption()
        self._where = f"rank {self.rank} on node {ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"
        self._validates, self._asks = validates, asks
        asked, kept = config.ray, context.get_storage()
        self._shelf = Shelf(
            Place(kept.storage_filesystem, kept.experiment_fs_path),
            keep=None if validates else asked.checkpoints_to_keep,  # Ray Train deletes none that waits to be scored
            timeout_seconds=asked.storage_timeout_seconds,
            say=self.say,
        )
        if self.rank == 0:
            self._shelf.prepare(alone=not validates)

    @contextmanager
    def latest_checkpoint(self) -> "Iterator[Found]":
        """The newest sound one, which rank 0 chooses, of a run with Ray or without."""
        from pipelines.storage import Found

        with ExitStack() as stack:
            chosen: list[Found] = []

            def choose() -> tuple[str | None, dict[str, str]]:
                chosen.append(stack.enter_context(self._shelf.newest()))
                return chosen[0].name, chosen[0].damaged

            name, damaged = self._by_rank_zero(choose)
            if chosen:
                yield chosen[0]
            elif name is None:
                yield Found(None, None, damaged)
            else:
                yield Found(name, stack.enter_context(self._shelf.opened(name)), damaged)

    def save(self, name: str, fill: Callable[[Path], None], *, best_at: int | None) -> None:
        """Rank 0 writes; the others wait for it outside any collective, which would time out.

        Where checkpoints are scored beside the training, Ray Train hears of each scheduled one once: of two by one name it would delete
        the new one together with the old.
        """
        from pipelines.storage import PREFIX

        def write() -> bool:
            self._shelf.save(name, fill, best_at=best_at)
            return self._validates and name.startswith(PREFIX) and name not in self._shelf.handed_over()

        if self._by_rank_zero(write):
            self._report(name)
        self._heeded = self._noticed

    def _report(self, name: str) -> None:
        import ray.train
        from ray.train import CheckpointUploadMode

        place = self._shelf.place
        here = ray.train.Checkpoint(f"{place.folder}/{name}", filesystem=place.filesystem) if self.rank == 0 else None
        upload_mode = CheckpointUploadMode.NO_UPLOAD
        ray.train.report(
            {"checkpoint": name}, here, checkpoint_dir_name=name, checkpoint_upload_mode=upload_mode, validation=self.rank == 0
        )

    def recall(self) -> dict[str, Any]:
        """Rank 0 reads the run's folder."""
        return self._by_rank_zero(self._shelf.recall)

    def remember(self, facts: dict[str, Any]) -> None:
        """In the run's folder."""
        self._shelf.remember(facts)

    def _by_rank_zero(self, action: Callable[[], T]) -> T:
        """What `action` returns on rank 0, a plain value, on every rank; or, on every rank, its error where that is for the user."""
        from gan_core.checkpoint import DamagedError
        from pipelines.shelf import StorageError

        kinds = {kind.__name__: kind for kind in (DamagedError, StorageError, ValueError)}
        value, failure = None, None
        if self.rank == 0:
            try:
                value = action()
            except (StorageError, ValueError) as error:
                failure = next(name for name, kind in kinds.items() if isinstance(error, kind)), str(error)
        value, failure = self._from_rank_zero([value, failure])
        if failure:
            kind, sentence = failure
            raise kinds[kind](sentence)
        return cast("T", value)

    def _from_rank_zero(self, value: Any) -> Any:
        from ray.train.collective import broadcast_from_rank_zero

        return broadcast_from_rank_zero(value)

    def begin(self, trainer: "Trainer") -> None:
        """Tell the driver's board what this rank runs on, and what it trains; its pulse follows the trainer from here on.

        Raises:
            RuntimeError: it differs from the driver's. The driver, which hears of it too, ends the run.
        """
        mine = {**facts(), DATA: trainer.parts.dataset.content_hash}
        if sentence := heard(lambda: self._board.attest.remote(self._where, mine)):
            raise RuntimeError(sentence)
        seen = weakref.ref(trainer)  # one that ran out of memory has to go before the next one is built

        def clock() -> tuple[int, int]:
            now = seen()
            return (0, 0) if now is None else (now.images_seen, now.state.d_steps + now.state.g_steps)

        self._pulse.follow(clock)

    def wait_for_all(self) -> None:
        """Returns when every rank has called it, however long one of them takes."""
        from ray.train.collective import barrier

        barrier()

    def waiting(self) -> AbstractContextManager[None]:
        """There is no other run in this process."""
        return nullcontext()

    def machine(self, job: "Job") -> "MachineMetrics":
        """Of this process alone."""
        from pipelines.machine_metrics import MachineMetrics

        return MachineMetrics(job["run_id"], job["tracking_uri"])

    def show(self, images_seen: int, metrics: dict[str, float]) -> None:
        """Have progress sent to the driver, and to who watches the cluster, with the next beat."""
        self._pulse.show(images_seen, metrics)

    def say(self, sentence: str) -> None:
        """Send a sentence to the driver, without waiting."""
        self._board.put.remote(sentence)

    def may_go_on(self, report: "Report") -> bool:
        """Have rank 0 put the question on the board, and every rank wait for the driver's answer."""
        if not self._asks:
            return True
        answer: bool | None = None
        if self.rank == 0:
            answer = answered(self._board, Question(report.images_seen, report.metrics, report.done))
        return bool(self._from_rank_zero(answer))

    def wish(self) -> "Wish":
        """What the driver wants; and a checkpoint, once for each notice that a node of this run will be taken away."""
        from gan_core.wishes import Wish

        self._noticed = _preemption()
        return max(self._pulse.wish, Wish.NONE if self._noticed in (None, self._heeded) else Wish.CHECKPOINT)


def heard(call: Callable[[], Any]) -> Any:
    """What the driver's board answers to a call, which is made again where Ray has just started the board anew.

    Raises:
        RuntimeError: nothing for a minute.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError

    give_up_at = time.monotonic() + SILENCE_SECONDS
    while True:
        try:
            return ray.get(call(), timeout=max(1.0, give_up_at - time.monotonic()))
        except (GetTimeoutError, RayActorError) as error:
            if time.monotonic() >= give_up_at:
                raise RuntimeError(f"the driver's board has not answered for {SILENCE_SECONDS:g} s") from error
            time.sleep(1.0)


def answered(board: Any, question: Question) -> bool:
    """The driver's answer, however long it takes; now and then the question is put again, for a board that was started anew."""
    put_at = float("-inf")
    while True:
        if time.monotonic() - put_at > REPEAT_SECONDS:
            heard(lambda: board.put.remote(question))
            put_at = time.monotonic()
        answer: bool | None = heard(lambda: board.answer.remote(question.images_seen))
        if answer is not None:
            return answer
        time.sleep(ANSWER_SECONDS)


def _preemption() -> Any:
    """Ray's notice that nodes of this group will be taken away, or None. `ray.train.get_preemption_info` would wait for all ranks."""
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info
