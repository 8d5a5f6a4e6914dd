"""What a sweep plans: trials, budgets, clocks, and what it foretells of the cost."""

import pytest

from gan_core import cost
from gan_core.cost import StepCost
from pipelines import cli
from pipelines.sweeps import plan as plans
from pipelines.sweeps.schedulers import WORST
from pipelines.sweeps.trial import clock_of, goodness_of, job_of
from tests.pipelines.command import write_config
from tests.support import tiny_config


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_config(tmp_path)

    def make(space, **overrides):
        return plans.make(path, space, {key.replace("__", "."): value for key, value in overrides.items()})

    return make


def jobs(plan):
    return [job_of(plan.told(), plan.identity(number)) for number in range(plan.planned)]


def test_budgets_are_equal_in_images_unless_told_otherwise(make):
    plan = make("loss_x_ratio", loss__name="hinge", step_ratio=["1:2", "1:1", "5:1"])
    assert [job.total_kimg for job in jobs(plan)] == [3.2, 3.2, 3.2]
    assert plan.budget == "3.2 kimg, 200 discriminator steps"


def test_budgets_can_be_equal_in_generator_steps(make):
    """200 steps of 16 images: a trial at 5:1 sees five times the images of one at 1:1, and is scored as often."""
    plan = make("loss_x_ratio", loss__name="hinge", step_ratio=["1:2", "1:1", "5:1"], sweep__equal="g_steps")
    found = jobs(plan)
    assert [job.total_kimg for job in found] == [1.6, 3.2, 16.0]
    assert [job.schedule.evaluate_kimg for job in found] == [0.4, 0.8, 4.0]
    assert [job.total_kimg * 1000 / 16 * job.ratio.g / job.ratio.d for job in found] == pytest.approx([200, 200, 200])
    assert [clock_of(plan.told(), job, int(job.total_kimg * 500), 0.0) for job in found] == [1.6, 1.6, 1.6]
    assert plan.budget == "200 generator steps, 3.2 kimg at 1:1"


def test_budgets_can_be_equal_in_device_seconds(make):
    plan = make("smoke", sweep__equal="device_seconds", sweep__device_seconds=10.0)
    (job, *_) = jobs(plan)
    assert job.total_kimg == 3200.0  # images end no trial
    assert job.schedule.checkpoint_kimg == job.schedule.evaluate_kimg == 0.8
    assert [clock_of(plan.told(), job, 800, seconds) for seconds in (0.0, 2.5, 10.0, 12.0)] == pytest.approx([0.0, 0.8, 3.2, 3.2])


@pytest.mark.parametrize("length", [0.1, 0.2, 0.4, 0.64, 0.8, 1.28, 1.6, 5.0, 5.12, 6.4, 12.8, 25.0])
def test_every_trial_has_the_same_clock_when_it_is_scored(make, length):
    """However many images its rounds have: the clock is the multiple that was passed, and binary fractions do not lose one."""
    settings = {"total_kimg": 20 * length, "schedule__evaluate_kimg": length, "schedule__checkpoint_kimg": length}
    plan = make("loss_x_ratio", loss__name="hinge", step_ratio=["1:1", "3:1"], **settings)
    for job in jobs(plan):
        a_round = 16 * job.ratio.d
        for count in range(1, 20):
            rounds = -(-count * length * 1000 // a_round)
            assert clock_of(plan.told(), job, int(rounds * a_round), 0.0) == pytest.approx(count * length, rel=1e-8)


def test_equal_scores_are_ordered_by_the_distance_and_different_ones_are_not(make):
    told = {**make("smoke").told(), "objective": "score", "higher": True, "distance": "kid"}
    assert goodness_of(told, {"score": 0.0, "kid": 5.0}) > goodness_of(told, {"score": 0.0, "kid": 90.0})
    assert goodness_of(told, {"score": 0.001, "kid": 90.0}) > goodness_of(told, {"score": 0.0, "kid": 5.0})
    assert goodness_of(told, {"score": 0.5, "kid": -0.1}) == 0.5
    assert goodness_of({**told, "objective": "kid", "higher": False, "distance": "kid"}, {"kid": 2.0}) == pytest.approx(-2.0, abs=1e-6)
    assert goodness_of(told, {"score": float("nan"), "kid": 1.0}) == goodness_of(told, {}) == WORST


def test_what_is_given_beside_a_variant_holds_in_every_trial(make):
    plan = make("variant_x_ratio", variant=["r1", "wgan_gp"], step_ratio="1:1", optimizer__generator__beta1=0.25)
    assert [job.optimizer.generator.beta1 for job in jobs(plan)] == [0.25, 0.25]
    assert [job.regularizers.in_force for job in jobs(plan)] == [["r1"], ["gp"]]


def test_paths_are_from_the_root_in_every_trial(make, tmp_path):
    assert {job.ray.storage_path for job in jobs(make("smoke"))} == {str(tmp_path / "runs")}


def test_an_estimate_counts_the_steps_of_both_players():
    """10 kimg of 16 are 625 steps of D; at 5:1 125 of G."""
    assert StepCost(d=0.01, g=0.02).of(10.0, tiny_config(step_ratio="5:1")) == pytest.approx(625 * 0.01 + 125 * 0.02)
    assert StepCost(d=0.01, g=0.02).of(10.0, tiny_config(step_ratio="1:2")) == pytest.approx(625 * 0.01 + 1250 * 0.02)


def test_steps_are_measured():
    found = cost.measure(tiny_config(), "cpu")
    assert 1e-5 < found.d < 1.0
    assert 1e-5 < found.g < 1.0


@pytest.fixture
def preview(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def preview(*words):
        assert cli.main(["sweep", write_config(tmp_path), *words, "--dry-run"]) == 0
        assert not (tmp_path / "mlflow.db").exists()
        return capsys.readouterr().out

    return preview


def test_a_dry_run_lists_the_trials_and_what_they_would_cost(preview):
    said = preview("loss_x_ratio", "loss.name=[hinge,mmd]", "step_ratio=[1:1,2:1]", "batch_size=1", "sweep.confirm=2", "sweep.seeds=4")
    assert "loss_x_ratio on tiny: 2 trials, and 2 that do not fit" in said
    assert "     1  loss.name=hinge  step_ratio=2:1\n" in said
    assert "     3  loss.name=mmd  step_ratio=2:1   does not fit: batch_size: the loss mmd compares samples" in said
    assert "each trial      3.2 kimg, 3,200 discriminator steps (equal in images)" in said
    assert "repeats         2 configurations x 4 seeds" in said
    assert "compared by     kid_pixels, less is better" in said


def test_a_dry_run_of_a_guided_search_says_what_it_searches(preview):
    said = preview("optimizer", "sweep.search=tpe", "sweep.trials=7", "sweep.confirm=0")
    assert "7 trials, which Optuna's TPE chooses as results come in" in said
    assert "optimizer.generator.lr: (5e-05, 0.005)" in said
