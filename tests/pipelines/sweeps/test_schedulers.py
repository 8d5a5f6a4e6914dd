"""When a sweep's schedulers stop a trial, with trials that are only names and scores."""

from types import SimpleNamespace

import pytest
from ray.tune.experiment.trial import Trial
from ray.tune.schedulers import TrialScheduler

from gan_core.overrides import merge, validate
from pipelines.sweeps import schedulers
from pipelines.sweeps import space as spaces
from pipelines.sweeps.config import SweepJobConfig
from pipelines.sweeps.schedulers import CLOCK, GOODNESS, NO_PAST, Past
from tests.support import tiny_tree

GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


class Named:
    """A trial as a scheduler sees it."""

    def __init__(self, number, **point):
        self.trial_id, self.config = f"t{number}", {"trial": {"number": number, "point": point}}


def result(clock, goodness):
    return {CLOCK: clock, GOODNESS: goodness}


def build(past=NO_PAST, **sweep):
    overrides = {"total_kimg": 9, "schedule.evaluate_kimg": 1, **{f"sweep.{key}": value for key, value in sweep.items()}}
    config = validate(merge(tiny_tree(), overrides), SweepJobConfig)
    space = spaces.compose("loss_x_ratio+optimizer", resolution=8, batch_size=16)
    return schedulers.build(config, space, past)


def play(scheduler, trials, clock, values):
    return [scheduler.on_trial_result(None, trial, result(clock, value)) for trial, value in zip(trials, values, strict=True)]


def added(scheduler, *trials):
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    return trials


def test_asha_keeps_the_best_third_at_each_rung():
    scheduler = build(scheduler="asha", grace_kimg=1)
    trials = added(scheduler, *(Named(number) for number in range(6)))
    assert play(scheduler, trials, 1.0, [0.5, 0.6, 0.1, 0.2, 0.7, 0.55]) == [GO, GO, STOP, STOP, GO, STOP]
    survivors = [trials[0], trials[1], trials[4]]
    assert play(scheduler, survivors, 2.0, [0.5, 0.6, 0.1]) == [GO, GO, GO]  # no rung here
    assert play(scheduler, survivors, 3.0, [0.6, 0.5, 0.9]) == [GO, STOP, GO]


def test_without_a_family_a_slow_kind_of_game_is_stopped_and_within_it_it_is_not():
    values = [0.8, 0.9, 0.2, 0.3]
    losses = ["hinge", "hinge", "wasserstein", "wasserstein"]
    for within, expected in ((None, [GO, GO, STOP, STOP]), ("loss.name", [GO, GO, GO, GO])):
        scheduler = build(scheduler="asha", grace_kimg=1, rank_within=within)
        trials = added(scheduler, *(Named(number, **{"loss.name": loss}) for number, loss in enumerate(losses)))
        assert play(scheduler, trials, 1.0, values) == expected


def test_after_the_first_rungs_all_families_compete():
    scheduler = build(scheduler="asha", grace_kimg=1, rank_within="loss.name", rank_within_kimg=3)
    hinge, slow = added(scheduler, Named(0, **{"loss.name": "hinge"}), Named(1, **{"loss.name": "wasserstein"}))
    assert play(scheduler, [hinge, slow], 1.0, [0.9, 0.1]) == [GO, GO]
    assert play(scheduler, [hinge, slow], 2.0, [0.9, 0.1]) == [GO, GO]
    assert play(scheduler, [hinge, slow], 3.0, [0.9, 0.1]) == [GO, STOP]


def test_the_median_rule_stops_what_is_below_the_others_after_its_grace():
    scheduler = build(scheduler="median", grace_kimg=2)
    trials = added(scheduler, *(Named(number) for number in range(4)))
    assert play(scheduler, trials, 1.0, [0.5, 0.6, 0.7, 0.0]) == [GO] * 4
    assert play(scheduler, trials, 2.0, [0.5, 0.6, 0.7, 0.1]) == [GO, GO, GO, STOP]


def test_a_resumed_sweep_decides_as_one_that_was_never_interrupted():
    """Three trials ended and one was half-way; a new one meets the rung that all of them left behind."""
    results = {number: [result(1.0, value)] for number, value in enumerate([0.5, 0.6, 0.7])}
    past = Past(results | {3: [result(1.0, 0.65)]}, {number: {} for number in range(3)})
    resumed = build(past, scheduler="asha", grace_kimg=1)
    half_way, new = added(resumed, Named(3), Named(4))
    assert resumed.on_trial_result(None, half_way, result(2.0, 0.65)) == GO
    assert resumed.on_trial_result(None, new, result(1.0, 0.64)) == STOP
    fresh = build(scheduler="asha", grace_kimg=1)
    (alone,) = added(fresh, Named(4))
    assert fresh.on_trial_result(None, alone, result(1.0, 0.64)) == GO


