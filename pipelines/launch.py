"""A run through Ray Train, from the driver: a cluster, a TorchTrainer, and the reports of its workers on the terminal."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import ray
import ray.train
import ray.train.torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, ValidationConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines import apart, rank
from pipelines.cluster import connected
from pipelines.config import JobConfig
from pipelines.progress import Watcher
from pipelines.signals import in_thread

if TYPE_CHECKING:
    from pipelines.worker import Job, Outcome

POLL_SECONDS, ANSWER_SECONDS, STOP_SECONDS = 0.5, 0.1, 60.0
CONTROLLER_RETRIES = 5
LOOPBACK = ("127.0.0.1", "localhost", "::1")


Said = tuple[int, dict[str, float]] | rank.Question | str
Ask = Callable[[int, dict[str, float], bool], bool]


@ray.remote(num_cpus=0)
class _Board:
    """Holds the reports and sentences that the driver has not shown yet, and its answers to questions."""

    def __init__(self) -> None:
        self.waiting: list[Said] = []
        self.answers: dict[int, bool] = {}
        self.answer_to_all: bool | None = None

    def put(self, said: Said) -> None:
        self.waiting.append(said)

    def take(self) -> list[Said]:
        taken, self.waiting = self.waiting, []
        return taken

    def reply(self, images_seen: int | None, may_go_on: bool) -> None:
        """Answer the question at `images_seen`; None is every question from now on."""
        if images_seen is None:
            self.answer_to_all = may_go_on
        else:
            self.answers[images_seen] = may_go_on

    def answer(self, images_seen: int) -> bool | None:
        """What `reply` said, None while it has not."""
        return self.answers.get(images_seen) if self.answer_to_all is None else self.answer_to_all


@contextmanager
def cluster(config: JobConfig) -> Iterator[None]:
    """`connected`, and found to have what the workers ask for.

    Raises:
        ValueError: it does not.
    """
    with connected(dashboard=False):
        _require_resources(config)
        yield


def _require_resources(config: JobConfig) -> None:
    owned, asked, workers = ray.cluster_resources(), config.ray, config.ray.num_workers
    needed = {"CPU": workers * asked.cpus_per_worker, "GPU": float(workers) if uses_gpu(config) else 0.0}
    remedies = {"CPU": "ray.cpus_per_worker", "GPU": "ray.num_workers"}
    beside = ""
    if asked.asynchronous_evaluation:
        needed = {"CPU": needed["CPU"] + asked.evaluation_cpus, "GPU": needed["GPU"] + asked.evaluation_gpus}
        remedies = {kind: f"{remedy}, or ray.evaluation_{kind.lower()}s" for kind, remedy in remedies.items()}
        beside = " and the evaluation beside them"
    for kind, amount in needed.items():
        if (there := owned.get(kind, 0.0)) < amount:
            raise ValueError(
                f"ray.num_workers: {workers} workers{beside} need {amount:g} {kind}, the cluster has {there:g}; lower {remedies[kind]}, or "
                f"add machines"
            )


def require_reachable_from_all_nodes(tracking_uri: str) -> None:
    """Check that a worker on any node can write to the tracking store.

    Raises:
        ValueError: the store is a file on this machine and the cluster has several nodes.
    """
    nodes = sum(node["Alive"] for node in ray.nodes())
    here = urlsplit(tracking_uri).hostname in LOOPBACK or tracking_uri.startswith("sqlite:")
    if nodes > 1 and here:
        raise ValueError(
            f"mlflow.tracking_uri: {tracking_uri} is reached on this machine only, and the cluster has {nodes} nodes; start a server with "
            f"`mlflow server` and give the URL that all nodes reach"
        )


def uses_gpu(config: JobConfig) -> bool:
    """`ray.use_gpu`, or where that is open, whether the cluster has a GPU for each worker, and those that the evaluation asks for."""
    if config.ray.use_gpu is not None:
        return config.ray.use_gpu
    beside = config.ray.evaluation_gpus if config.ray.asynchronous_evaluation else 0.0
    return bool(ray.cluster_resources().get("GPU", 0.0) >= config.ray.num_workers + beside)


def launch(job: "Job", config: JobConfig, progress: Watcher, ask: Ask | None = None) -> "Outcome":
    """Run the job on the connected cluster, restarting from the last checkpoint when workers are lost.

    With `ask` the workers wait at each evaluation for its answer to (images_seen, metrics, done): whether to go on. If it raises, as it
    does where Ray Tune ends a trial, the workers stop there and are waited for first.

    Raises:
        ray.train.TrainingFailedError: it failed more than `ray.max_failures` times.
    """
    beside_the_driver = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = _Board.options(scheduling_strategy=beside_the_driver).remote()  # type: ignore[attr-defined]
    credentials = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_TRACKING_")}
    on_gpu, apart_too = uses_gpu(config), config.ray.asynchronous_evaluation
    trainer = ray.train.torch.TorchTrainer(
        rank.train,
        train_loop_config={"job": job, "board": board, "credentials": credentials, "validates": apart_too, "asks": ask is not None},
        validation_config=_validation(config, apart.Told(job=job, credentials=credentials, board=board)) if apart_too else None,
        torch_config=ray.train.torch.TorchConfig(
            backend="nccl" if on_gpu else "gloo", timeout_s=int(config.ray.collective_timeout_seconds)
        ),
        scaling_config=ScalingConfig(num_workers=config.ray.num_workers, use_gpu=on_gpu, resources_per_worker=_resources(config, on_gpu)),
        run_config=RunConfig(
            name=job["run_id"],
            storage_path=config.ray.storage_path,
            failure_config=FailureConfig(max_failures=config.ray.max_failures, controller_failure_limit=CONTROLLER_RETRIES),
            checkpoint_config=CheckpointConfig(num_to_keep=config.ray.checkpoints_to_keep),
        ),
    )
    fitting = in_thread(trainer.fit, "ray-train")
    try:
        result = _wait(fitting, board, progress, ask)
    except BaseException:
        if ask is not None:
            board.reply.remote(None, False)
            wait([fitting], timeout=STOP_SECONDS)
        raise
    outcome: Outcome = result.return_value
    return outcome


def _validation(config: JobConfig, told: apart.Told) -> ValidationConfig:
    """Scoring beside the training. What it is told is part of the function: arguments, and so credentials, would be stored in files."""
    return ValidationConfig(
        fn=partial(apart.score, told=told),
        ray_remote_kwargs={"num_cpus": 0},  # it waits for the task that works
    )


def _resources(config: JobConfig, on_gpu: bool) -> dict[str, float]:
    return {"CPU": config.ray.cpus_per_worker, **({"GPU": 1.0} if on_gpu else {})}


def _wait(future: Future[Any], board: Any, progress: Watcher, ask: Ask | None) -> Any:
    """Show the board's reports, and answer its questions, until the result is there and the last report was shown."""
    finished = False
    while not finished:
        finished = bool(wait([future], timeout=POLL_SECONDS if ask is None else ANSWER_SECONDS).done)
        for said in ray.get(board.take.remote()):
            if isinstance(said, str):
                progress.say(said)
            elif isinstance(said, rank.Question):
                assert ask is not None
                board.reply.remote(said.images_seen, ask(*said))
            else:
                progress.show(*said)
    return future.result()
