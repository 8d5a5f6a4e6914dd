"""A pack: several trials in one process on one device, each in a thread of its own, which gan_core.population trains as one program.

Each member does what a trial in a process of Ray Tune's does. Its evaluations, its end, or what broke it are events, which the driver
fetches; an evaluation waits for the driver's answer.
"""

import os
import threading
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from gan_core import Trainer
from gan_core.population import Population
from gan_core.wishes import Lookout, Wish
from pipelines import gauges
from pipelines.machine_metrics import MachineMetrics
from pipelines.session import Job
from pipelines.sweeps import trial
from pipelines.sweeps.hosts import RUN_ID
from pipelines.sweeps.ledger import ALONE_TAG, SIZE_TAG, Identity
from pipelines.sweeps.trial import Told

REPORTED, LEFT, BROKE, FAILED = "reported", "left", "broke", "failed"


class Event(NamedTuple):
    """What happened to member `number`: it REPORTED `values`, LEFT at its end, or BROKE and can be begun again; FAILED is the whole pack,
    which cannot. `error` is a traceback.
    """

    number: int
    kind: str
    values: dict[str, Any]
    error: str = ""


class PackFailedError(RuntimeError):
    """A step of all members failed."""


class Pack:
    """An actor that trains one pack after the other; `told` is the sweep's. Calls come in several threads."""

    def __init__(self, told: Told) -> None:
        os.environ.update(told["credentials"])  # for MLflow; not in the runtime environment, which the dashboard shows
        self.told = told
        self.happened: SimpleQueue[Event] = SimpleQueue()

    def begin(self, trials: list[dict[str, Any]], alone: Mapping[int, str]) -> None:
        """A new pack; `alone` says of which members, by number, why they train beside the program."""
        self.population = Population(len(trials))
        self._machine: MachineMetrics | None = None
        self._size, self._alone = len(trials), alone
        self._seats: dict[int, Seat] = {}
        for given in trials:
            self.go_on(given)

    def go_on(self, given: dict[str, Any]) -> None:
        """Begin a member, or one again that broke."""
        identity = Identity.of({"trial": given})
        seat = self._seats[identity.number] = Seat(identity, self)
        threading.Thread(target=seat.occupy, name=f"trial {identity.number}", daemon=True).start()

    def events(self, begun: None = None) -> list[Event]:
        """All since the last call, and one at least: it is waited for. `begun` is what `begin` returns: calls may overtake each other."""
        found = [self.happened.get()]
        while True:
            try:
                found.append(self.happened.get_nowait())
            except Empty:
                return found

    def answer(self, number: int, *, go_on: bool) -> None:
        """To a member's last evaluation."""
        self._seats[number].answers.put(go_on)

    def machine(self, job: Job) -> MachineMetrics:
        """One for all members, made in the thread whose turn it is."""
        if self._machine is None:
            self._machine = MachineMetrics(job["run_id"], job["tracking_uri"])
        return self._machine

    def tags(self, number: int) -> dict[str, str]:
        """That a run was trained in a pack, of how many, and why beside its program if it was."""
        alone = self._alone.get(number)
        return {SIZE_TAG: str(self._size)} | ({ALONE_TAG: alone} if alone else {})


class Seat:
    """A member's thread, as the Host of its trial."""

    def __init__(self, identity: Identity, pack: Pack) -> None:
        self._identity, self._pack, self._population = identity, pack, pack.population
        self.tags, self.machine = pack.tags(identity.number), pack.machine
        self.answers: SimpleQueue[bool] = SimpleQueue()
        self._run_id = ""

    def occupy(self) -> None:
        """The thread: the member's whole training, then its last event."""
        last = Event(self._identity.number, LEFT, {})
        try:
            with self._population.seat():
                trial.train(self._identity, self._pack.told, self)
        except BaseException:  # whatever it was, the driver must hear of it
            last = last._replace(kind=BROKE if self._population.failure is None else FAILED, error=traceback.format_exc())
        try:
            gauges.end(self._run_id)
        finally:
            self._pack.happened.put(last)

    def report(self, values: dict[str, Any], pointer: dict[str, Any] | None = None) -> bool:
        """To the driver, whose answer is waited for unless it is the end. Others report or are scored meanwhile; no round is taken."""
        self._pack.happened.put(Event(self._identity.number, REPORTED, values))
        if values.get("done"):
            return True
        with self.waiting():
            return self.answers.get()

    def take_over(self, place: str, run_id: str, identity: Identity) -> Identity:
        """A pack hands no weights on."""
        return identity

    def begin(self, trainer: Trainer) -> None:
        """The population moves it from here on."""
        self._population.join(trainer)
        company = trainer.company
        assert company is not None, "it has joined"

        def guarded(previous: int, lookout: Lookout | None) -> Wish:
            try:
                return company(previous, lookout)
            except Exception as error:
                if self._population.failure is not None:  # no fault of this run, which must not be mended as if it were
                    raise PackFailedError(str(error)) from error
                raise

        trainer.company = guarded

    def wait_for_all(self) -> None:
        """The population waits before its first round."""

    def waiting(self) -> AbstractContextManager[None]:
        """Others have their turns meanwhile."""
        return self._population.aside()

    def show(self, labels: Mapping[str, str], images_seen: int, metrics: Mapping[str, float]) -> None:
        """Beside those of the other members."""
        self._run_id = labels[RUN_ID]
        gauges.show_beside(labels, images_seen, metrics)
