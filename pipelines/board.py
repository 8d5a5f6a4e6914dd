"""What the driver and its workers tell each other while a run goes on: an actor beside the driver, which outlives every worker group."""

import time
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines import yielding
from pipelines.agreement import Facts, differences
from pipelines.cluster import started_here
from pipelines.pulse import Beat, Shown
from pipelines.rank import Question

Said = Shown | Question | str


class Heard(NamedTuple):
    """A rank's last beat, and how many seconds ago it came."""

    beat: Beat
    age_seconds: float


class Taken(NamedTuple):
    """What the board has for the driver: what was said since the last time, the ranks of the newest worker group, and why a rank was
    refused.
    """

    said: list[Said]
    heard: list[Heard]
    refusal: str


@ray.remote(num_cpus=0, max_restarts=-1)
class _Board:
    """Holds what the driver has not shown yet, its answers to questions, and its wish; `facts` are the driver's. Ray may start it anew,
    with these alone: ranks and driver then say again what it must know. It `yields` to the ranks.
    """

    def __init__(self, facts: Facts, yields: bool) -> None:
        if yields:
            yielding.begin()
        self._facts = facts
        self._said: list[Said] = []
        self._answers: dict[int, bool] = {}
        self._answer_to_all: bool | None = None
        self._wish = 0
        self._group = ""
        self._replaced: set[str] = set()
        self._beats: dict[int, tuple[Beat, float]] = {}
        self._refusal = ""

    def put(self, said: Said) -> None:
        self._said.append(said)

    def take(self) -> Taken:
        said, self._said = self._said, []
        now = time.monotonic()
        return Taken(said, [Heard(beat, now - at) for _, (beat, at) in sorted(self._beats.items())], self._refusal)

    def beat(self, beat: Beat, shown: list[Shown]) -> int:
        """Note how a rank is, and what it has reported; returns what the driver wants of it."""
        self._said.extend(shown)
        if beat.group in self._replaced:
            return self._wish  # a straggler
        if beat.group != self._group:
            self._replaced.add(self._group)
            self._group, self._beats = beat.group, {}
        self._beats[beat.rank] = (beat, time.monotonic())
        return self._wish

    def attest(self, where: str, facts: Facts) -> str:
        """What a rank's software and data are; returns how they differ from the driver's, and keeps the first such sentence for it."""
        sentence = differences(self._facts, {where: facts})
        self._refusal = self._refusal or sentence
        return sentence

    def want(self, wish: int) -> None:
        """What every rank is told from now on, a Wish; a plain number, because this process does without PyTorch."""
        self._wish = wish

    def reply(self, images_seen: int | None, may_go_on: bool) -> None:
        """Answer the question at `images_seen`; None is every question from now on."""
        if images_seen is None:
            self._answer_to_all = may_go_on
        else:
            self._answers[images_seen] = may_go_on

    def answer(self, images_seen: int) -> bool | None:
        """What `reply` said, None while it has not."""
        return self._answers.get(images_seen) if self._answer_to_all is None else self._answer_to_all


def new(facts: Facts) -> Any:
    """A board on the driver's node, which yields to the ranks where the cluster is ours."""
    beside_the_driver = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return _Board.options(scheduling_strategy=beside_the_driver).remote(facts, started_here())  # type: ignore[attr-defined]
