"""Bad input to `raygan sweep` and `raygan report`: told before anything starts, with what would be right."""

import pytest

from gan_core.overrides import merge, validate
from pipelines import cli
from pipelines.sweeps import plan as plans
from pipelines.sweeps import tuning
from pipelines.sweeps.config import SweepJobConfig
from tests.pipelines.command import write_config
from tests.support import tiny_tree


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs a command that must be refused; returns what it said."""
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path)

    def run(*words):
        assert cli.main([config if word == "CONFIG" else word for word in words]) == 2
        said = capsys.readouterr()
        assert not said.out
        assert not [path for path in (tmp_path / "runs").rglob("*") if path.suffix != ".lock" and path.name != "sweeps"]
        return said.err

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["CONFIG"], "give a config and a space, such as digits loss_x_ratio; configs: cifar10, digits, "),
        (["CONFIG", "smok"], "unknown tune_space name 'smok' (did you mean 'smoke'?); choices: architecture, loss_x_ratio, "),
        (["CONFIG", "smoke", "los.name=hinge"], "unknown key 'los' (did you mean 'loss'?)"),
        (["CONFIG", "smoke", "sweep.trails=3"], "unknown key 'sweep.trails' (did you mean 'trials'?)"),
        (["CONFIG", "smoke", "loss.name=[]"], "loss.name=[]: nothing is left to search; give values among: hinge, non_saturating"),
        (
            ["CONFIG", "smoke", "sweep.objective=kid_pixel"],
            "sweep.objective: no trial reports 'kid_pixel' (did you mean 'kid_pixels'?); these have",
        ),
        (["CONFIG", "smoke", "sweep.rank_within=seed"], "sweep.rank_within: seed is not searched; the space has loss.name, step_ratio"),
        (["CONFIG", "smoke", "sweep.grace_kimg=0.1"], "it must be from schedule.evaluate_kimg 0.8 to total_kimg 3.2, given 0.1"),
        (["CONFIG", "smoke", "sweep.scheduler=pbt", "sweep.grace_kimg=1"], "sweep.grace_kimg has no effect with sweep.scheduler=pbt"),
        (
            ["CONFIG", "optimizer", "sweep.scheduler=pbt", "sweep.equal=g_steps"],
            "sweep.equal: pbt hands weights between trials",
        ),
        (["CONFIG", "smoke", "ray.use_gpu=true"], "ray.use_gpu: a trial needs 1 GPU, the cluster has 0"),
        (["CONFIG", "smoke", "sweep.equal=device_seconds"], "sweep.device_seconds: belongs to sweep.equal=device_seconds"),
        (["CONFIG", "smoke", "sweep.stop_on_alarms=[colapse]"], "unknown alarm name 'colapse' (did you mean 'collapse'?)"),
        (["CONFIG", "optimizer", "sweep.search=grid"], "grid needs choices, and optimizer.generator.lr is a range"),
        (["CONFIG", "architecture", "sweep.scheduler=pbt"], "pbt changes learning rates, penalty weights and the ratio"),
        (["CONFIG", "smoke", "ray.cpus_per_worker=4096"], "ray.cpus_per_worker: a trial needs 4096 CPU, the cluster has "),
        (["--resume", "nosuch"], "no sweep 'nosuch' in sqlite:///"),
        (["--resume", "nosuch", "smoke"], "--resume takes config and space from the sweep itself"),
    ],
)
def test_a_sweep_is_refused_with_a_reason(refused, words, message):
    assert message in refused("sweep", *words)


def test_a_report_of_an_unknown_sweep_names_the_known(refused):
    assert "no sweep 'nosuch' in sqlite:///" in (said := refused("report", "nosuch"))
    assert "known: none" in said


def test_a_space_whose_points_all_do_not_fit_is_refused(refused):
    said = refused("sweep", "CONFIG", "smoke", "network.packing=3")
    assert "space smoke: none of its 4 points fits this config; the first: batch_size 16 is not divisible by" in said


def config(**overrides):
    return validate(merge(tiny_tree(), {key.replace("__", "."): value for key, value in overrides.items()}), SweepJobConfig)


def test_one_worker_trials_fill_the_cluster_by_their_own_needs():
    found = tuning.slots(config(), {"CPU": 8.0})
    assert (found.resources, found.at_once, found.on_gpu) == ({"cpu": 1.0, "gpu": 0.0}, 8, False)
    half = tuning.slots(config(sweep__gpus_per_trial=0.5), {"CPU": 8.0, "GPU": 2.0})
    assert (half.resources["gpu"], half.at_once, half.on_gpu) == (0.5, 4, True)
    assert tuning.slots(config(), {"CPU": 8.0, "GPU": 2.0}).at_once == 2  # a GPU each, where there are some
    assert tuning.slots(config(sweep__gpus_per_trial=0.2), {"CPU": 8.0, "GPU": 1.0}).at_once == 5
    assert tuning.slots(config(sweep__max_concurrent=3), {"CPU": 8.0}).at_once == 3


@pytest.mark.parametrize(("cpus", "at_once"), [(2.0, 1), (5.0, 2), (32.0, 16), (40.0, 20), (200.0, 20)])
def test_the_processes_of_trials_with_workers_take_no_cpu_and_are_as_many_as_their_workers_fit(cpus, at_once):
    """Of the head's 1.0 so many fit, with the 0.001 and some more that Ray Train takes for each, and one more does not."""
    found = tuning.slots(config(sweep__workers_per_trial=2), {"CPU": cpus})
    assert (found.resources["cpu"], found.at_once) == (0, at_once)
    assert at_once * (found.resources[tuning.HEAD] + 0.001) < 1.0 < (at_once + 1) * found.resources[tuning.HEAD]


@pytest.mark.parametrize(
    ("overrides", "owned", "message"),
    [
        ({"sweep__workers_per_trial": 4}, {"CPU": 2.0}, r"sweep\.workers_per_trial: a trial needs 4 CPU, the cluster has 2; lower it"),
        ({"sweep__gpus_per_trial": 1.0}, {"CPU": 2.0}, r"sweep\.gpus_per_trial: a trial needs 1 GPU, the cluster has 0"),
    ],
)
def test_more_than_the_cluster_has_is_refused_with_what_is_there(overrides, owned, message):
    with pytest.raises(ValueError, match=message):
        tuning.slots(config(**overrides), owned)


def test_fewer_trials_than_points_are_drawn_at_random(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plans.make(write_config(tmp_path), "smoke", {"sweep.trials": 3})
    assert (plan.planned, len(plan.points)) == (3, 3)
    assert len({tuple(point.items()) for point in plan.points}) == 3
