"""Whether nodes can hold the workers: each node by itself."""

from types import SimpleNamespace

import pytest

from gan_core.overrides import validate
from pipelines import agreement, machines
from pipelines.config import JobConfig
from pipelines.overseer import Overseer
from pipelines.plan import check
from tests.pipelines.test_vigil import heard
from tests.support import tiny_tree


def nodes(*cpus):
    return [{"CPU": float(amount)} for amount in cpus]


@pytest.mark.parametrize(
    ("cpus", "each", "count", "placement", "fit"),
    [
        ((2, 2, 2, 2), 4.0, 2, "pack", False),  # the sum would do
        ((8,), 4.0, 2, "pack", True),
        ((4, 4), 4.0, 2, "spread", True),
        ((8, 1), 4.0, 2, "spread", True),
        ((4, 4), 4.0, 2, "strict_pack", False),
        ((8, 1), 4.0, 2, "strict_pack", True),
        ((8, 1), 4.0, 2, "strict_spread", False),
        ((4, 5), 4.0, 2, "strict_spread", True),
        ((1,), 0.2, 5, "pack", True),
        ((1,), 0.2, 6, "pack", False),
        ((), 1.0, 1, "pack", False),
    ],
)
def test_workers_are_placed_on_nodes_and_not_on_a_sum(cpus, each, count, placement, fit):
    assert machines.fits(nodes(*cpus), {"CPU": each}, count, placement) is fit


@pytest.mark.parametrize(("cpus", "fit"), [((2, 1), True), ((2,), False), ((3,), True), ((2, 0.5), False)])
def test_the_evaluation_needs_a_place_beside_the_workers(cpus, fit):
    assert machines.fit_beside(nodes(*cpus), {"CPU": 1.0}, 2, "pack", {"CPU": 1.0, "GPU": 0.0}) is fit


def config(**overrides):
    return validate(tiny_tree(**overrides), JobConfig)


def given(monkeypatch, *cpus):
    rows = [
        {"Alive": True, "NodeID": f"{index}" * 12, "NodeManagerAddress": f"10.0.0.{index}", "Resources": {"CPU": float(amount)}}
        for index, amount in enumerate(cpus)
    ]
    monkeypatch.setattr(machines.ray, "nodes", lambda: [*rows, {**rows[0], "Alive": False}])
    monkeypatch.setattr(machines.ray, "cluster_resources", lambda: {"CPU": float(sum(cpus))})
    monkeypatch.setattr(machines, "_grows", lambda: False)


def test_what_no_node_can_hold_is_refused_with_what_each_has(monkeypatch):
    given(monkeypatch, 2, 2)
    with pytest.raises(ValueError) as refusal:
        machines.require_room(config(ray__num_workers=2, ray__cpus_per_worker=4))
    assert str(refusal.value) == (
        "ray.num_workers: 2 workers of 4 CPU each do not fit; node 10.0.0.0 (00000000) has 2 CPU, node 10.0.0.1 (11111111) has 2 CPU. "
        "Lower ray.num_workers or ray.cpus_per_worker, or add machines"
    )
    with pytest.raises(
        ValueError, match=r"3 workers of 1 CPU each \(strict spread\) do not fit.* choose ray.placement=pack, or add machines"
    ):
        machines.require_room(config(ray__num_workers=3, ray__placement="strict_spread"))
    machines.require_room(config(ray__num_workers=3, ray__placement="spread"))


def test_an_elastic_run_needs_room_for_its_fewest_workers_only(monkeypatch):
    given(monkeypatch, 1, 1)
    machines.require_room(config(ray__num_workers=4, ray__min_workers=2))
    with pytest.raises(ValueError, match=r"3 to 4 workers of 1 CPU each do not fit.* Lower ray.min_workers or"):
        machines.require_room(config(ray__num_workers=4, ray__min_workers=3))


@pytest.mark.parametrize("kind", ["pack", "spread"])
def test_an_elastic_run_is_not_placed_strictly(kind):
    """Ray counts free CPUs without asking where they are, asks for so many places, and waits for them until the time is up."""
    assert config(ray__num_workers=4, ray__min_workers=2, ray__placement=kind).ray.fewest_workers == 2
    with pytest.raises(ValueError, match=f"ray.min_workers: does not go with ray.placement=strict_{kind}, .* choose {kind}, or leave"):
        config(ray__num_workers=4, ray__min_workers=2, ray__placement=f"strict_{kind}")


