"""One rank of a run, the same under Ray and without it: trains, reports to MLflow and to the terminal, saves checkpoints."""

import gc
import json
import platform
import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict

import torch
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from PIL import Image

from gan_core import DivergenceError, EvaluationError, OutOfMemoryError, Report, Trainer, checkpoint, distributed
from gan_core.building import resolved_precision
from gan_core.judge import Scores
from gan_core.overrides import validate
from gan_core.wishes import Wish
from pipelines import environment
from pipelines.config import JobConfig
from pipelines.recovery import Course
from pipelines.run_writer import CLOCK, Record, RunWriter, UndeliveredError, require_records
from pipelines.shelf import StorageError
from pipelines.storage import INTERIM, PENDING, PREFIX, Found, checkpoint_name, told

SAMPLES = "samples.png"
PROVENANCE_TAG, FAILED_TAG, DAMAGED_TAG = "raygan.provenance.quality", "evaluation.failed.", "raygan.damaged"
LAST_DELIVERY_SECONDS = 5.0  # of a run that was asked to stop: what waits is in its checkpoint


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
    """What rank 0 returns. `failure` is a sentence for the user, or empty; going on would not help, unless it is `resumable`. `stopped`:
    told not to go on.
    """

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
    resumable: bool
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

    def latest_checkpoint(self) -> AbstractContextManager[Found]:
        """The newest sound checkpoint, the same on every rank; damaged ones are set aside.

        Raises:
            DamagedError: there are checkpoints, and none is sound.
        """
        ...

    def save(self, name: str, fill: Callable[[Path], None], *, best_at: int | None) -> None:
        """Keep a checkpoint; every rank calls this, rank 0's `fill` writes it. `best_at` marks it as the best, by images_seen.

        Raises:
            StorageError: the storage did not take it in time; on every rank.
        """
        ...

    def recall(self) -> dict[str, Any]:
        """Facts about the run that `remember` was given last, the same on every rank."""
        ...

    def remember(self, facts: dict[str, Any]) -> None:
        """Keep facts about the run beside its checkpoints; any one rank calls this."""
        ...

    def begin(self, trainer: Trainer) -> None:
        """Called when this rank has loaded its data, and again where a fault makes it build a new trainer."""
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


class _Resumed(NamedTuple):
    """What a checkpoint holds beside the trainer's state, and which ones were passed over."""

    pending: list[Record]
    damaged: dict[str, str]


class _Ending(NamedTuple):
    """How a run ended on this rank."""

    failure: str = ""
    resumable: bool = False
    stopped: bool = False


def run(job: Job, session: Session) -> Outcome:
    """Train to the end of the budget, from the latest checkpoint if there is one; after a fault that can be mended, again from there.

    Raises:
        OutOfMemoryError: this rank has no memory, and others wait for it; the group is to start again.
    """
    entered_at = time.time()
    config, orders = validate(job["config"], JobConfig), job.get("orders", NO_ORDERS)
    if session.device.type == "cpu":
        torch.set_num_threads(max(1, int(config.ray.cpus_per_worker)))
    course = Course(session, max_rollbacks=config.ray.max_rollbacks, device=session.device)
    trainer = _build(config, session, course)
    session.wait_for_all()
    resumed, ending = _resume(trainer, session, orders)
    desk = _Desk(job, config, session, course, resumed.pending)
    built_at = time.time()
    try:
        if ending is None and (given_up := course.given_up()):
            ending = _Ending(given_up)
        if ending is None:
            desk.begin(trainer)
            desk.note_damaged(resumed.damaged)
            if not _spent(orders, trainer.device_seconds, session):
                desk.ask_again(trainer)
            else:
                ending = _Ending(stopped=True)
        while ending is None:
            ending = _attempt(trainer, desk, session, course)
            if ending is None:
                del trainer  # with its memory, before the next one is built
                _free_memory(session.device)
                trainer = _build(config, session, course)
                resumed, ending = _resume(trainer, session, orders)
                desk.begin(trainer)
                desk.note_damaged(resumed.damaged)
    except _NoMoreError:
        ending = _Ending(stopped=True)
    except BaseException:
        desk.close(timeout_seconds=0.0)
        raise
    finished_at = time.time()
    peak = torch.tensor([_peak_memory(session.device)], dtype=torch.int64, device=session.device)
    peaks = distributed.gather(peak).tolist()  # before close, which may wait for longer than a collective's time-out
    patience = config.mlflow.delivery_timeout_seconds
    undelivered = desk.close(min(patience, LAST_DELIVERY_SECONDS) if trainer.stopped else patience)
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
        failure=ending.failure,
        resumable=ending.resumable,
        stopped=ending.stopped,
        undelivered="" if trainer.stopped else undelivered,
        hardware=environment.describe_hardware()["summary"],
        precision=resolved_precision(config, session.device),
    )


def _build(config: JobConfig, session: Session, course: Course) -> Trainer:
    evaluates = not config.ray.asynchronous_evaluation
    trainer = Trainer(config.gan(), device=session.device, evaluates=evaluates, micro_batch=course.micro_batch)
    session.begin(trainer)
    return trainer


