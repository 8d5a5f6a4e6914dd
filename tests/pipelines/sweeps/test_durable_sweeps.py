"""Sweeps whose driver or trials are killed, or whose trials fail by themselves: nothing is lost, nothing is done twice."""

import random
import re
import time

import pytest

from tests.pipelines.command import finish, start, write_config
from tests.pipelines.sweeps.runs import Sweep, kill, require_every_point_once, sweep, trial_processes, wait_until

LONG = (
    "total_kimg=9.6",
    "schedule.report_kimg=0.8",
    "schedule.checkpoint_kimg=1.6",
    "schedule.sample_kimg=3.2",
    "sweep.scheduler=fifo",
    "step_ratio=1:1",
    "loss.name=[hinge,non_saturating]",
)
EVERY = {"report": 800, "evaluate": 800, "total": 9600}


LONGER = (
    "total_kimg=64",
    "schedule.report_kimg=1.6",
    "schedule.evaluate_kimg=1.6",
    "schedule.checkpoint_kimg=3.2",
    "schedule.sample_kimg=32",
    *LONG[4:],
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_killed_three_times_goes_on_where_it_was(tmp_path):
    """At random moments of its work: the same trials, each once, no point missing or doubled, and the same scores as undisturbed."""
    config = write_config(tmp_path)
    words = [config, "smoke", *LONGER, "sweep.confirm=1", "sweep.seeds=2", "sweep.name=shot"]
    moments = [random.uniform(0.0, 1.5) for _ in range(3)]  # named where an assertion fails; a trial takes several seconds
    process = start(tmp_path, *words, command="sweep")
    for moment in moments:
        wait_until(lambda process=process: trial_processes(process), process)
        time.sleep(moment)
        assert process.poll() is None, moments
        kill(process)
        process = start(tmp_path, "--resume", "shot", command="sweep")
    status, _, err = finish(process)
    assert status == 0, (moments, err)
    found = Sweep(tmp_path)
    assert [(row.number, row.phase) for row in found.rows] == [(0, "screen"), (1, "screen"), (2, "confirm"), (3, "confirm")], moments
    for row in found.rows:
        assert (row.status, row.reason) == ("FINISHED", "budget spent"), moments
        require_every_point_once(found, row, report=1600, evaluate=1600, total=64000)
    (tmp_path / "quiet").mkdir()
    quiet, _, _ = sweep(tmp_path / "quiet", *words)
    assert {row.number: row.scores for row in quiet.rows} == {row.number: row.scores for row in found.rows}, moments


@pytest.mark.slow
def test_a_killed_trial_is_tried_again_from_its_checkpoint(tmp_path):
    process = start(tmp_path, write_config(tmp_path), "smoke", *LONG, "sweep.confirm=0", command="sweep")
    wait_until(lambda: [*(tmp_path / "runs").glob("*/checkpoint_000000003200/checkpoint.json")], process)
    trial_processes(process)[0].kill()
    status, _, err = finish(process)
    assert status == 0, err
    found = Sweep(tmp_path)
    assert [row.reason for row in found.rows] == ["budget spent"] * 2
    for row in found.rows:
        require_every_point_once(found, row, **EVERY)


def test_what_fails_by_itself_is_listed_with_its_reason_and_the_others_go_on(tmp_path):
    """One diverges, one is no valid config, one is well."""
    config = write_config(tmp_path, network__conditional=True)
    words = ["loss.name=[f_kl,hinge,mmd]", "step_ratio=1:1", "optimizer.discriminator.lr=1e4", "sweep.confirm=0", "sweep.stop_on_alarms=[]"]
    found, _, err = sweep(tmp_path, config, "loss_x_ratio", *words)
    exponential, linear, unfit = found.rows
    assert exponential.status == "FAILED"
    assert re.match(r"diverged: [dg]/\S+ is (nan|-?inf) at its step ", exponential.reason)
    assert (linear.status, linear.reason) == ("FINISHED", "budget spent")
    assert unfit.status == "FAILED"
    assert unfit.reason.startswith("refused: network.conditional: the loss 'mmd' reads features that know no classes")
    assert err.count("diverged: ") == 1
    assert err.count("trial 002 ") == 1


@pytest.mark.slow
def test_an_alarm_ends_a_trial_and_is_its_reason(tmp_path):
    words = ["diagnostics.divergence=1e-6", "diagnostics.patience=2", "loss.name=[hinge]", "step_ratio=1:1", "sweep.confirm=0"]
    found, _, _ = sweep(tmp_path, write_config(tmp_path), "smoke", *words)
    (row,) = found.rows
    assert row.status == "FAILED"
    assert re.match(r"alarm: divergence at 0\.3 kimg: gradient norm \S+ is above 1e-06 for 2 reports", row.reason)
    assert found.tracked(row).steps("d/loss") == [160, 320]


@pytest.mark.slow
def test_a_guided_search_goes_on_after_its_driver_was_killed(tmp_path):
    """TPE: what was begun goes on, what ended is remembered, and no number comes twice."""
    words = [*LONG[:-1], "sweep.search=tpe", "sweep.trials=4", "sweep.name=led", "sweep.confirm=0"]
    process = start(tmp_path, write_config(tmp_path), "loss_x_ratio", *words, command="sweep")
    wait_until(lambda: [*(tmp_path / "runs").glob("*/checkpoint_000000008000/checkpoint.json")], process)
    kill(process)
    begun = {row.number: row.point for row in Sweep(tmp_path).rows}
    found, _, _ = sweep(tmp_path, "--resume", "led")
    assert [row.number for row in found.rows] == [0, 1, 2, 3]
    assert {number: found.rows[number].point for number in begun} == begun
    for row in found.rows:
        assert row.reason == "budget spent"
        require_every_point_once(found, row, **EVERY)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_population_goes_on_after_its_driver_was_killed(tmp_path):
    """Members meet again in the round where they were; each has every point once."""
    words = ["loss.name=[hinge,non_saturating]", "step_ratio=1:1", *LONG[:4], "sweep.scheduler=pbt", "sweep.perturb_kimg=1.6"]
    more = ["sweep.search=random", "sweep.trials=4", "sweep.name=herd"]
    process = start(tmp_path, write_config(tmp_path), "smoke+optimizer", *words, *more, command="sweep")
    wait_until(lambda: len([*(tmp_path / "runs").glob("*/checkpoint_000000003200/checkpoint.json")]) > 1, process)
    kill(process)
    found, _, _ = sweep(tmp_path, "--resume", "herd", timeout=300)
    assert [row.reason for row in found.rows] == ["budget spent"] * 4
    for row in found.rows:
        require_every_point_once(found, row, **EVERY)
    assert any("raygan.exploits" in found.tags(row) for row in found.rows)


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_that_can_go_on(tmp_path):
    import signal

    process = start(tmp_path, write_config(tmp_path), "smoke", *LONG, "sweep.name=cut", "sweep.confirm=0", command="sweep")
    wait_until(lambda: trial_processes(process), process)
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130
    assert "raygan sweep --resume cut" in err
    found = Sweep(tmp_path)
    assert found.run.info.status == "KILLED"
    assert "RUNNING" not in {row.status for row in found.rows}
    whole, _, _ = sweep(tmp_path, "--resume", "cut")
    assert [(row.status, row.reason) for row in whole.rows] == [("FINISHED", "budget spent")] * 2
    for row in whole.rows:
        require_every_point_once(whole, row, **EVERY)