def test_sizes_that_the_batch_cannot_be_divided_by_are_named(tmp_path):
    elastic = {"ray__num_workers": 6, "ray__min_workers": 2, "ray__storage_path": str(tmp_path)}
    with pytest.raises(ValueError, match=r"ray.min_workers: of 2 to 6 workers, 3, 5, 6 cannot share the batch of 32 equally"):
        check(config(batch_size=32, **elastic), local=False)
    with pytest.raises(ValueError, match=r"ray.min_workers: given 3, which is more than ray.num_workers, 2"):
        config(ray__num_workers=2, ray__min_workers=3)


def test_nodes_that_differ_are_named_with_both_values():
    mine = {"torch": "2.11", "raygan": "one", agreement.DATA: "abc"}
    assert agreement.differences(mine, {"node a": {"torch": "2.11"}, "node b": mine}) == ""
    said = agreement.differences(mine, {"node a": {**mine, "torch": "2.10"}, "node b": {**mine, "raygan": "two"}})
    assert "node a has torch 2.10, the driver has 2.11; node b has raygan two, the driver has one" in said


def test_this_process_knows_its_own_software():
    import torch

    facts = agreement.facts()
    assert facts["torch"] == torch.__version__.partition("+")[0] or facts["torch"] == torch.__version__
    assert agreement.differences(facts, {"here": agreement.facts()}) == ""


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def watch(monkeypatch):
    """An overseer with patience for 40 s of stillness and 100 s without machines; what it says, notes and ends; and the clock."""
    from pipelines import overseer

    clock, groups = Clock(), {"group": {"state": "CREATED"}}
    monkeypatch.setattr(overseer, "time", clock)
    monkeypatch.setattr(overseer, "_placement_groups", lambda: groups)
    monkeypatch.setattr(overseer.ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "01"))
    given(monkeypatch, 1)
    ended, said, noted = [], [], []
    monkeypatch.setattr(overseer, "_end_process", lambda culprit: ended.append(culprit.beat.rank))
    asked = config(ray__num_workers=2, ray__stall_timeout_seconds=40, ray__machines_timeout_seconds=100)
    seer = Overseer(asked, {"CPU": 1.0}, said.append, lambda *note: noted.append(note), alone=True)

    def look(ranks, after):
        clock.now += after
        seer.look(ranks)

    return SimpleNamespace(look=look, seer=seer, ended=ended, said=said, noted=noted, groups=groups)


def test_a_rank_that_stands_still_is_told_ended_once_and_given_up(watch):
    ranks = lambda still: [heard(0, still=still, waits=True), heard(1, still=still)]  # noqa: E731
    watch.look(ranks(0.5), 2)
    assert (watch.said, watch.ended, watch.seer.gathering) == ([], [], False)
    watch.look(ranks(12.0), 2)
    watch.look(ranks(14.0), 2)
    assert len(watch.said) == len(watch.noted) == 1
    assert "no progress for 12 s: rank 1 (node 10.0.0.1, process 71) stands still" in watch.said[0]
    watch.look(ranks(39.7), 2)
    watch.look(ranks(42.0), 2)
    watch.look(ranks(85.0), 43)  # the group is being taken down, by a busy machine
    assert watch.ended == [1]
    with pytest.raises(RuntimeError, match="no worker could be ended: rank 1"):
        watch.look(ranks(103.0), 18)


LIMIT = "and those for lost workers may be 3 (ray.max_failures)"


