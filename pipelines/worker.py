"""One rank of a run, the same under Ray and without it: trains, reports to MLflow and to the terminal, saves checkpoints."""

import json
import platform
import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import torch
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from PIL import Image

from gan_core import DivergenceError, EvaluationError, Report, Trainer, checkpoint, distributed
from gan_core.building import resolved_precision
from gan_core.judge import Scores
from gan_core.overrides import validate
from gan_core.wishes import Wish
from pipelines import environment
from pipelines.config import JobConfig
from pipelines.run_writer import CLOCK, RunWriter, UndeliveredError
from pipelines.storage import PENDING, checkpoint_name

SAMPLES = "samples.png"
PROVENANCE_TAG, FAILED_TAG = "raygan.provenance.quality", "evaluation.failed."


class Orders(TypedDict):
    """What a sweep adds to a job: keys that its schedule changes, whose values are logged as `hp/*`, alarms that end the run, and a budget
    in device seconds, after which it ends at the next scores.
    """

    perturbed: dict[str, float]
    fatal_alarms: list[str]
    device_seconds: float | None


class Job(TypedDict):
    """What a worker is told; plain values, because they travel between machines."""

    config: dict[str, Any]
    tracking_uri: str
    run_id: str
    content_hash: str
    orders: NotRequired[Orders]


NO_ORDERS = Orders(perturbed={}, fatal_alarms=[], device_seconds=None)


class Outcome(TypedDict):
    """What rank 0 returns. `failure` is a sentence for the user, or empty; retrying would not have helped. `stopped`: told not to go on."""

    images_seen: int
    d_steps: int
    g_steps: int
    device_seconds: float
    first_scores: dict[str, float]
    last_scores: dict[str, float]
    best: dict[str, float]
    peak_memory_bytes: list[int]
    entered_at: float
    built_at: float
    training_at: float
    finished_at: float
    failure: str
    stopped: bool
    undelivered: str
    hardware: str
    precision: str


class Session(Protocol):
    """Where a rank runs: what it must know of its place, and how it keeps checkpoints."""

    rank: int
    node_rank: int
    local_rank: int
    device: torch.device

    def latest_checkpoint(self) -> AbstractContextManager[Path | None]:
        """The folder to resume from."""
        ...

    def save(self, name: str, fill: Callable[[Path], None], *, best_at: int | None) -> None:
        """Keep a checkpoint; every rank calls this, rank 0's `fill` writes it. `best_at` marks it as the best, by images_seen."""
        ...

    def begin(self, trainer: Trainer) -> None:
        """Called once, when this rank has loaded its data."""
        ...

    def wait_for_all(self) -> None:
        """Returns when every rank has called it: a node may decode its data for longer than a collective's time-out."""
        ...

    def show(self, images_seen: int, metrics: dict[str, float]) -> None:
        """Progress, called on rank 0."""
        ...

    def say(self, sentence: str) -> None:
        """Something that the user should know now."""
        ...

    def may_go_on(self, report: Report) -> bool:
        """Whether the run is to go on after this report, which has scores; every rank calls this, and gets the same answer."""
        ...

    def wish(self) -> Wish:
        """What this rank has been asked for, at once; ranks may answer differently, and agree on the largest."""
        ...


class AlarmError(RuntimeError):
    """An alarm rings that the job's orders call fatal."""


class _NoMoreError(RuntimeError):
    """Somebody who compares runs does not want more of this one."""


