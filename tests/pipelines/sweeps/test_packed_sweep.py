"""Sweeps whose trials train in packs, against the same sweeps whose trials train by themselves."""

import psutil
import pytest

from tests.pipelines.command import finish, start, write_config
from tests.pipelines.sweeps.runs import Sweep, kill, require_every_point_once, sweep, wait_until

SIX = ("loss_x_ratio", "loss.name=[hinge,non_saturating,wasserstein]", "step_ratio=[1:1,2:1]", "sweep.confirm=0", "precision=float64")
LONG = (
    "loss_x_ratio",
    "loss.name=[hinge,non_saturating,wasserstein]",
    "step_ratio=1:1",
    "sweep.confirm=0",
    "sweep.scheduler=fifo",
    "total_kimg=9.6",
    "schedule.report_kimg=0.8",
    "schedule.checkpoint_kimg=1.6",
    "schedule.sample_kimg=3.2",
    "trials.packed=8",
    "sweep.max_concurrent=1",
)
EVERY = {"report": 800, "evaluate": 800, "total": 9600}
TIMES = ("system/", "progress/device_seconds", "progress/images_per_second", "progress/diagnostics_share", "budget/device_seconds")


def points(found, row):
    """All metric points of a trial that are no times."""
    run = found.tracked(row)
    return {key: run.values(key) for key in run.run.data.metrics if not key.startswith(TIMES)}


def pack_processes(process):
    """The processes of a sweep's packs."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "ray::Pack" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_packed_trials_are_the_runs_that_they_would_be_by_themselves(tmp_path):
    """The same points, params, metrics to rounding, pictures, checkpoints and ends; each a run of its own."""
    sweeps = {}
    for name, words in (("packed", ["trials.packed=8", "sweep.max_concurrent=1"]), ("apart", [])):
        (tmp_path / name).mkdir()
        sweeps[name], _, _ = sweep(tmp_path / name, write_config(tmp_path / name), *SIX, "sweep.scheduler=fifo", *words)
    packed, apart = sweeps["packed"], sweeps["apart"]
    assert [row.point for row in packed.rows] == [row.point for row in apart.rows]
    assert len({row.run_id for row in packed.rows}) == 6
    for mine, its in zip(packed.rows, apart.rows, strict=True):
        assert (mine.status, mine.reason, mine.seed, mine.phase) == (its.status, its.reason, its.seed, its.phase)
        left, right = points(packed, mine), points(apart, its)
        assert left.keys() == right.keys()
        for key, values in right.items():
            assert left[key] == pytest.approx(values, rel=1e-9, abs=1e-9), (mine.number, key)
        left, right = (found.tracked(row).run.data for found, row in ((packed, mine), (apart, its)))
        assert {key for key in left.params if left.params[key] != right.params[key]} <= {"ray.storage_path", "mlflow.tracking_uri"}
        assert left.tags.keys() - right.tags.keys() == {"raygan.packed"}
        assert left.tags["raygan.packed"] == "6"
        assert {key for key in left.metrics if key.startswith("system/")} == {key for key in right.metrics if key.startswith("system/")}
        assert packed.tracked(mine).pictures() == apart.tracked(its).pictures()
        assert packed.checkpoints(mine) == apart.checkpoints(its)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_asha_stops_packed_trials_one_by_one_and_the_best_are_repeated_in_packs(tmp_path):
    words = ["sweep.scheduler=asha", "sweep.grace_kimg=0.8", "trials.packed=3", "sweep.confirm=1", "sweep.seeds=2"]
    found, out, err = sweep(tmp_path, write_config(tmp_path), *SIX[:3], *SIX[4:], *words)
    screened, repeated = ([row for row in found.rows if row.phase == phase] for phase in ("screen", "confirm"))
    stopped = [row for row in screened if row.reason.startswith("stopped by asha at ")]
    assert 1 <= len(stopped) <= 4
    assert {row.reason for row in screened if row not in stopped} == {"budget spent"}
    assert {row.reason for row in stopped} <= {"stopped by asha at 0.8 kimg", "stopped by asha at 2.4 kimg"}
    for row in stopped:
        seen = max(found.checkpoints(row))
        assert row.status == "FINISHED"
        assert seen / 1000 == pytest.approx(float(row.reason.split()[-2]), abs=0.032)  # the round in which it was due
        assert found.tracked(row).steps("progress/images_seen")[-1] == seen
    assert [(row.seed, row.status, row.reason) for row in repeated] == [(1, "FINISHED", "budget spent"), (2, "FINISHED", "budget spent")]
    assert {found.tags(row)["raygan.packed"] for row in screened} == {"3"}
    assert "packs: 2 of 3 trials" in out + err


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_where_a_pack_s_process_is_killed_its_trials_go_on_from_their_checkpoints(tmp_path):
    process = start(tmp_path, write_config(tmp_path), *LONG, command="sweep")
    wait_until(lambda: len([*(tmp_path / "runs").glob("*/checkpoint_000000003200/checkpoint.json")]) == 3, process)
    (pack,) = pack_processes(process)
    pack.kill()
    status, _, err = finish(process)
    assert status == 0, err
    found = Sweep(tmp_path)
    assert [row.reason for row in found.rows] == ["budget spent"] * 3
    assert sorted(found.tags(row)["raygan.packed"] for row in found.rows) == ["1", "2", "2"]
    for row in found.rows:
        require_every_point_once(found, row, **EVERY)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_packed_sweep_goes_on_after_its_driver_was_killed(tmp_path):
    process = start(tmp_path, write_config(tmp_path), *LONG, "sweep.name=shot", command="sweep")
    wait_until(lambda: len([*(tmp_path / "runs").glob("*/checkpoint_000000003200/checkpoint.json")]) == 3, process)
    kill(process)
    found, _, _ = sweep(tmp_path, "--resume", "shot")
    assert [(row.status, row.reason) for row in found.rows] == [("FINISHED", "budget spent")] * 3
    for row in found.rows:
        require_every_point_once(found, row, **EVERY)