def test_every_new_group_is_told_of_counted_and_kept(watch):
    watch.groups |= {name: {"state": "CREATED"} for name in ("second", "third", "fourth", "fifth")}
    watch.look([heard(0)], 2)  # the other one has not said anything yet
    watch.look([heard(0, group="second"), heard(1, group="second")], 2)
    watch.look([heard(0, group="third", ranks=1)], 2)
    watch.look([heard(0, group="third", ranks=1, still=30.0)], 2)
    watch.look([heard(0, group="fourth", ranks=1)], 2)
    watch.look([heard(0, group="fifth")], 2)
    lost, fewer, stall, same, more = watch.said
    assert lost == f"a new group of 2 workers, because workers were lost, or asked for it; restart 1, {LIMIT}"
    assert fewer == f"a new group of 1 worker instead of 2, because workers were lost, or asked for it; restart 2, {LIMIT}"
    assert stall.startswith("no progress for 30 s: rank 0 (node 10.0.0.0, process 70) stands still")
    assert same.startswith("a new group of 1 worker, because rank 0 (node 10.0.0.0, process 70) stands still")
    assert same.endswith(f"; restart 3, {LIMIT}")
    assert more == f"a new group of 2 workers instead of 1; restart 4, {LIMIT}"
    restarts = [sentence for tag, sentence in watch.noted if tag == "raygan.restarts"]
    assert restarts == [f"restart {index + 1}: {said.partition(';')[0]}" for index, said in enumerate((lost, fewer, same, more))]
    assert [sentence for tag, sentence in watch.noted if tag == "raygan.stalls"] == [stall.partition(": ")[2]] * 2


def test_a_group_that_was_not_heard_for_a_while_is_no_new_one(watch):
    watch.look([heard(0), heard(1)], 2)
    watch.look([], 2)
    assert watch.seer.gathering
    watch.look([heard(0), heard(1)], 2)
    assert (watch.seer.gathering, watch.said, watch.noted) == (False, [], [])


def test_a_stall_that_has_passed_is_not_what_a_later_group_begins_for(watch):
    watch.groups["second"] = {"state": "CREATED"}
    watch.look([heard(0, still=20.0), heard(1, still=20.0)], 2)
    watch.look([heard(0), heard(1)], 2)
    assert "rank 0" in watch.seer.trouble  # they may move for the last time
    watch.look([heard(0), heard(1)], 61)
    assert watch.seer.trouble == ""
    watch.look([heard(0, group="second"), heard(1, group="second")], 2)
    assert watch.said[-1] == f"a new group of 2 workers, because workers were lost, or asked for it; restart 1, {LIMIT}"


def test_a_second_stall_of_one_group_has_its_own_ending(watch):
    ranks = lambda still: [heard(0, still=still, waits=True), heard(1, still=still)]  # noqa: E731
    watch.look(ranks(42.0), 2)
    assert watch.ended == [1]
    watch.look(ranks(0.0), 2)
    watch.look(ranks(42.0), 300)
    assert watch.ended == [1, 1]
    with pytest.raises(RuntimeError, match="no worker could be ended"):
        watch.look(ranks(105.0), 63)


def test_machines_that_do_not_come_are_waited_for_and_told_each_minute(watch):
    watch.look([], 30)
    assert watch.said == []
    watch.look([], 31)
    watch.look([], 10)
    assert watch.said == ["waiting for machines for 61 s, at most 100: 2 workers of 1 CPU each; node 10.0.0.0 (00000000) has 1 CPU"]
    with pytest.raises(RuntimeError, match="no machines for 2 workers of 1 CPU each within ray.machines_timeout_seconds, 100"):
        watch.look([], 30)


def test_a_group_that_lost_its_place_is_not_silent_but_gone(watch):
    watch.look([heard(0), heard(1)], 2)
    watch.groups["group"]["state"] = "RESCHEDULING"
    watch.look([heard(0, age=20.0), heard(1, age=20.0)], 20)
    assert watch.seer.gathering
    watch.look([heard(0, age=80.0), heard(1, age=80.0)], 61)
    assert watch.ended == []
    assert "waiting for machines" in watch.said[-1]


def test_workers_that_never_begin_are_a_named_failure(watch, monkeypatch):
    from pipelines import overseer

    monkeypatch.setattr(overseer.Overseer, "_nodes_of", lambda self, group: "node 10.0.0.9")
    watch.groups["new01"] = {"state": "CREATED"}
    watch.look([], 5)
    watch.look([], 115)
    with pytest.raises(RuntimeError, match=r"the workers were placed 12\d s ago on node 10.0.0.9 and have not begun within 120 s"):
        watch.look([], 10)


def test_workers_that_fail_while_they_start_are_given_up(watch):
    for attempt in range(5):
        watch.groups[f"{attempt}01"] = {"state": "CREATED"}
        watch.look([], 2)
        watch.groups[f"{attempt}01"]["state"] = "REMOVED"
    watch.groups["another01"] = {"state": "CREATED"}
    with pytest.raises(RuntimeError, match="failed 5 times while they started"):
        watch.look([], 2)