def run(job: Job, session: Session) -> Outcome:
    """Train to the end of the budget, from the latest checkpoint if there is one."""
    entered_at = time.time()
    config, orders = validate(job["config"], JobConfig), job.get("orders", NO_ORDERS)
    if session.device.type == "cpu":
        torch.set_num_threads(max(1, int(config.ray.cpus_per_worker)))
    trainer = Trainer(config.gan(), device=session.device, evaluates=not config.ray.asynchronous_evaluation)
    session.begin(trainer)
    session.wait_for_all()
    pending = None
    with session.latest_checkpoint() as folder:
        if folder is not None:
            trainer.load_state_dict(checkpoint.load(folder), perturbed=orders["perturbed"])
            pending = json.loads((folder / PENDING).read_text())
            if session.rank == 0:
                session.say(f"continuing from the checkpoint at {trainer.images_seen / 1000:.1f} kimg")
    desk = _Desk(job, config, session, pending, frozenset(trainer.alarms.ringing))
    built_at, failure = time.time(), ""
    stopped = _spent(orders, trainer.device_seconds, session)
    try:
        if not stopped:
            desk.ask_again(trainer)
            trainer.run(desk.receive)
    except (DivergenceError, EvaluationError, AlarmError) as error:
        failure = str(error)
    except _NoMoreError:
        stopped = True
    except BaseException:
        desk.close(timeout_seconds=0.0)
        raise
    finished_at = time.time()
    peak = torch.tensor([_peak_memory(session.device)], dtype=torch.int64, device=session.device)
    peaks = distributed.gather(peak).tolist()  # before close, which may wait for longer than a collective's time-out
    undelivered = desk.close(config.mlflow.delivery_timeout_seconds)
    return Outcome(
        images_seen=trainer.images_seen,
        d_steps=trainer.d_steps,
        g_steps=trainer.g_steps,
        device_seconds=trainer.device_seconds,
        first_scores=trainer.first_scores,
        last_scores=trainer.last_scores,
        best=trainer.best,
        peak_memory_bytes=peaks,
        entered_at=entered_at,
        built_at=built_at,
        training_at=desk.training_at or built_at,
        finished_at=finished_at,
        failure=failure,
        stopped=stopped,
        undelivered=undelivered,
        hardware=environment.describe_hardware()["summary"],
        precision=resolved_precision(config, session.device),
    )


