"""A run through Ray Train, from the driver: a cluster, a TorchTrainer, and the reports of its workers on the terminal."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import ray
import ray.train
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, ValidationConfig

from gan_core.wishes import Wish
from pipelines import agreement, apart, lean, machines, rank, storage, tracking
from pipelines import board as boards
from pipelines.cluster import connected, joins, started_here
from pipelines.config import JobConfig
from pipelines.forgiving import ForgivingTrainer
from pipelines.overseer import Overseer
from pipelines.process_group import ProcessGroup
from pipelines.progress import Watcher
from pipelines.signals import Asked, Interrupted, in_thread
from pipelines.store import patient_client

if TYPE_CHECKING:
    from pipelines.session import Job, Outcome

POLL_SECONDS, ANSWER_SECONDS, STOP_SECONDS = 1.0, 0.1, 60.0
TAKE_SECONDS, SILENCE_SECONDS = 10.0, 60.0
KNOB_MARGIN_SECONDS = 60.0
GRACE_SECONDS = 45.0  # of the 60 that a job is to be given
SENTENCES_KEPT = 5

Ask = Callable[[int, dict[str, float], bool], bool]


@contextmanager
def cluster(config: JobConfig) -> Iterator[None]:
    """`connected`, and found to have what the workers ask for, with nodes that agree.

    Raises:
        ValueError: it does not, or they do not.
    """
    _set_knobs(config)
    with _told_to_processes({} if joins() else lean.ENVIRONMENT), connected(dashboard=False, trains=True):
        machines.require_room(config)
        agreement.require_agreement(config)
        yield


@contextmanager
def _told_to_processes(environment: Mapping[str, str]) -> Iterator[None]:
    """Processes that start in the block inherit these, but for those that the user has set."""
    new = {name: value for name, value in environment.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def require_reachable_from_all_nodes(tracking_uri: str) -> None:
    """Check that a worker on any node can write to the tracking store.

    Raises:
        ValueError: the store is a file on this machine and the cluster has several nodes.
    """
    nodes = sum(node["Alive"] for node in ray.nodes())
    here = urlsplit(tracking_uri).hostname in tracking.LOOPBACK or tracking_uri.startswith("sqlite:")
    if nodes > 1 and here:
        raise ValueError(
            f"mlflow.tracking_uri: {tracking_uri} is reached on this machine only, and the cluster has {nodes} nodes; start a server with "
            f"`mlflow server` and give the URL that all nodes reach"
        )


def launch(job: "Job", config: JobConfig, progress: Watcher, asked: Asked, ask: Ask | None = None) -> "Outcome":
    """Run the job on the connected cluster, restarting from the last checkpoint when workers are lost, until `asked`: then the ranks save a
    checkpoint and end.

    With `ask` the workers wait at each evaluation for its answer to (images_seen, metrics, done): whether to go on. If it raises, as it
    does where Ray Tune ends a trial, the workers stop there and are waited for first.

    Raises:
        RuntimeError: it failed more than `ray.max_failures` times, its machines did not come back, or a node has other data or software.
        Interrupted: asked to end, and no checkpoint could be had in time.
    """
    board = boards.new({**agreement.facts(), agreement.DATA: job["content_hash"]})
    bundle = machines.bundle_of(config, machines.uses_gpu(config))
    trainer = _trainer(job, config, board, bundle, asks=ask is not None)
    overseer = Overseer(config, bundle, progress.say, _Record(job), alone=ask is None)
    fitting = in_thread(trainer.fit, "ray-train")
    try:
        result = _wait(fitting, _Desk(board, progress, ask), overseer, asked)
    except ray.train.TrainingFailedError as error:
        raise RuntimeError(f"{error}\nBefore that, {overseer.trouble}" if overseer.trouble else str(error)) from error
    except BaseException:
        if ask is not None:
            board.reply.remote(None, False)
            wait([fitting], timeout=STOP_SECONDS)
        raise
    outcome: Outcome = result.return_value
    return outcome


def _trainer(job: "Job", config: JobConfig, board: Any, bundle: dict[str, float], *, asks: bool) -> ForgivingTrainer:
    """What is told to Ray Train. MLflow's credentials are part of the functions: what these are given is Ray's to store and to show."""
    credentials = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_TRACKING_")}
    asked, apart_too, elastic = config.ray, config.ray.asynchronous_evaluation, config.ray.min_workers is not None
    _set_knobs(config)
    storage.settle_ray_list(storage.make_folder(asked.storage_path, job["run_id"]), needed=apart_too)
    beside = partial(apart.score, told=apart.Told(job=job, credentials=credentials, board=board))
    return ForgivingTrainer(
        partial(rank.train, credentials),
        leanly=started_here() and not asks,
        train_loop_config={"job": job, "board": board, "validates": apart_too, "asks": asks, "watched": not started_here()},
        # The task of a validation waits for the task that works.
        validation_config=ValidationConfig(fn=beside, ray_remote_kwargs={"num_cpus": 0}) if apart_too else None,
        backend_config=ProcessGroup("nccl" if "GPU" in bundle else "gloo", timeout_s=int(asked.collective_timeout_seconds)),
        scaling_config=ScalingConfig(
            num_workers=(asked.fewest_workers, asked.num_workers) if elastic else asked.num_workers,
            use_gpu="GPU" in bundle,
            resources_per_worker=bundle,
            placement_strategy=asked.placement.upper(),
        ),
        run_config=RunConfig(
            name=job["run_id"],
            storage_path=asked.storage_path,
            # How long machines are waited for is the overseer's to judge, each time anew; Ray's limit is for the whole run.
            failure_config=FailureConfig(max_failures=asked.max_failures, controller_failure_limit=-1),
            checkpoint_config=CheckpointConfig(num_to_keep=asked.checkpoints_to_keep),  # of those that it scores
        ),
    )


def _set_knobs(config: JobConfig) -> None:
    """Ray Train reads these when a run starts, and processes of a cluster of ours inherit them. Those that the user has set stay."""
    knobs = {
        # The second net under the overseer, for a process that cannot be ended from here.
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": config.ray.stall_timeout_seconds + KNOB_MARGIN_SECONDS,
        # After the loss of a node an elastic run asks once more for what is gone, for as long as this.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": 60.0 if config.ray.min_workers is None else 30.0,
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": 2.0,
    }
    for name, value in knobs.items():
        os.environ.setdefault(name, f"{value:g}")


class _Record:
    """Keeps the last sentences of each kind as a tag of the run, without waiting for the tracking store."""

    def __init__(self, job: "Job") -> None:
        self._job = job
        self._noted: dict[str, list[str]] = {}

    def __call__(self, tag: str, sentence: str) -> None:
        self._noted[tag] = [*self._noted.get(tag, []), sentence][-SENTENCES_KEPT:]
        in_thread(partial(self._write, tag, "\n".join(dict.fromkeys(self._noted[tag]))), "record")

    def _write(self, tag: str, text: str) -> None:
        patient_client(self._job["tracking_uri"]).set_tag(self._job["run_id"], tag, text)


class _Desk:
    """Shows what the board has, and answers its questions."""

    def __init__(self, board: Any, progress: Watcher, ask: Ask | None) -> None:
        self.board, self._progress, self._ask = board, progress, ask
        self.interval = POLL_SECONDS if ask is None else ANSWER_SECONDS
        self._answers: dict[int, bool] = {}
        self._silent_since: float | None = None

    def serve(self, wish: Wish, seconds: float = TAKE_SECONDS) -> list[boards.Heard] | None:
        """Returns how the ranks are, None where the board cannot tell within `seconds`. It is told of `wish` each time: one that was
        started anew knows nothing.

        Raises:
            RuntimeError: a rank's software or data differ from the driver's, or the board stays silent.
        """
        if wish is not Wish.NONE:
            self.board.want.remote(int(wish))
        try:
            taken = ray.get(self.board.take.remote(), timeout=seconds)
        except (GetTimeoutError, RayActorError) as error:
            self._bear_silence(error)
            return None
        self._silent_since = None
        for said in taken.said:
            if isinstance(said, str):
                self._progress.say(said)
            elif isinstance(said, rank.Question):
                self.board.reply.remote(said.images_seen, self._answer(said))
            else:
                self._progress.show(*said)
        if taken.refusal:
            raise RuntimeError(taken.refusal)
        heard: list[boards.Heard] = taken.heard
        return heard

    def _answer(self, question: rank.Question) -> bool:
        """A question that comes again, because the board was started anew meanwhile, was answered once and for all."""
        assert self._ask is not None
        if question.images_seen not in self._answers:
            self._answers[question.images_seen] = self._ask(*question)
        return self._answers[question.images_seen]

    def _bear_silence(self, error: Exception) -> None:
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
            self._progress.say(f"the workers' board on this node does not answer; it is waited for, {SILENCE_SECONDS:g} s at most")
        elif now - self._silent_since > SILENCE_SECONDS:
            raise RuntimeError(
                f"the workers' board on this node has not answered for {now - self._silent_since:.0f} s; see whether the node is "
                f"overloaded, and Ray's logs"
            ) from error


def _wait(future: Future[Any], desk: _Desk, overseer: Overseer, asked: Asked) -> Any:
    """Serve the board and watch the ranks until the result is there and the last report was shown."""
    finished = False
    while not finished:
        finished = bool(wait([future], timeout=desk.interval).done)
        left = TAKE_SECONDS
        if asked.signum is not None:
            left = asked.at + GRACE_SECONDS - time.monotonic()
            if not finished and (overseer.gathering or left <= 0):  # nobody is there to save anything
                raise Interrupted(asked.signum)
        heard = desk.serve(Wish.NONE if asked.signum is None else Wish.STOP, min(TAKE_SECONDS, max(left, POLL_SECONDS)))
        if not finished and heard is not None:
            overseer.look(heard)
    return future.result()