def test_a_trial_that_was_to_be_stopped_when_the_driver_died_is_stopped_at_its_next_result():
    results = {number: [result(1.0, value)] for number, value in enumerate([0.5, 0.6, 0.7])} | {3: [result(1.0, 0.1)]}
    scheduler = build(Past(results, {number: {} for number in range(3)}), scheduler="asha", grace_kimg=1)
    (doomed,) = added(scheduler, Named(3))
    assert scheduler.on_trial_result(None, doomed, result(2.0, 0.9)) == STOP


def test_what_a_trial_was_let_pass_before_does_not_stop_it_afterwards():
    """It reported again after its first rung, so it was let go on there: the others came later."""
    results = {number: [result(1.0, value)] for number, value in enumerate([0.5, 0.6, 0.7])}
    results[3] = [result(1.0, 0.1), result(2.0, 0.9)]
    scheduler = build(Past(results, {number: {} for number in range(3)}), scheduler="asha", grace_kimg=1)
    (trial,) = added(scheduler, Named(3))
    assert scheduler.on_trial_result(None, trial, result(3.0, 0.9)) == GO


def test_the_median_rule_remembers_too_and_takes_no_offence_at_what_it_would_have_stopped():
    results = {number: [result(float(clock), value) for clock in (1, 2, 3)] for number, value in enumerate([0.5, 0.6, 0.7])}
    results[3] = [result(2.0, 0.1), result(3.0, 0.9)]
    scheduler = build(Past(results, {number: {} for number in range(3)}), scheduler="median", grace_kimg=2)
    better, new = added(scheduler, Named(3), Named(4))
    assert scheduler.on_trial_result(None, better, result(4.0, 0.9)) == GO
    assert scheduler.on_trial_result(None, new, result(2.0, 0.1)) == STOP


def test_rungs_that_binary_fractions_miss_are_met():
    """3 * 0.8 is 2.4000000000000004, and a trial reports 2.4."""
    overrides = {"total_kimg": 7.2, "schedule.evaluate_kimg": 0.8, "sweep.grace_kimg": 0.8}
    scheduler = schedulers.build(validate(merge(tiny_tree(), overrides), SweepJobConfig), {}, NO_PAST)
    left, right = added(scheduler, Named(0), Named(1))
    assert play(scheduler, [left, right], 0.8, [0.5, 0.5]) == [GO, GO]
    assert play(scheduler, [left, right], 2.4, [0.9, 0.1]) == [GO, STOP]


class Member:
    """A trial of a population, with as much of Tune's bookkeeping as PBT reads."""

    def __init__(self, number, rate):
        self.trial_id, self.status, self.checkpoint = f"m{number}", Trial.PENDING, f"checkpoint of {number}"
        point = {"loss.name": f"loss{number}", "step_ratio": "1:1", "optimizer.generator.lr": rate}
        self.config = {"trial": {"number": number, "point": point}}
        keep = SimpleNamespace(num_to_keep=None)
        self.run_metadata = SimpleNamespace(checkpoint_manager=SimpleNamespace(checkpoint_config=keep))
        self.temporary_state = SimpleNamespace(saving_to=None)
        self.experiment_tag, self.evaluated_params = f"tag{number}", {}

    def is_finished(self):
        return self.status in (Trial.TERMINATED, Trial.ERROR)

    def set_experiment_tag(self, tag):
        self.experiment_tag = tag

    def set_config(self, config):
        self.config = config

    @property
    def number(self):
        return self.config["trial"]["number"]

    @property
    def point(self):
        return self.config["trial"]["point"]


class Controller:
    """Tune's controller, as far as PBT asks it."""

    search_alg = None

    def __init__(self, members):
        self.members = members

    def get_trials(self):
        return self.members

    def _schedule_trial_save(self, member, result=None):
        return member.checkpoint

    def pause_trial(self, member, should_checkpoint):
        member.status = Trial.PAUSED

    def get_live_trials(self):
        return [member for member in self.members if member.status != Trial.TERMINATED]


@pytest.fixture
def population():
    return a_population()


