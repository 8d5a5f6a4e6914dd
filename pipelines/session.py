"""What a rank is told, what it can ask of the place where it runs, and what it returns."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import torch

from gan_core import Report, Trainer
from gan_core.wishes import Wish
from pipelines.machine_metrics import MachineMetrics
from pipelines.storage import Found


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
    """Where a rank runs: what it must know of its place, and how it keeps checkpoints. `writes_apart`: MLflow has a process of its own."""

    writes_apart: bool
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

    def waiting(self) -> AbstractContextManager[None]:
        """Around a wait for something outside, in which another run of this process may work."""
        ...

    def machine(self, job: Job) -> MachineMetrics:
        """What measures this machine for the reports of a run."""
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