def _resume(trainer: Trainer, session: Session, orders: Orders) -> tuple[_Resumed, _Ending | None]:
    """Load the newest sound checkpoint if there is one. An ending says why the run cannot go on from what there is."""
    failure, resumed = "", _Resumed([], {})
    try:
        with session.latest_checkpoint() as found:
            if found.folder is not None:
                trainer.load_state_dict(checkpoint.load(found.folder), perturbed=orders["perturbed"])
                resumed = _Resumed(require_records(_read_json(found.folder / PENDING)), found.damaged)
                if session.rank == 0:
                    for sentence in told(found):
                        session.say(sentence)
                    session.say(f"continuing from the checkpoint at {trainer.images_seen / 1000:.1f} kimg")
    except ValueError as error:
        failure = str(error)
    if distributed.any_rank(bool(failure), session.device):  # all together, or those who could would wait for the others
        return resumed, _Ending(failure or "another worker could not load the checkpoint; its log says why", resumable=not failure)
    return resumed, None


def _attempt(trainer: Trainer, desk: "_Desk", session: Session, course: Course) -> _Ending | None:
    """Train on; returns None where a fault is to be mended by going back to the last checkpoint."""
    failure = ""
    try:
        trainer.run(desk.receive, wish=session.wish)
        return _Ending(stopped=trainer.stopped)
    except StorageError as error:
        return _Ending(str(error), resumable=True)
    except (EvaluationError, AlarmError) as error:
        return _Ending(str(error))
    except DivergenceError as error:
        failure = course.after_divergence(error, trainer.images_seen, desk.tell)
    except OutOfMemoryError as error:
        failure = course.after_out_of_memory(error, trainer)
        if distributed.world_size() > 1:
            session.say(failure or f"rank {session.rank} is out of memory; the workers start again with smaller parts of the batch")
            raise
    return _Ending(failure) if failure else None


class _Desk:
    """Where a rank's reports go: rank 0 writes everything, the first rank of every other node its machine's metrics."""

    def __init__(self, job: Job, config: JobConfig, session: Session, course: Course, pending: list[Record]) -> None:
        self.session, self.job, self.course = session, job, course
        self.orders = job.get("orders", NO_ORDERS)
        self.patience = config.mlflow.delivery_timeout_seconds
        self.training_at: float | None = None
        self.seen = -1
        self.ringing: frozenset[str] = frozenset()
        self.told: set[str] = set()
        self.writer: RunWriter | None = None
        self.monitor: SystemMetricsMonitor | None = None
        self.prefix = "system/" if session.rank == 0 else f"system/node{session.node_rank}/"
        if session.local_rank == 0:
            if config.mlflow.system_metrics:
                self.monitor = SystemMetricsMonitor(job["run_id"], tracking_uri=job["tracking_uri"])
            if session.rank == 0 or self.monitor:
                clock = CLOCK if session.rank == 0 else f"{self.prefix}images_seen"
                mine = pending if session.rank == 0 else []
                self.writer = RunWriter(job["tracking_uri"], job["run_id"], say=session.say, clock=clock, pending=mine)

    def begin(self, trainer: Trainer) -> None:
        """Before the trainer runs: what it was doing when its state was saved, and with how much memory it has to do."""
        self.ringing = frozenset(trainer.alarms.ringing)
        self.course.tell_micro_batch(trainer, self.tell)

    def note_damaged(self, damaged: dict[str, str]) -> None:
        """Keep in MLflow which checkpoints were damaged, which the user was told."""
        if self.writer is not None and self.session.rank == 0:
            for name, reason in damaged.items():
                self.writer.tag(f"{DAMAGED_TAG}.{name}", reason)

    def tell(self, sentence: str, tag: str) -> None:
        """Tell the user, once, and keep it as a tag of the run."""
        if self.writer is not None and self.session.rank == 0 and sentence not in self.told:
            self.told.add(sentence)
            self.session.say(sentence)
            self.writer.tag(tag, sentence)

    def receive(self, report: Report) -> None:
        """One report of the trainer. One that was received before, from a checkpoint after it, says nothing new."""
        fresh = not report.interim and report.images_seen > self.seen
        if fresh:
            self.seen = report.images_seen
            self._publish(report)
        elif not report.interim:
            self.ringing = frozenset(report.alarms)
        if report.state is not None:
            self._save(report)
            self.course.passed(report.images_seen, self.tell)
        if self.training_at is None:
            self.training_at = time.time()
        if fresh:
            self._require_continuation(report)

    def _publish(self, report: Report) -> None:
        tags: dict[str, str] = {}
        if self.session.rank == 0:
            self.session.show(report.images_seen, report.metrics)
            tags = self._new_alarms(report) | self._news_of_scores(report)
        if self.writer is not None:
            mine = {**report.metrics, **self._hyperparameters()} if self.session.rank == 0 else {}
            picture = report.picture if self.session.rank == 0 else None
            self.writer.add(report.images_seen, {**mine, **self._machine_metrics()}, picture, tags)

    def _save(self, report: Report) -> None:
        state = report.state
        assert state is not None, "asked for only where there is one"

        def fill(folder: Path) -> None:
            assert self.writer is not None
            (folder / PENDING).write_text(json.dumps(self.writer.pending()))
            if report.picture is not None:
                Image.fromarray(report.picture).save(folder / SAMPLES)
            checkpoint.save(state(), folder, beside=(PENDING,))

        name = checkpoint_name(report.images_seen, INTERIM if report.interim else PREFIX)
        best_at = report.images_seen if report.is_best else None
        self.session.save(name, fill, best_at=best_at)

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


def _read_json(path: Path) -> Any:
    """A small file's content.

    Raises:
        ValueError: it is no JSON, or is nested too deeply to be ours.
    """
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} in the checkpoint is no JSON of ours: {type(error).__name__}") from None


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the device where it is a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