def a_population(past=NO_PAST):
    overrides = {"total_kimg": 9, "schedule.evaluate_kimg": 1, "sweep.scheduler": "pbt", "sweep.perturb_kimg": 3}
    config = validate(merge(tiny_tree(), overrides), SweepJobConfig)
    space = spaces.compose("loss_x_ratio+optimizer", resolution=8, batch_size=16)
    space = {key: space[key] for key in ("loss.name", "step_ratio", "optimizer.generator.lr")}
    scheduler = schedulers.build(config, space, past)
    members = [Member(number, 1e-3) for number in range(4)]
    controller = Controller(members)
    for member in members:
        scheduler.on_trial_add(controller, member)
    return scheduler, controller, members


def report(scheduler, controller, member, clock, goodness):
    """A result, after which PBT always wants the member paused."""
    member.status = Trial.RUNNING
    decision = scheduler.on_trial_result(controller, member, result(clock, goodness))
    if decision == TrialScheduler.PAUSE:
        member.status = Trial.PAUSED


def test_the_worst_quarter_goes_on_with_the_bests_loss_and_perturbed_numbers(population):
    scheduler, controller, members = population
    for member, goodness in zip(members, [0.1, 0.5, 0.6, 0.9], strict=True):
        report(scheduler, controller, member, 3.0, goodness)
    assert [member.number for member in members] == [0, 1, 2, 3]
    assert [member.point["loss.name"] for member in members] == ["loss3", "loss1", "loss2", "loss3"]
    assert members[0].run_metadata.checkpoint_manager._latest_checkpoint_result.checkpoint == "checkpoint of 3"
    assert 5e-5 <= members[0].point["optimizer.generator.lr"] <= 5e-3
    assert members[0].point["optimizer.generator.lr"] != 1e-3
    assert members[1].point["optimizer.generator.lr"] == members[3].point["optimizer.generator.lr"] == 1e-3


def test_a_member_that_crashes_and_is_tried_again_is_waited_for_and_copied(population):
    scheduler, controller, members = population
    for member, goodness in zip(members[:3], [0.1, 0.5, 0.6], strict=True):
        report(scheduler, controller, member, 3.0, goodness)
    scheduler.on_trial_error(controller, members[3])  # as Tune tells of a crash, before it adds the trial again
    scheduler.on_trial_add(controller, members[3])
    members[3].status = Trial.PENDING
    for clock in (6.0, 9.0):
        for member, goodness in zip(members, [0.1, 0.5, 0.6, 0.9], strict=True):
            report(scheduler, controller, member, clock, goodness)
        assert members[0].point["loss.name"] == "loss3"
        members[0].point["loss.name"] = "loss0"


def test_a_resumed_population_meets_where_it_was():
    """Two came to 6 and two to 3 of 9 before the driver died: those at 6 wait there for the others."""
    results = {number: [result(float(clock), 0.5) for clock in range(1, last + 1)] for number, last in enumerate([7, 6, 5, 3])}
    scheduler, controller, members = a_population(Past(results, {}, range(4)))
    assert [member.status for member in members] == [Trial.PAUSED, Trial.PAUSED, Trial.PENDING, Trial.PENDING]
    assert scheduler.choose_trial_to_run(controller) in members[2:]
    for member, goodness in zip(members[2:], [0.3, 0.8], strict=True):
        assert scheduler.on_trial_result(controller, member, result(5.0, 0.1)) == GO
        report(scheduler, controller, member, 6.0, goodness)
    assert members[2].point["loss.name"] == "loss3"  # the round that was due, among those who came to it
    for clock in (9.0,):
        for member in members:
            assert scheduler.choose_trial_to_run(controller) is not None
            report(scheduler, controller, member, clock, 0.5)


@pytest.mark.parametrize("how", ["error", "complete"])
def test_a_population_does_not_wait_for_a_trial_that_is_gone(population, how):
    """Ray's own synchronous PBT would wait for ever: nothing reports again."""
    scheduler, controller, members = population
    for member, goodness in zip(members[:3], [0.1, 0.5, 0.9], strict=True):
        report(scheduler, controller, member, 3.0, goodness)
    assert scheduler.choose_trial_to_run(controller) is members[3]  # all wait for the last one
    members[3].status = Trial.RUNNING
    if how == "error":
        scheduler.on_trial_error(controller, members[3])
        members[3].status = Trial.ERROR
    else:
        scheduler.on_trial_complete(controller, members[3], {})
        members[3].status = Trial.TERMINATED
    assert members[0].point["loss.name"] == "loss2"  # the round was played without it
    for clock in (6.0, 9.0):  # and so are the next ones
        for member, goodness in zip(members[:3], [0.1, 0.5, 0.9], strict=True):
            assert scheduler.choose_trial_to_run(controller) in members[:3]
            report(scheduler, controller, member, clock, goodness)
    assert scheduler.choose_trial_to_run(controller) in members[:3]
