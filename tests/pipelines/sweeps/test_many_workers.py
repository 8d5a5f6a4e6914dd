"""Trials with workers of their own, through Ray Train: the same result as in one process, and resources given back when one is stopped."""

import pytest

from tests.pipelines.command import write_config
from tests.pipelines.sweeps.runs import require_every_point_once, sweep

ONE = ("smoke", "loss.name=[hinge]", "step_ratio=1:1", "sweep.confirm=0", "sweep.scheduler=fifo", "precision=float64")


@pytest.mark.slow  # two sweeps, more than a minute
def test_two_workers_log_what_one_process_logs(tmp_path):
    config = write_config(tmp_path)
    (tmp_path / "one").mkdir()
    one, _, _ = sweep(tmp_path / "one", config, *ONE)
    two, _, _ = sweep(tmp_path, config, *ONE, "sweep.workers_per_trial=2")
    (left,), (right,) = one.rows, two.rows
    require_every_point_once(two, right, report=160, evaluate=800, total=3200)
    assert (right.status, right.reason, right.phase) == (left.status, left.reason, left.phase) == ("FINISHED", "budget spent", "screen")
    for key in ("d/loss", "g/loss", "quality/kid_pixels"):
        wanted = one.tracked(left).values(key)
        assert two.tracked(right).values(key) == pytest.approx(wanted, rel=1e-6, abs=1e-9), key
    differing = {
        key
        for key, value in one.tracked(left).run.data.params.items()
        if two.tracked(right).run.data.params[key] != value and not key.startswith(("mlflow.", "ray.storage_path"))
    }
    assert differing == {"ray.num_workers"}
    assert two.tags(right)["raygan.budget_spent"].split(",")[:3] == one.tags(left)["raygan.budget_spent"].split(",")[:3]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stopped_trial_gives_its_workers_place_to_the_next(tmp_path):
    """Two cores hold one trial of two workers: each of the five can only start when the one before is gone."""
    words = ["loss.name=[hinge,minimax,least_squares,wasserstein,f_kl]", "step_ratio=1:1", "sweep.workers_per_trial=2", "sweep.confirm=0"]
    found, _, err = sweep(tmp_path, write_config(tmp_path), "loss_x_ratio", *words, "sweep.grace_kimg=0.8", timeout=500)
    reasons = [row.reason for row in found.rows]
    assert "1 at once" in err
    assert set(reasons) <= {"budget spent", "stopped by asha at 0.8 kimg", "stopped by asha at 2.4 kimg"}
    assert 1 <= reasons.count("budget spent") < 5
    for row in found.rows:
        total = 3200 if row.complete else round(float(row.reason.split()[-2]) * 1000)
        require_every_point_once(found, row, report=160, evaluate=800, total=total)
