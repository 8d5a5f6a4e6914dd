"""Where a rank's reports go: to MLflow, to the terminal, into checkpoints; and what they say about going on."""

import json
import platform
import resource
import time
from pathlib import Path

import torch
from PIL import Image

from gan_core import Report, Trainer, checkpoint, distributed
from gan_core.judge import Scores
from pipelines.config import JobConfig
from pipelines.machine_metrics import MachineMetrics
from pipelines.recovery import Course
from pipelines.run_writer import CLOCK, Record, RunWriter, UndeliveredError
from pipelines.session import NO_ORDERS, Job, Orders, Session
from pipelines.storage import INTERIM, PENDING, PREFIX, checkpoint_name

SAMPLES = "samples.png"
PROVENANCE_TAG, FAILED_TAG, DAMAGED_TAG = "raygan.provenance.quality", "evaluation.failed.", "raygan.damaged"
TAKING_TAG = "raygan.cuda_graphs"


class AlarmError(RuntimeError):
    """An alarm rings that the job's orders call fatal."""


class NoMoreError(RuntimeError):
    """Somebody who compares runs does not want more of this one."""


class Desk:
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
        self.machine: MachineMetrics | None = None
        self.prefix = "system/" if session.rank == 0 else f"system/node{session.node_rank}/"
        if session.local_rank == 0:
            if config.mlflow.system_metrics:
                self.machine = session.machine(job)
            if session.rank == 0 or self.machine:
                clock = CLOCK if session.rank == 0 else f"{self.prefix}images_seen"
                mine = pending if session.rank == 0 else []
                self.writer = RunWriter(
                    job["tracking_uri"], job["run_id"], say=session.say, clock=clock, pending=mine, apart=session.writes_apart
                )

    def begin(self, trainer: Trainer) -> None:
        """Before the trainer runs: what it was doing when its state was saved, and with how much memory it has to do."""
        self.ringing = frozenset(trainer.state.alarms.ringing)
        self.course.tell_micro_batch(trainer, self.tell)
        self.tell_taking(trainer)

    def tell_taking(self, trainer: Trainer) -> None:
        """Say why steps are taken as written, where they were to be recorded."""
        if why := trainer.taking.failure:
            self.tell(f"speed.cuda_graphs: steps are taken as written: {why}", TAKING_TAG)

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
        if "orders" in self.job and self.writer is not None:
            with self.session.waiting():
                delivered = self.writer.flush(self.patience)
            if not delivered:
                raise UndeliveredError(f"metrics were not delivered to {self.job['tracking_uri']} within {self.patience:g} s")
        if spent(self.orders, report.metrics["progress/device_seconds"], self.session):
            raise NoMoreError
        if not self.session.may_go_on(report):
            raise NoMoreError

    def ask_again(self, trainer: Trainer) -> None:
        """Of a run that goes on from a checkpoint: who compares it may not have heard of that evaluation before a process died."""
        if "orders" in self.job and trainer.images_seen > 0 and not trainer.done:
            metrics = {**trainer.state.last_scores, "progress/device_seconds": trainer.state.device_seconds}
            if not self.session.may_go_on(Report(trainer.images_seen, metrics, None, None, is_best=False, done=False)):
                raise NoMoreError

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
                with self.session.waiting():
                    self.writer.close(timeout_seconds)
        except UndeliveredError as error:
            if self.session.rank > 0:
                self.session.say(f"machine metrics of node {self.session.node_rank}: {error}")
            return str(error)
        return ""

    def _machine_metrics(self) -> dict[str, float]:
        """CPU, memory, disk, network and GPU use of this node, and this process's peak memory."""
        if self.machine is None:
            return {}
        values = self.machine.read(self.job["run_id"])
        values["worker_peak_memory_megabytes"] = peak_memory(self.session.device) / 1e6
        return {f"{self.prefix}{key}": value for key, value in values.items()}


def spent(orders: Orders, device_seconds: float, session: Session) -> bool:
    """Whether the budget of device seconds is spent, on any rank: each has its own clock, and all must agree."""
    limit = orders["device_seconds"]
    return limit is not None and distributed.any_rank(device_seconds >= limit, session.device)


def tags_of(scores: Scores, images_seen: int) -> dict[str, str]:
    """How the scores were made, and for each metric that could not be measured when and why, as tags of the run."""
    failed = {f"{FAILED_TAG}{metric}": f"at {images_seen / 1000:.1f} kimg: {reason}" for metric, reason in scores.failures.items()}
    return {PROVENANCE_TAG: json.dumps(scores.provenance.as_dict()), **failed}


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device where it is a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
