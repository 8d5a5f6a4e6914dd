"""The packs of a batch, from the driver's chair: which run at once, what the scheduler says of their trials, and what becomes of those
whose process dies.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.tune.schedulers import TrialScheduler

from pipelines.patience import patiently
from pipelines.signals import in_thread
from pipelines.sweeps.ledger import Identity
from pipelines.sweeps.pack import BROKE, FAILED, LEFT, REPORTED, Event, Pack
from pipelines.sweeps.packing import Packing
from pipelines.sweeps.trial import Told
from pipelines.sweeps.tuning import Batch, Notary, Slots
from pipelines.tracking import Tracker

LOOK_SECONDS = 1.0
CALLS = 4  # to a pack's process at once: one waits for its events


class Member:
    """A trial as schedulers and the notary look at one of Ray Tune's."""

    def __init__(self, identity: Identity) -> None:
        self.trial_id, self.config = f"packed-{identity.number:03d}", {"trial": identity._asdict()}
        self.number = identity.number
        self.last_result: dict[str, Any] = {}
        self.failures = 0
        self.stopped = False
        self.error = ""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train: it said so, or the scheduler."""
        return self.stopped or bool(self.last_result.get("done"))

    def get_error(self) -> str:
        """What broke it last."""
        return self.error


class Running:
    """A process, and those of its pack that have not left."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.members: dict[int, Member] = {}


def run(batch: Batch, told: Told, slots: Slots, packing: Packing, *, tracker: Tracker, show: Callable[[str], None]) -> None:
    """Run all trials of `batch` to their ends, in the packs of `packing`; each one's end is in its MLflow run when this returns."""
    notary = Notary(tracker, {**told, "credentials": {}}, batch.size, show)
    conductor = Conductor(batch, told, slots, packing, notary)
    try:
        in_thread(conductor.conduct, "packs").result()
    finally:
        conductor.stop()
    patiently(notary.deliver_all, told["tree"]["mlflow"]["delivery_timeout_seconds"], show)


class Conductor:
    """Starts packs while there is room, and answers their members.

    A member that breaks begins again in its pack, from its last checkpoint. Where a process dies, or a step of all fails, its members go
    on in two packs of half the size: if it was for want of memory they need less, and if it was one of them it takes fewer with it. The
    last time that they may, each goes on alone.
    """

    def __init__(self, batch: Batch, told: Told, slots: Slots, packing: Packing, notary: Notary) -> None:
        self._scheduler, self._retries, self._told, self._slots, self._notary = batch.scheduler, batch.retries, told, slots, notary
        self._alone = packing.alone
        self._waiting = deque([Member(identity) for identity in pack] for pack in packing.packs)
        self._processes: list[Any] = []
        self._idle: list[Any] = []
        self._running: dict[Any, Running] = {}  # by the call that will return its next events
        self._ending = threading.Event()
        self._all = [member for pack in self._waiting for member in pack]

    def conduct(self) -> None:
        """Until all have ended."""
        for member in self._all:
            self._scheduler.on_trial_add(None, member)
        while (self._waiting or self._running) and not self._ending.is_set():
            while self._waiting and len(self._running) < self._slots.at_once:
                self._start(self._waiting.popleft())
            ready, _ = ray.wait(list(self._running), timeout=LOOK_SECONDS)
            for call in ready:
                self._hear(call, self._running.pop(call))
            self._notary.on_step_end(0, [])

    def stop(self) -> None:
        """End what runs, at once; checkpoints stay."""
        self._ending.set()
        for process in list(self._processes):
            ray.kill(process)

    def _start(self, members: list[Member]) -> None:
        process = self._idle.pop() if self._idle else self._process()
        running = Running(process)
        running.members = {member.number: member for member in members}
        alone = {number: self._alone[number] for number in running.members if number in self._alone}
        begun = process.begin.remote([member.config["trial"] for member in members], alone)
        self._running[process.events.remote(begun)] = running

    def _process(self) -> Any:
        needs = self._slots.resources
        options = {"num_cpus": needs["cpu"], "num_gpus": needs["gpu"], "max_concurrency": CALLS, "max_restarts": 0}
        self._processes.append(ray.remote(Pack).options(**options).remote(self._told))
        return self._processes[-1]

    def _listen(self, running: Running) -> None:
        if running.members:
            self._running[running.process.events.remote()] = running
        else:
            self._idle.append(running.process)

    def _hear(self, call: Any, running: Running) -> None:
        try:
            events: list[Event] = ray.get(call)
        except RayError as error:
            self._replace(running, str(error))
            return
        failed = [event for event in events if event.kind == FAILED]
        for event in events:
            if not failed or event.kind != BROKE:  # what broke together with its pack is tried again with it, and counted once
                self._take(event, running)
        if failed:
            self._replace(running, failed[0].error)
        else:
            self._listen(running)

    def _take(self, event: Event, running: Running) -> None:
        member = running.members[event.number]
        if event.kind == REPORTED:
            member.last_result = event.values
            if not member.finished:
                decision = self._scheduler.on_trial_result(None, member, event.values)
                member.stopped = decision == TrialScheduler.STOP
                running.process.answer.remote(member.number, go_on=not member.stopped)
        elif event.kind == LEFT or (event.kind == BROKE and member.finished):
            self._end(running.members.pop(member.number))
        elif event.kind == BROKE:
            if self._may_try_again(member, event.error):
                running.process.go_on.remote(member.config["trial"])
            else:
                del running.members[member.number]

    def _replace(self, running: Running, error: str) -> None:
        """End a process that is of no more use, and train its members in others. It may live, unheard, and would go on writing their runs
        and holding its place.
        """
        ray.kill(running.process)
        self._processes.remove(running.process)
        for member in [member for member in running.members.values() if member.finished]:
            self._end(member)
        left = [member for member in running.members.values() if not member.finished and self._may_try_again(member, error)]
        last = any(member.failures == self._retries for member in left)
        size = 1 if last else -(-len(left) // 2)
        parts = [left[first : first + size] for first in range(0, len(left), max(1, size))]
        self._waiting.extendleft(reversed(parts))

    def _end(self, member: Member) -> None:
        self._scheduler.on_trial_complete(None, member, member.last_result)
        self._notary.on_trial_complete(0, [], member)

    def _may_try_again(self, member: Member, error: str) -> bool:
        member.failures, member.error = member.failures + 1, error
        if member.failures <= self._retries:
            self._notary.on_trial_recover(0, [], member)
            return True
        self._scheduler.on_trial_error(None, member)
        self._notary.on_trial_error(0, [], member)
        return False
