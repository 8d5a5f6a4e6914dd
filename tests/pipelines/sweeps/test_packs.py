"""What the driver makes of what packs tell it, with processes that only pretend to train."""

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from gan_core.overrides import merge, validate
from pipelines.results import SPENT
from pipelines.sweeps import packs, schedulers
from pipelines.sweeps.config import SweepJobConfig
from pipelines.sweeps.ledger import Identity
from pipelines.sweeps.pack import BROKE, FAILED, LEFT, REPORTED, Event
from pipelines.sweeps.packing import Packing
from pipelines.sweeps.schedulers import CLOCK, GOODNESS
from pipelines.sweeps.trial import ENDED
from pipelines.sweeps.tuning import Batch, Slots
from tests.support import tiny_tree

CLOCKS = (1.0, 3.0, 9.0)


class Call:
    """A call of an actor's method."""

    def __init__(self, method):
        self.remote = method


class Process:
    """A pack's process: each member reports at CLOCKS from where it was, goes on if it is told to, and ends; `plots` says what happens to
    some of them instead at the report number so and so: `breaks`, `kills` the process, `fails` the pack, has Ray `lose` the process, which
    lives, or has its `begin` raise (`bars`), as often as it says.
    """

    def __init__(self, world):
        self.world, self.waiting, self.members, self.barred = world, set(), [], False
        self.begin, self.events, self.answer, self.go_on = map(Call, (self._begin, self._events, self._answer, self._go_on))

    def _begin(self, trials, alone):
        self.world.packs.append([trial["number"] for trial in trials])
        self.members = [trial["number"] for trial in trials]
        assert not [other for other in self.world.alive if other is not self and set(other.members) & set(self.members)]
        self.barred = any(self.world.happens(number, "bars") for number in self.members)
        return "begun"

    def _go_on(self, trial):
        self.members.append(trial["number"])

    def _events(self, begun=None):
        return self

    def _answer(self, number, *, go_on):
        self.waiting.discard(number)
        if go_on:
            self.world.reached[number] += 1
        else:
            self.world.stopped.add(number)

    def next_events(self):
        found = []
        if self.barred:
            raise RayTaskError("begin", "Traceback\nRuntimeError: barred", RuntimeError("barred"))
        for number in list(self.members):
            if number in self.waiting:
                continue
            at = self.world.reached[number]
            what = self.world.happens(number, "breaks", "kills", "fails", "lose")
            if number in self.world.stopped:
                found.append(Event(number, LEFT, {}))
                self.members.remove(number)
            elif what:
                if what == "kills":
                    self.world.alive.remove(self)
                    raise RayError("The process died")
                if what == "lose":
                    raise ActorUnavailableError("The process cannot be reached", None)
                found.append(Event(number, {"breaks": BROKE, "fails": FAILED}[what], {}, "Traceback\nRuntimeError: so"))
                self.members.remove(number)
            elif at == len(CLOCKS):
                found.append(Event(number, REPORTED, {ENDED: SPENT, CLOCK: CLOCKS[-1], GOODNESS: 0.0, "done": True}))
                found.append(Event(number, LEFT, {}))
                self.members.remove(number)
            else:
                self.world.seen.append((number, CLOCKS[at]))
                found.append(Event(number, REPORTED, {CLOCK: CLOCKS[at], GOODNESS: self.world.goodness(number), ENDED: ""}))
                self.waiting.add(number)
        return found