class _Desk:
    """Where a rank's reports go: rank 0 writes everything, the first rank of every other node its machine's metrics."""

    def __init__(self, job: Job, config: JobConfig, session: Session, pending: list[Any] | None, ringing: frozenset[str]) -> None:
        self.session, self.job = session, job
        self.orders = job.get("orders", NO_ORDERS)
        self.patience = config.mlflow.delivery_timeout_seconds
        self.training_at: float | None = None
        self.ringing = ringing
        self.told: set[str] = set()
        self.writer: RunWriter | None = None
        self.monitor: SystemMetricsMonitor | None = None
        self.prefix = "system/" if session.rank == 0 else f"system/node{session.node_rank}/"
        if session.local_rank == 0:
            if config.mlflow.system_metrics:
                self.monitor = SystemMetricsMonitor(job["run_id"], tracking_uri=job["tracking_uri"])
            if session.rank == 0 or self.monitor:
                clock = CLOCK if session.rank == 0 else f"{self.prefix}images_seen"
                mine = pending if session.rank == 0 else None
                self.writer = RunWriter(job["tracking_uri"], job["run_id"], say=session.say, clock=clock, pending=mine)

    def receive(self, report: Report) -> None:
        """One report of the trainer."""
        tags: dict[str, str] = {}
        if self.session.rank == 0:
            self.session.show(report.images_seen, report.metrics)
            tags = self._new_alarms(report) | self._news_of_scores(report)
        if self.writer is not None:
            mine = {**report.metrics, **self._hyperparameters()} if self.session.rank == 0 else {}
            picture = report.picture if self.session.rank == 0 else None
            self.writer.add(report.images_seen, {**mine, **self._machine_metrics()}, picture, tags)
        state = report.state
        if state is not None:

            def fill(folder: Path) -> None:
                assert self.writer is not None
                (folder / PENDING).write_text(json.dumps(self.writer.pending()))
                if report.picture is not None:
                    Image.fromarray(report.picture).save(folder / SAMPLES)
                checkpoint.save(state(), folder)

            best_at = report.images_seen if report.is_best else None
            self.session.save(checkpoint_name(report.images_seen), fill, best_at=best_at)
        if self.training_at is None:
            self.training_at = time.time()
        self._require_continuation(report)

    def _require_continuation(self, report: Report) -> None:
        """Stop here where the job's orders say so, or who compares this run with others; everything is delivered before they are asked."""
        for name in self.orders["fatal_alarms"]:
            if name in report.alarms:
                raise AlarmError(f"alarm: {name} at {report.images_seen / 1000:.1f} kimg: {report.alarms[name]}")
        if report.scores is None:
            return
        if "orders" in self.job and self.writer is not None and not self.writer.flush(self.patience):
            raise UndeliveredError(f"metrics were not delivered to {self.job['tracking_uri']} within {self.patience:g} s")
        if _spent(self.orders, report.metrics["progress/device_seconds"], self.session):
            raise _NoMoreError
        if not self.session.may_go_on(report):
            raise _NoMoreError

    def ask_again(self, trainer: Trainer) -> None:
        """Of a run that goes on from a checkpoint: who compares it may not have heard of that evaluation before a process died."""
        if "orders" in self.job and trainer.images_seen > 0 and not trainer.done:
            metrics = {**trainer.last_scores, "progress/device_seconds": trainer.device_seconds}
            if not self.session.may_go_on(Report(trainer.images_seen, metrics, None, None, is_best=False, done=False)):
                raise _NoMoreError

    def _hyperparameters(self) -> dict[str, float]:
        return {f"hp/{key}": value for key, value in self.orders["perturbed"].items()}

    def _new_alarms(self, report: Report) -> dict[str, str]:
        """Tags of the alarms that begin to ring with this report, which the user is told too. A tag keeps when its alarm last began."""
        tags: dict[str, str] = {}
        for name, reason in report.alarms.items():
            if name not in self.ringing:
                tags[f"alarm.{name}"] = f"at {report.images_seen / 1000:.1f} kimg: {reason}"
                self.session.say(f"alarm: {name} {tags[f'alarm.{name}']}")
        self.ringing = frozenset(report.alarms)
        return tags

    def _news_of_scores(self, report: Report) -> dict[str, str]:
        """Tags: how the scores were made, once, and each metric that could not be measured, when it first fails and is told."""
        if report.scores is None:
            return {}
        tags = tags_of(report.scores, report.images_seen)
        new = {key: value for key, value in tags.items() if key not in self.told}
        self.told |= new.keys()
        for key, value in new.items():
            if key.startswith(FAILED_TAG):
                self.session.say(f"{key.removeprefix(FAILED_TAG)} could not be measured {value}")
        return new

    def close(self, timeout_seconds: float) -> str:
        """Deliver what waits; returns what could not be, as a sentence."""
        try:
            if self.writer is not None:
                self.writer.close(timeout_seconds)
        except UndeliveredError as error:
            if self.session.rank > 0:
                self.session.say(f"machine metrics of node {self.session.node_rank}: {error}")
            return str(error)
        return ""

    def _machine_metrics(self) -> dict[str, float]:
        """CPU, memory, disk, network and GPU use of this node, and this process's peak memory."""
        if self.monitor is None:
            return {}
        self.monitor.collect_metrics()
        values: dict[str, float] = self.monitor.aggregate_metrics()
        for monitor in self.monitor.monitors:
            monitor.clear_metrics()
        values["worker_peak_memory_megabytes"] = _peak_memory(self.session.device) / 1e6
        return {f"{self.prefix}{key}": float(value) for key, value in values.items()}


def _spent(orders: Orders, device_seconds: float, session: Session) -> bool:
    """Whether the budget of device seconds is spent, on any rank: each has its own clock, and all must agree."""
    limit = orders["device_seconds"]
    return limit is not None and distributed.any_rank(device_seconds >= limit, session.device)


def tags_of(scores: Scores, images_seen: int) -> dict[str, str]:
    """How the scores were made, and for each metric that could not be measured when and why, as tags of the run."""
    failed = {f"{FAILED_TAG}{metric}": f"at {images_seen / 1000:.1f} kimg: {reason}" for metric, reason in scores.failures.items()}
    return {PROVENANCE_TAG: json.dumps(scores.provenance.as_dict()), **failed}


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the device where it is a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
