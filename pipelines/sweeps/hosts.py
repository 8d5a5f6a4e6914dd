"""Where a trial with one worker runs, and what that place does for it: a process of Ray Tune's here, a thread of a pack in pack.py."""

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from ray import tune

from gan_core import Report, Trainer
from gan_core.wishes import Wish
from pipelines import gauges
from pipelines.config import JobConfig
from pipelines.machine_metrics import MachineMetrics
from pipelines.session import Job
from pipelines.single import SingleSession
from pipelines.sweeps import adoption
from pipelines.sweeps.ledger import Identity

POINTER, RUN_ID, NUMBER, DONOR = "pointer.json", "run_id", "number", "donor"


class Host(Protocol):
    """What a trial asks of the place where it runs."""

    @property
    def tags(self) -> Mapping[str, str]:
        """Those of the place, for the trial's run, among ledger.OF_PLACES."""
        ...

    def report(self, values: dict[str, Any], pointer: dict[str, Any] | None = None) -> bool:
        """Hand on an evaluation or the end, with where its checkpoint is; returns whether the trial is to go on."""
        ...

    def take_over(self, place: str, run_id: str, identity: Identity) -> Identity:
        """The trial as it is from here on, where it is to go on from another's weights."""
        ...

    def begin(self, trainer: Trainer) -> None:
        """A trainer was built, which takes the place of the one before."""
        ...

    def wait_for_all(self) -> None:
        """Returns when all that start together have built theirs."""
        ...

    def waiting(self) -> AbstractContextManager[None]:
        """Around a wait for something outside."""
        ...

    def machine(self, job: Job) -> MachineMetrics:
        """What measures this machine."""
        ...

    def show(self, labels: Mapping[str, str], images_seen: int, metrics: Mapping[str, float]) -> None:
        """A report, for who watches the cluster."""
        ...


class TuneProcess:
    """A process that Ray Tune runs one trial after the other in. A report of a trial that is to stop does not return: Tune ends its
    thread there.
    """

    def __init__(self) -> None:
        self.tags: Mapping[str, str] = {}

    def report(self, values: dict[str, Any], pointer: dict[str, Any] | None = None) -> bool:
        """To Tune; the checkpoint that it knows of is a pointer to the run's own."""
        if pointer is None:
            tune.report(values)
            return True
        with tempfile.TemporaryDirectory(prefix="raygan-") as folder:
            (Path(folder) / POINTER).write_text(json.dumps(pointer))
            tune.report(values, checkpoint=tune.Checkpoint.from_directory(folder))
        return True

    def take_over(self, place: str, run_id: str, identity: Identity) -> Identity:
        """Where Tune wants the trial to go on from another's weights, make that checkpoint its own."""
        adoption.finish_adoption(place, run_id)
        pointer = tune.get_checkpoint()
        if pointer is not None:
            with pointer.as_directory() as folder:
                found = json.loads((Path(folder) / POINTER).read_text())
            if found[RUN_ID] != run_id:
                adoption.adopt(place, run_id, found[DONOR], identity.point)
        taken = adoption.adopted(place, run_id)
        return identity if taken is None else identity._replace(point=taken["point"], donor=taken["donor"])

    def begin(self, trainer: Trainer) -> None:
        """It trains alone."""

    def wait_for_all(self) -> None:
        """There is one trial."""

    def waiting(self) -> AbstractContextManager[None]:
        """There is one trial."""
        return nullcontext()

    def machine(self, job: Job) -> MachineMetrics:
        """For this trial alone."""
        return MachineMetrics(job["run_id"], job["tracking_uri"])

    def show(self, labels: Mapping[str, str], images_seen: int, metrics: Mapping[str, float]) -> None:
        """One trial after the other."""
        gauges.show(labels, images_seen, metrics)


class Answers(NamedTuple):
    """`ask(images_seen, metrics, done)` whether the trial may go on; `say` is told what the user should know."""

    ask: Callable[[int, dict[str, float], bool], bool]
    say: Callable[[str], None]


class TrialSession(SingleSession):
    """A worker's Session in the process of its host."""

    def __init__(self, job: Job, config: JobConfig, host: Host, answers: Answers, *, on_gpu: bool) -> None:
        self._host, self._answers = host, answers
        self._labels = gauges.labels_of(job["run_id"], job["config"])
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.begin, self.wait_for_all, self.machine = host.begin, host.wait_for_all, host.machine
        super().__init__(config, job["run_id"], answers.say)

    def waiting(self) -> AbstractContextManager[None]:
        """Other trials of this process have their turns meanwhile."""
        return self._host.waiting()

    def show(self, images_seen: int, metrics: dict[str, float]) -> None:
        """MLflow has it; who watches the cluster sees it too."""
        self._host.show(self._labels, images_seen, metrics)

    def may_go_on(self, report: Report) -> bool:
        """Ask who compares the trials."""
        return self._answers.ask(report.images_seen, report.metrics, report.done)

    def wish(self) -> Wish:
        """Nothing: a trial ends at its evaluations."""
        return Wish.NONE
