"""Runs through Ray Train with two workers: undisturbed, with a worker killed in the middle, and diverging."""

import inspect
import re
import time

import psutil
import pytest
from ray._private import services
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import _AutoscalingCoordinatorActor
from ray.train.v2._internal.data_integration.dataset_manager import DatasetManager
from ray.train.v2._internal.execution.controller.placement_group_cleaner import PlacementGroupCleaner
from ray.train.v2._internal.execution.preemption import PreemptionWatcher

from pipelines import apart, guard
from tests.pipelines.command import TrackedRun, finish, require_equal_states, require_every_point_once, start, train, write_config

LONGER = {"total_kimg": 32, "checkpoint_kimg": 8, "evaluate_kimg": 8, "sample_kimg": 16, "report_kimg": 1.6}
WATCHERS = (
    "PlacementGroupCleaner",
    "PreemptionWatcher",
    "AutoscalingCoordinator",
    "DatasetManager",
    "_Holder",
    "monitor.py",
    "dashboard.py",
)
ACTORS = (PlacementGroupCleaner, PreemptionWatcher, _AutoscalingCoordinatorActor, DatasetManager, guard._Holder)
WORDS = [f"{key if key == 'total_kimg' else f'schedule.{key}'}={value}" for key, value in LONGER.items()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quiet")
    return train(folder, write_config(folder, workers=2), *WORDS)


@pytest.fixture(scope="module")
def expected(undisturbed):
    return undisturbed[0]


def test_two_workers_log_one_run_and_every_point_once(undisturbed):
    run, out, _ = undisturbed
    require_every_point_once(run, total=32000, every=1600, evaluate=8000, sample=16000)
    assert run.run.info.status == "FINISHED"
    assert len(run.client.search_runs([run.run.info.experiment_id])) == 1
    assert "for each of 2 workers" in out


def test_the_last_checkpoints_and_the_best_are_in_the_storage(expected):
    names = sorted(path.name for path in (expected.folder / "runs" / expected.run_id).iterdir() if path.is_dir())
    best = int(expected.final_state()["best"]["images_seen"])
    assert names == sorted([f"best_{best:012d}", *(f"checkpoint_{step:012d}" for step in (16000, 24000, 32000))])


def test_checkpoints_are_scored_by_a_task_of_their_own_as_the_workers_would(tmp_path):
    config = write_config(tmp_path)
    beside, out, _ = train(tmp_path, config, "ray.asynchronous_evaluation=true", "evaluation.objective=kid_pixels")
    within, _, _ = train(tmp_path, config, "--local")
    wanted = {step: value for step, value in within.values("quality/kid_pixels").items() if step > 0}
    assert beside.values("quality/kid_pixels") == pytest.approx(wanted, rel=1e-9)
    assert beside.steps("progress/images_scored") == [800, 1600, 2400, 3200]
    assert beside.values("d/loss") == within.values("d/loss")
    assert beside.run.data.tags["raygan.provenance.quality"] == within.run.data.tags["raygan.provenance.quality"]
    best = min(wanted, key=wanted.get)
    assert [path.name for path in (tmp_path / "runs" / beside.run_id).glob("best_*")] == [f"best_{best:012d}"]
    assert f"kid_pixels   {wanted[3200]:.4f} after; best {wanted[best]:.4f}" in out


def unscored(run):
    """The checkpoints that could not be scored, each with the reason."""
    start = "evaluation.unscored."
    return {key.removeprefix(start): value for key, value in run.run.data.tags.items() if key.startswith(start)}


@pytest.mark.slow
def test_a_task_that_cannot_score_is_told_and_does_not_end_the_run(tmp_path):
    """Too slow each time: cancelled. The run goes on, keeps its checkpoints, and says what is missing."""
    run, out, err = train(tmp_path, write_config(tmp_path), "ray.asynchronous_evaluation=true", "ray.evaluation_timeout_seconds=0.01")
    assert run.run.info.status == "FINISHED"
    said = "it took longer than ray.evaluation_timeout_seconds, 0.01"
    assert unscored(run) == {f"checkpoint_{step:012d}": said for step in (800, 1600, 2400, 3200)}
    assert (out + err).count("could not be scored: it took longer than") == 4
    assert run.steps("quality/kid_pixels") == []
    assert "kid_pixels" not in out


@pytest.mark.slow
def test_a_scoring_task_that_is_killed_costs_nothing_and_one_that_dies_each_time_one_score(tmp_path):
    """The first checkpoint's task dies as often as it is tried, the next one's once."""
    process = start(tmp_path, write_config(tmp_path), "ray.asynchronous_evaluation=true")
    struck = set()
    while len(struck) < apart.TRIES + 1:
        (victim, *_) = wait_for(lambda: [task for task in processes_of(process, "ray::work") if task.pid not in struck])
        victim.kill()
        struck.add(victim.pid)
    status, out, err = finish(process)
    assert status == 0, err
    run = TrackedRun(tmp_path, out.split("run ", 1)[1].split(":")[0])
    ((name, reason),) = unscored(run).items()
    assert name == "checkpoint_000000000800"
    assert run.steps("quality/kid_pixels") == run.steps(apart.CLOCK) == [1600, 2400, 3200]
    assert f"{name} could not be scored: {reason}" in out + err
    assert (out + err).count("another one begins") == apart.TRIES
    assert "died" in reason


@pytest.mark.slow
def test_divergence_is_what_a_run_dies_of_also_where_scores_are_made_beside_it(tmp_path):
    words = [
        "ray.asynchronous_evaluation=true",
        "evaluation.objective=kid_pixels",
        "optimizer.discriminator.lr=1e30",
        "optimizer.generator.lr=1e30",
    ]
    status, _, err = finish(start(tmp_path, write_config(tmp_path), *words))
    assert status == 1
    assert re.search(r"failed: [dg]/\w+ is (nan|inf)", err)
    assert "--from-run" in err
    assert "could not be measured at the end" not in err


def workers_of(process):
    """The processes of the run's ranks."""
    return processes_of(process, "RayTrainWorker")


def processes_of(process, words):
    """Those whose command holds `words`, among all that this command started."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if words in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError("waited in vain")


def reached(folder, images_seen):
    """The id of the run in `folder` once it has kept a checkpoint at or after `images_seen`."""
    kept = [path for path in (folder / "runs").glob("*/checkpoint_0*/checkpoint.json") if int(path.parent.name[-12:]) >= images_seen]
    return kept[0].parent.parent.name if kept else None


def test_watchers_are_called_as_ray_calls_its_processes():
    """Or that there are none would say nothing: an actor's process has its class's name, a server's that of its file."""
    for name, actor in zip(WATCHERS, ACTORS, strict=False):
        assert name in actor.__name__
    assert len(ACTORS) == len([name for name in WATCHERS if not name.endswith(".py")])
    started = inspect.getsource(services)
    assert all(f'"{name}"' in started for name in WATCHERS if name.endswith(".py"))


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_worker_costs_nothing_but_time(tmp_path_factory, expected, victim):
    """kill -9 after the first checkpoint: same points, each once; same weights as a run that nobody disturbed."""
    shot = tmp_path_factory.mktemp("shot")
    process = start(shot, write_config(shot, workers=2), *WORDS)
    run_id = wait_for(lambda: reached(shot, 8000))
    ranks = workers_of(process)
    assert len(ranks) == 2
    assert not [name for name in WATCHERS if processes_of(process, name)]  # of what cannot happen on a cluster of our own
    sorted(ranks, key=lambda rank: rank.pid)[victim].kill()
    status, _, err = finish(process)
    assert status == 0, err
    assert err.count("continuing from the checkpoint at") == 1

    run = TrackedRun(shot, run_id)
    assert run.run.info.status == "FINISHED"
    for key in ("d/loss", "g/loss", "quality/kid_pixels"):
        assert run.values(key) == expected.values(key), key
    assert run.steps("d/loss") == list(range(1600, 32001, 1600))
    assert run.pictures() == expected.pictures() == {0: 1, 16000: 1, 32000: 1}
    require_equal_states(run.final_state(), expected.final_state())


def test_a_finished_run_can_be_extended_by_one_worker(undisturbed):
    """The last of those that look at this run."""
    run, _, _ = undisturbed
    longer, _, _ = train(run.folder, "--resume", run.run_id, "total_kimg=40", "ray.num_workers=1")
    assert longer.steps("d/loss") == list(range(1600, 40001, 1600))
    assert longer.run.info.status == "FINISHED"


def test_a_diverging_run_fails_once_with_a_reason_and_is_marked_failed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diverging")
    words = ["optimizer.discriminator.lr=1e30", "optimizer.generator.lr=1e30", "total_kimg=3.2"]
    status, out, err = finish(start(folder, write_config(folder, workers=2), *words))
    assert status == 1
    assert "at its step" in err
    assert "there is no checkpoint yet" in err
    assert "start again with other settings: raygan train --from-run" in err
    assert "Traceback" not in err
    run = TrackedRun(folder, out.split("run ", 1)[1].split(":")[0])
    assert run.run.info.status == "FAILED"


@pytest.mark.slow
def test_an_interrupted_run_says_so_and_can_be_resumed(tmp_path_factory):
    import signal

    folder = tmp_path_factory.mktemp("interrupted")
    process = start(
        folder,
        write_config(folder, workers=1),
        "total_kimg=320",
        *(f"schedule.{what}_kimg=8" for what in ("checkpoint", "report", "evaluate", "sample")),
    )
    run_id = wait_for(lambda: reached(folder, 8000))
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130
    assert f"raygan train --resume {run_id}" in err
    assert TrackedRun(folder, run_id).run.info.status == "KILLED"
    seen = TrackedRun(folder, run_id).final_state()["images_seen"]
    done, _, _ = train(folder, "--resume", run_id, f"total_kimg={(seen + 16000) / 1000}")
    assert done.run.info.status == "FINISHED"
    assert done.steps("d/loss") == list(range(8000, seen + 16001, 8000))