class World:
    """Stands in for Ray, and for the notary."""

    def __init__(self, plots, goodness):
        self.plots, self.goodness = dict(plots), goodness
        self.packs, self.seen, self.stopped, self.killed, self.ends, self.retried = [], [], set(), [], {}, []
        self.reached = dict.fromkeys(range(100), 0)
        self.most_at_once, self.made, self.alive = 0, [], []

    def happens(self, number, *kinds):
        """Which of these happens to a member now, and once less often later."""
        what, times = self.plots.get((number, self.reached[number]), ("", 0))
        if not times or what not in kinds:
            return ""
        self.plots[number, self.reached[number]] = (what, times - 1)
        return what

    def remote(self, kind):
        """An actor's class, as Ray makes it."""
        return SimpleNamespace(options=lambda **given: Call(self.make))

    def make(self, told):
        self.made.append(Process(self))
        self.alive.append(self.made[-1])
        return self.made[-1]

    def wait(self, calls, timeout):
        self.most_at_once = max(self.most_at_once, len(calls))
        return calls, []

    def get(self, process):
        return process.next_events()

    def kill(self, process):
        self.killed.append(process)
        if process in self.alive:
            self.alive.remove(process)

    def on_trial_complete(self, iteration, trials, trial):
        self.ends[trial.number] = trial.last_result.get(ENDED) or "stopped"

    def on_trial_error(self, iteration, trials, trial):
        self.ends[trial.number] = f"failed: {trial.get_error().splitlines()[-1]}"

    def on_trial_recover(self, iteration, trials, trial):
        self.retried.append(trial.number)

    def on_step_end(self, iteration, trials):
        """Nothing waits."""


@pytest.fixture
def conducted(monkeypatch):
    """Packs of these sizes, trained to the end in a made-up world."""

    def conducted(sizes, plots=(), *, scheduler="fifo", goodness=lambda number: 0.0, retries=3, at_once=2):
        world = World(plots, goodness)
        overrides = {"total_kimg": 9, "schedule.evaluate_kimg": 1, "sweep.scheduler": scheduler}
        overrides |= {"sweep.grace_kimg": 1} if scheduler == "asha" else {}
        config = validate(merge(tiny_tree(), overrides), SweepJobConfig)
        numbers = iter(range(100))
        parts = [[Identity(number, number, "screen", 0, {}) for _, number in zip(range(size), numbers)] for size in sizes]
        batch = Batch([], None, sum(sizes), schedulers.build(config, {}), retries)
        monkeypatch.setattr(packs, "ray", SimpleNamespace(remote=world.remote, wait=world.wait, get=world.get, kill=world.kill))
        conductor = packs.Conductor(batch, {}, Slots({"cpu": 1.0, "gpu": 0.0}, at_once, False), Packing(parts, {}), world)
        conductor.conduct()
        world.replaced = list(world.killed)
        conductor.stop()
        assert sorted(map(id, world.killed)) == sorted(map(id, world.made))  # each once
        return world

    return conducted


def test_all_packs_are_trained_to_their_ends_at_most_so_many_at_once(conducted):
    world = conducted([3, 2, 2])
    assert world.ends == dict.fromkeys(range(7), SPENT)
    assert sorted(world.packs) == [[0, 1, 2], [3, 4], [5, 6]]
    assert world.most_at_once == 2
    assert sorted(world.seen) == [(number, clock) for number in range(7) for clock in CLOCKS]


def test_asha_stops_members_across_packs_by_the_rule_of_other_sweeps(conducted):
    """Each that comes to a rung is measured against all before it, of any pack: as the scheduler alone says of the same results."""
    values = [0.5, 0.6, 0.1, 0.2, 0.7, 0.55]
    world = conducted([3, 3], scheduler="asha", goodness=values.__getitem__)
    config = validate(merge(tiny_tree(), {"total_kimg": 9, "schedule.evaluate_kimg": 1, "sweep.grace_kimg": 1}), SweepJobConfig)
    rule, stopped = schedulers.build(config, {}), set()
    members = [packs.Member(Identity(number, number, "screen", 0, {})) for number in range(6)]
    for member in members:
        rule.on_trial_add(None, member)
    for number, clock in world.seen:
        if rule.on_trial_result(None, members[number], {CLOCK: clock, GOODNESS: values[number]}) == "STOP":
            stopped.add(number)
    assert world.stopped == stopped
    assert {2, 3} <= stopped < set(range(6))
    assert world.ends == {number: "stopped" if number in stopped else SPENT for number in range(6)}


