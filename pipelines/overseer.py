"""The driver's watch over a worker group that Ray Train runs: tells who stands still, ends them after a while so that Ray Train begins
again from the last checkpoint, and gives up where machines are gone for too long: what Ray itself would wait for without end.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines import machines, vigil
from pipelines.agreement import name_of
from pipelines.board import Heard
from pipelines.config import JobConfig
from pipelines.pulse import DONE

LOOK_SECONDS, TELL_SECONDS, NOTABLE_SECONDS = 1.0, 60.0, 60.0
START_SECONDS = 120.0  # at least, for processes that read PyTorch from a slow disk
END_SECONDS = 60.0  # at least, until the group of a process that was ended is gone: Ray Train ends the others one by one
STALLS_TAG, RESTARTS_TAG = "raygan.stalls", "raygan.restarts"
FAILED_STARTS = 5  # after which a worker group that never came to training is given up


class Overseer:
    """Called again and again with what the board has heard. `say` is for the user, `note` keeps a sentence under a tag of the run; `alone`
    tells that all placement groups of this Ray job are this run's, which is not so in a sweep. `trouble` is why the ranks stood still when
    that was last seen, if it was not over for a while since.
    """

    def __init__(
        self, config: JobConfig, bundle: dict[str, float], say: Callable[[str], None], note: Callable[[str, str], None], *, alone: bool
    ):
        self._config, self._bundle, self._say, self._note, self._alone = config, bundle, say, note, alone
        patience = config.ray.stall_timeout_seconds
        self._notable = min(NOTABLE_SECONDS, patience / 4, config.ray.collective_timeout_seconds / 2)
        self._group, self._ranks, self._restarts = "", 0, 0
        self._told = False
        self._ended_at: float | None = None
        self._moving_since: float | None = None
        self._bare_since = self._told_at = time.monotonic()
        self._looked_at = 0.0
        self._starts: dict[str, float] = {}
        self.gathering = True
        self.trouble = ""

    def look(self, heard: Sequence[Heard]) -> None:
        """See how the ranks are, at most once a second.

        Raises:
            RuntimeError: they will not come to train any more.
        """
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if heard and all(each.beat.doing == DONE for each in heard):
            self.gathering = False
        elif heard and (max(each.age_seconds for each in heard) < vigil.SILENT_SECONDS / 2 or self._is_there(heard[0].beat.group)):
            self._watch(heard, now)
        else:
            self._wait(now)

    def _watch(self, heard: Sequence[Heard], now: float) -> None:
        if self.gathering or heard[0].beat.group != self._group:
            if heard[0].beat.group != self._group:  # else the touch was lost for a while, by a board that was begun anew say
                self._welcome(heard[0].beat.ranks)
            self._group, self._told, self._ended_at, self._starts = heard[0].beat.group, False, None, {}
            self.gathering, self.trouble, self._moving_since = False, "", None
        self._bare_since = self._told_at = now
        stall = vigil.stall(heard)
        patience = self._config.ray.stall_timeout_seconds
        if stall is None or stall.seconds < self._notable:
            self._passed(now)
            return
        self._moving_since, self.trouble = None, stall.sentence
        if not self._told:
            self._told = True
            self._say(f"no progress for {stall.seconds:.0f} s: {stall.sentence}")
            self._note(STALLS_TAG, stall.sentence)
        if stall.seconds < patience:
            return
        if self._ended_at is None:
            self._ended_at = now
            self._say(f"no progress within ray.stall_timeout_seconds, {patience:g}: ending {len(stall.culprits)} of {len(heard)} workers")
            for culprit in stall.culprits:
                _end_process(culprit)
        elif now - self._ended_at > max(END_SECONDS, patience):
            raise RuntimeError(f"no progress for {stall.seconds:.0f} s, and no worker could be ended: {stall.sentence}")

    def _passed(self, now: float) -> None:
        """The ranks move. Those of a group that is being taken down move too, for a last time: what they stood still for explains the next
        group until they have moved for a minute.
        """
        self._told, self._ended_at = False, None
        self._moving_since = now if self._moving_since is None else self._moving_since
        if now - self._moving_since > END_SECONDS:
            self.trouble = ""

    def _welcome(self, ranks: int) -> None:
        """Tell of a worker group that is not the first one. Ray Train does not say why it made one."""
        if self._group:
            self._restarts += 1
            instead = f" instead of {self._ranks}" if ranks != self._ranks else ""
            because = "" if ranks > self._ranks else f", because {self.trouble or 'workers were lost, or asked for it'}"
            news = f"a new group of {ranks} worker{'s' if ranks > 1 else ''}{instead}{because}"
            most = self._config.ray.max_failures
            self._say(f"{news}; restart {self._restarts}, and those for lost workers may be {most} (ray.max_failures)")
            self._note(RESTARTS_TAG, f"restart {self._restarts}: {news}")
            if self.trouble:
                self._note(STALLS_TAG, self.trouble)
        self._ranks = ranks

    def _wait(self, now: float) -> None:
        """There is no worker group that trains."""
        if not self.gathering:
            self.gathering, self._bare_since, self._told_at = True, now, now
        since, patience = now - self._bare_since, self._config.ray.machines_timeout_seconds
        started = self._started() if self._alone else None
        if started is not None:
            begun = self._starts.setdefault(started, now)
            if len(self._starts) > FAILED_STARTS:
                raise RuntimeError(f"the workers' processes failed {FAILED_STARTS} times while they started; Ray's logs say why")
            if now - begun > (limit := max(START_SECONDS, self._config.ray.stall_timeout_seconds)):
                raise RuntimeError(
                    f"the workers were placed {now - begun:.0f} s ago on {self._nodes_of(started)} and have not begun within {limit:g} s "
                    f"(ray.stall_timeout_seconds, at least {START_SECONDS:g})"
                )
            self._told_at = now
            return
        wanted = machines.demand(self._config, self._bundle)
        if since > patience:
            raise RuntimeError(
                f"no machines for {wanted} within ray.machines_timeout_seconds, {patience:g}; {machines.present(self._bundle)}"
                + (f". Before that, {self.trouble}" if self.trouble else "")
            )
        if now - self._told_at > TELL_SECONDS:
            self._told_at = now
            self._say(f"waiting for machines for {since:.0f} s, at most {patience:g}: {wanted}; {machines.present(self._bundle)}")

    def _is_there(self, group: str) -> bool:
        """Whether a worker group still has its place, or lost only the touch with us."""
        return bool(_placement_groups().get(group, {}).get("state") == "CREATED")

    def _started(self) -> str | None:
        """The placement group of this run that has its place while nothing is heard from it."""
        mine = ray.get_runtime_context().get_job_id()
        for name, row in _placement_groups().items():
            if name.endswith(mine) and row["state"] == "CREATED":
                return name
        return None

    def _nodes_of(self, group: str) -> str:
        ids = set(_placement_groups()[group]["bundles_to_node_id"].values())
        return ", ".join(name_of(node) for node in ray.nodes() if node["NodeID"] in ids)


def _placement_groups() -> dict[str, Any]:
    table: dict[str, Any] = ray.util.placement_group_table()
    return table


def _end_process(culprit: Heard) -> None:
    """Kill a rank's process by a task on its node: Ray's own way asks the process, which does not answer."""
    beat = culprit.beat
    there = NodeAffinitySchedulingStrategy(beat.node_id, soft=False)
    ray.remote(num_cpus=0, max_retries=0)(_kill).options(scheduling_strategy=there).remote(beat.pid, beat.born)


def _kill(pid: int, born: float) -> None:
    """End the process, if it is still the one that was meant."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - born) < 1.0 and process.pid != os.getpid():
            process.kill()
    except psutil.NoSuchProcess:
        return
