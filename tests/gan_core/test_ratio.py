import copy

import pytest
import torch

from gan_core.ratio import Band, RatioSchedule, StepRatio, Warmup
from tests.gan_core.test_config import error_of
from tests.support import tiny_trainer, tiny_tree

BAND = ("step_ratio_schedule.advantage_low=0.1", "step_ratio_schedule.advantage_high=0.4")


def stats(accuracy_real, accuracy_fake):
    return {"d/accuracy_real": torch.tensor(accuracy_real), "d/accuracy_fake": torch.tensor(accuracy_fake)}


def steered(ratio="1:1", lowest=-3, highest=7):
    return RatioSchedule(StepRatio.parse(ratio), band=Band(0.2, 0.6, 100.0, lowest, highest))


@pytest.mark.parametrize("rung", range(-5, 6))
def test_rungs_of_the_ladder_and_ratios_are_inverse(rung):
    assert StepRatio.of_rung(rung).rung == rung


def test_the_ladder_goes_from_the_generator_to_the_discriminator():
    assert [StepRatio.of_rung(rung) for rung in (-2, -1, 0, 1, 2)] == [(1, 3), (1, 2), (1, 1), (2, 1), (3, 1)]
    assert StepRatio(3, 2).rung is None


def test_the_warmup_ratio_holds_until_its_images_are_seen():
    schedule = RatioSchedule(StepRatio(1, 1), warmup=Warmup(StepRatio(10, 1), 500.0))
    assert [schedule.current(images) for images in (0, 499, 500)] == [(10, 1), (10, 1), (1, 1)]


@pytest.mark.parametrize(
    ("accuracies", "ratio"), [((1.0, 0.9), (1, 2)), ((0.5, 0.6), (2, 1)), ((0.7, 0.7), (1, 1)), ((0.6, 0.6), (1, 1)), ((0.75, 0.8), (1, 1))]
)
def test_the_generator_gets_steps_above_the_band_and_the_discriminator_below_it(accuracies, ratio):
    schedule = steered()
    schedule.observe(stats(*accuracies))
    schedule.adjust(100, 90)
    assert schedule.current(100) == ratio
    assert schedule.advantage == pytest.approx(sum(accuracies) - 1.0, abs=1e-6)


def test_the_advantage_is_the_mean_since_the_last_look():
    schedule = steered()
    for value in (1.0, 0.5):
        schedule.observe(stats(value, value))
    schedule.adjust(100, 90)
    assert schedule.advantage == pytest.approx(0.5)
    schedule.observe(stats(0.75, 0.75))
    schedule.adjust(199, 190)  # nothing is due
    assert schedule.advantage == pytest.approx(0.5)
    schedule.adjust(200, 199)
    assert schedule.advantage == pytest.approx(0.5)
    schedule.observe(stats(1.0, 1.0))
    schedule.adjust(300, 200)
    assert schedule.advantage == pytest.approx(1.0)


def test_what_happened_in_the_warmup_does_not_steer():
    schedule = RatioSchedule(StepRatio(1, 1), warmup=Warmup(StepRatio(100, 1), 500.0), band=Band(0.2, 0.6, 100.0, -3, 7))
    schedule.observe(stats(1.0, 1.0))
    schedule.adjust(1000, 0)
    assert (schedule.steady, schedule.advantage) == ((1, 1), None)
    schedule.observe(stats(1.0, 1.0))
    schedule.adjust(1100, 1000)
    assert (schedule.steady, schedule.advantage) == ((1, 2), 1.0)


def test_the_ratio_stays_on_its_rungs():
    for accuracy, end in ((1.0, (1, 3)), (0.5, (3, 1))):
        schedule = steered(lowest=-2, highest=2)
        for look in range(1, 9):
            schedule.observe(stats(accuracy, accuracy))
            schedule.adjust(look * 100, look * 100 - 1)
        assert schedule.current(800) == end


def test_the_state_continues_in_the_middle_of_a_look():
    whole, first = steered(), steered()
    for value in (1.0, 0.9):
        whole.observe(stats(value, value))
    first.observe(stats(1.0, 1.0))
    first.share()
    second = steered()
    second.load_state_dict(first.state_dict())
    second.observe(stats(0.9, 0.9))
    for schedule in (whole, second):
        schedule.adjust(100, 99)
    assert second.state_dict() == whole.state_dict()
    assert second.current(100) == (1, 2)


def test_a_steered_training_changes_its_ratio_and_resumes_bit_for_bit():
    options = {
        "step_ratio_schedule__advantage_low": 0.1,
        "step_ratio_schedule__advantage_high": 0.3,
        "step_ratio_schedule__adjust_kimg": 0.032,
        "step_ratio_schedule__warmup_ratio": "4:1",
        "step_ratio_schedule__warmup_kimg": 0.064,
        "schedule__checkpoint_kimg": 0.3,
        "diagnostics__patience": 1,
        "total_kimg": 0.64,
    }
    whole = tiny_trainer(**options)
    reports, states = [], []

    def keep(report):
        reports.append(report)
        if report.state is not None:
            states.append(copy.deepcopy(report.state()))

    whole.run(keep)
    ratios = [(report.metrics["progress/ratio_d"], report.metrics["progress/ratio_g"]) for report in reports]
    assert ratios[0] == (4.0, 1.0)
    assert len(set(ratios)) > 2
    assert any(g > 1.0 for _, g in ratios)  # this discriminator soon judges every fake rightly
    second, later = tiny_trainer(**options), []
    second.load_state_dict(states[0])
    second.run(later.append)
    timed = ("progress/images_per_second", "progress/device_seconds", "progress/diagnostics_share")
    for one, two in zip(reports[-len(later) :], later, strict=True):
        assert {key: value for key, value in one.metrics.items() if key not in timed} == {
            key: value for key, value in two.metrics.items() if key not in timed
        }
    for one, two in zip(whole.parts.d.parameters, second.parts.d.parameters, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["step_ratio_schedule.warmup_ratio=5:1"], "warmup_ratio and warmup_kimg belong together"),
        (
            ["step_ratio_schedule.warmup_ratio=5-1", "step_ratio_schedule.warmup_kimg=1"],
            "step_ratio_schedule.warmup_ratio: '5-1' is not d:g",
        ),
        (["step_ratio_schedule.advantage_low=0.5"], "advantage_low and advantage_high belong together"),
        (["step_ratio_schedule.advantage_low=0.5", "step_ratio_schedule.advantage_high=0.4"], "must be below advantage_high 0.4"),
        (["step_ratio_schedule.adjust_kimg=1"], "step_ratio_schedule.adjust_kimg has no effect without advantage_low"),
        ([*BAND, "step_ratio_schedule.lowest=3:2"], "must be d:1 or 1:g"),
        (
            [*BAND, "step_ratio_schedule.lowest=5:1", "step_ratio_schedule.highest=2:1"],
            "with lowest the one that gives the discriminator less",
        ),
        (
            ["step_ratio=9:1", "step_ratio_schedule.advantage_low=0.1", "step_ratio_schedule.advantage_high=0.4"],
            "step_ratio: 9:1 is not between step_ratio_schedule.lowest 1:4 and highest 8:1",
        ),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(overrides, said):
    assert said in error_of(tiny_tree(), *overrides)