def test_a_member_that_breaks_begins_again_in_its_pack_as_often_as_it_may(conducted):
    world = conducted([3], {(1, 1): ("breaks", 2)})
    assert world.ends == dict.fromkeys(range(3), SPENT)
    assert world.retried == [1, 1]
    assert world.packs == [[0, 1, 2]]
    given_up = conducted([3], {(1, 1): ("breaks", 9)}, retries=2)
    assert given_up.ends == {0: SPENT, 1: "failed: RuntimeError: so", 2: SPENT}
    assert given_up.retried == [1, 1]


@pytest.mark.parametrize("how", ["kills", "fails", "lose"])
def test_where_a_process_dies_its_members_go_on_in_two_packs_of_half_the_size(conducted, how):
    world = conducted([4], {(2, 1): (how, 1)})
    assert world.ends == dict.fromkeys(range(4), SPENT)
    assert world.packs == [[0, 1, 2, 3], [0, 1], [2, 3]]
    assert world.replaced == world.made[:1]  # it holds no place, and writes no run, whether Ray knows that it is dead or not


def test_a_process_whose_pack_cannot_begin_gives_its_place_to_others(conducted):
    world = conducted([2, 2], {(1, 0): ("bars", 1)}, at_once=1)
    assert world.ends == dict.fromkeys(range(4), SPENT)
    assert world.packs == [[0, 1], [0], [1], [2, 3]]
    assert world.replaced == world.made[:1]
    assert len(world.made) == 2
    assert sorted(world.retried) == [0, 1]


@pytest.mark.parametrize("broken_first", [True, False])
def test_one_that_breaks_as_its_pack_fails_is_counted_once(conducted, broken_first):
    kinds = ("breaks", "fails") if broken_first else ("fails", "breaks")
    world = conducted([3], {(0, 1): (kinds[0], 1), (1, 1): (kinds[1], 1)}, retries=1)
    assert world.ends == dict.fromkeys(range(3), SPENT)
    assert sorted(world.retried) == [0, 1, 2]
    assert world.packs == [[0, 1, 2], [0], [1], [2]]


def test_a_member_that_always_kills_its_process_ends_alone_and_the_others_go_on(conducted):
    world = conducted([4], {(2, 1): ("kills", 9)}, retries=3)
    assert world.ends == {0: SPENT, 1: SPENT, 2: "failed: The process died", 3: SPENT}
    assert world.packs == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [2], [3]]


def test_the_last_time_that_members_may_go_on_they_do_so_alone(conducted):
    """As many as a pack has of them, what only happens to packs costs no trial."""
    world = conducted([8], {(5, 1): ("kills", 2)}, retries=2)
    assert world.ends == dict.fromkeys(range(8), SPENT)
    assert world.packs == [[*range(8)], [0, 1, 2, 3], [4, 5, 6, 7], [4], [5], [6], [7]]


def test_a_member_that_was_told_to_stop_is_not_tried_again(conducted):
    """The process dies while it leaves: it has ended all the same."""
    world = conducted([2], {(0, 0): ("", 0)}, scheduler="asha", goodness=[0.9, 0.1].__getitem__)
    assert world.ends == {0: SPENT, 1: "stopped"}
    process = Process(world)
    process.members = [1]
    conductor = packs.Conductor(
        Batch([], None, 1, schedulers.FIFOScheduler(), 0), {}, Slots({}, 1, False), Packing([[Identity(1, 1, "screen", 0, {})]], {}), world
    )
    (member,) = conductor._all
    running = packs.Running(process)
    running.members, member.stopped, member.last_result = {1: member}, True, {CLOCK: 1.0}
    world.ends.clear()
    conductor._waiting.clear()
    conductor._processes.append(process)
    conductor._replace(running, "The process died")
    assert world.ends == {1: "stopped"}
    assert not conductor._waiting


def test_those_that_come_later_use_the_processes_that_are_there(conducted, monkeypatch):
    made = []
    before = packs.Conductor._start
    monkeypatch.setattr(
        packs.Conductor, "_start", lambda conductor, members: (made.append(len(conductor._idle)), before(conductor, members))
    )
    conducted([2, 2, 2], at_once=1)
    assert made == [0, 1, 1]
