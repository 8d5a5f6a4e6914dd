"""A run that is stopped anywhere between its reports, and goes on: the same points, the same bits."""

import copy
import itertools

import pytest
import torch

from gan_core import Trainer
from gan_core.wishes import Lookout, Wish
from tests.gan_core.test_trainer import same
from tests.support import tiny_config, tiny_trainer

TIMES = ("progress/device_seconds", "progress/images_per_second", "progress/diagnostics_share")
GAMES = {
    "3:2, dropout": {"step_ratio": "3:2", "network__discriminator__dropout": 0.5},
    "steered ratio": {
        "batch_size": 12,
        "step_ratio_schedule__advantage_low": 0.2,
        "step_ratio_schedule__advantage_high": 0.4,
        "step_ratio_schedule__adjust_kimg": 0.06,
    },
    "ada, lazy penalties": {
        "augment__name": "ada",
        "augment__full_kimg": 0.1,
        "regularizers__r1_gamma": 1.0,
        "regularizers__r1_interval": 3,
        "regularizers__gp_lambda": 1.0,
        "regularizers__gp_interval": 2,
        "regularizers__lecam_lambda": 0.3,
    },
}


def options(name):
    when = {"total_kimg": 0.48, "schedule__report_kimg": 0.16, "schedule__evaluate_kimg": 0.32, "schedule__checkpoint_kimg": 0.32}
    return {**when, "schedule__sample_kimg": 0.48, **GAMES[name]}


def points(reports):
    return {report.images_seen: {k: v for k, v in report.metrics.items() if k not in TIMES} for report in reports if not report.interim}


def interrupted(make, rounds):
    """Stop after so many rounds each time, and go on in a new trainer; what was reported, the moments of saving, and the last trainer."""
    trainer, reports, saved = make(), [], []
    state = None

    def receive(report):
        nonlocal state
        reports.append(report)
        if report.state is not None:
            state = copy.deepcopy(report.state())
        if report.interim:
            saved.append(report.images_seen)

    while not trainer.done:
        trainer.run(receive, wish=every(trainer, next(rounds)))
        if trainer.stopped:
            trainer = make()
            trainer.load_state_dict(state)
    return reports, saved, trainer


def every(trainer, rounds):
    """A wish to stop after so many rounds."""
    count, step = [0], trainer._round

    def counted():
        step()
        count[0] += 1

    trainer._round = counted
    return lambda: Wish.STOP if count[0] >= rounds else Wish.NONE


@pytest.fixture
def looks_always(monkeypatch):
    monkeypatch.setattr("gan_core.wishes.LOOK_SECONDS", 0.0)


@pytest.mark.parametrize("name", GAMES)
def test_a_run_that_was_stopped_anywhere_has_the_points_and_bits_of_one_that_was_not(name, looks_always):
    whole, undisturbed = tiny_trainer(**options(name)), []
    whole.run(undisturbed.append)
    reports, saved, trainer = interrupted(lambda: tiny_trainer(**options(name)), itertools.cycle([1, 3, 4]))
    assert len(saved) > 2
    assert points(reports) == points(undisturbed)
    assert same(trainer.state_dict() | {"window_seconds": 0}, whole.state_dict() | {"window_seconds": 0})


def test_a_wish_for_a_checkpoint_saves_and_trains_on(looks_always):
    wishes = iter([Wish.CHECKPOINT])
    trainer, reports = tiny_trainer(schedule__report_kimg=0.08), []
    trainer.run(reports.append, wish=lambda: next(wishes, Wish.NONE))
    assert [(report.images_seen, report.interim) for report in reports if report.state] == [(16, True), (160, False)]
    assert reports[1].metrics == {}
    assert reports[1].picture is None
    assert not trainer.stopped


def test_a_wish_at_a_scheduled_checkpoint_makes_no_second_one(looks_always):
    trainer, reports = tiny_trainer(total_kimg=0.32), []
    trainer.run(reports.append, wish=lambda: Wish.STOP if trainer.images_seen == 160 else Wish.NONE)
    assert [(report.images_seen, report.interim) for report in reports if report.state] == [(160, False)]
    assert (trainer.stopped, trainer.images_seen) == (True, 160)


def test_a_run_asked_to_stop_from_the_start_stops_after_a_round_with_a_checkpoint():
    trainer, reports = tiny_trainer(), []
    trainer.run(reports.append, wish=lambda: Wish.STOP)
    assert (trainer.stopped, trainer.images_seen) == (True, 16)
    assert [(report.images_seen, report.state is not None) for report in reports] == [(0, False), (16, True)]


def test_a_run_that_is_done_is_not_stopped():
    trainer = tiny_trainer()
    trainer.run(lambda report: None, wish=lambda: Wish.STOP if trainer.done else Wish.NONE)
    assert (trainer.stopped, trainer.done) == (False, True)


def test_a_stopped_run_that_is_given_a_smaller_budget_still_reports_its_end(looks_always):
    trainer, states = tiny_trainer(total_kimg=0.32), []
    trainer.run(lambda report: report.interim and states.append(report.state()), wish=every(trainer, 5))
    again, reports = Trainer(tiny_config(total_kimg=0.048), device="cpu"), []
    again.load_state_dict(states[0])
    again.run(reports.append)
    assert [(report.images_seen, report.done) for report in reports] == [(80, True)]


def test_looks_lie_about_two_seconds_apart(monkeypatch):
    now, looks = [0.0], []
    monkeypatch.setattr("gan_core.wishes.time.perf_counter", lambda: now[0])
    lookout = Lookout(lambda: looks.append(now[0]) or Wish.NONE, torch.device("cpu"))
    for _ in range(1000):
        now[0] += 0.05
        lookout.after_round()
    gaps = [later - sooner for sooner, later in itertools.pairwise(looks)]
    assert 24 <= len(looks) <= 26
    assert all(1.9 < gap < 2.1 for gap in gaps)
