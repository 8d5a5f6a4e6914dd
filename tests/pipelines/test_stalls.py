"""Ranks that stand still, through Ray: who is told to, when they are ended, and what becomes of the run."""

import json
import re
import signal
import time
from pathlib import Path

import pytest

from tests.chaos.faults import ranks_of
from tests.chaos.injected import FAULTY
from tests.chaos.judge import compare
from tests.chaos.runs import BATCH, ROOT, TOTAL, Run, wait_for, write_config
from tests.pipelines.command import TrackedRun

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEP = TOTAL // BATCH // 3 + 100  # the discriminator step at which ranks stand still, between two checkpoints
ENDED_WITHIN = 30.0  # seconds after its time, on a busy machine


@pytest.fixture
def new(tmp_path_factory):
    """Makes trainings with two workers, each in a folder of its own, of which nothing is left after the test."""
    made = []

    def make(*words, sleep_at=()):
        folder = tmp_path_factory.mktemp("stall")
        run = Run(folder, f"sqlite:///{folder}/mlflow.db")
        faults = json.dumps({"sleep_at": [{"d_step": STEP, "rank": 1, **fault} for fault in sleep_at]})
        run.environment = {"PYTHONPATH": f"{FAULTY}:{ROOT}", "RAYGAN_TEST_FAULTS": faults}
        made.append(run)
        run.start("train", write_config(folder, run.uri, str(run.storage), workers=2), *words)
        return run

    yield make
    for run in made:
        run.end()


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """What a run leaves that nobody disturbed."""
    folder = tmp_path_factory.mktemp("quiet")
    run = Run(folder, f"sqlite:///{folder}/mlflow.db")
    try:
        run.start("train", write_config(folder, run.uri, str(run.storage), workers=2))
        assert run.finish(400) == 0, run.said
        (left,) = run.left()
        return left
    finally:
        run.end()


def name(rank, process):
    return rf"rank {rank} \(node 127\.0\.0\.1, process {process.pid}\)"


def require_mended(run, wanted, culprit, sentence):
    """It went on by itself, once; said why, on the terminal and in MLflow; and left what an undisturbed run leaves."""
    assert run.finish(400) == 0, run.said
    assert len(re.findall("continuing from the checkpoint at", run.said)) == 1
    assert re.search(rf"no progress for \d+ s: .*{culprit}", run.said), run.said
    assert re.search(rf"a new group of 2 workers, because {sentence}", run.said), run.said
    (left,), (run_id,) = run.left(), run.run_ids
    assert re.search(sentence, TrackedRun(run.folder, run_id, run.uri).run.data.tags["raygan.stalls"])
    assert compare(left, wanted, exact=True) == []
    assert run.leaves_nothing() == []


@pytest.mark.parametrize(
    ("words", "least", "ended_by"),
    [
        (("ray.stall_timeout_seconds=8", "ray.collective_timeout_seconds=300"), 8.0, "raygan"),
        (("ray.stall_timeout_seconds=300", "ray.collective_timeout_seconds=10"), 10.0, "torch"),
    ],
    ids=["by raygan's patience", "by PyTorch's"],
)
def test_a_rank_that_sleeps_in_a_step_is_named_and_replaced(new, wanted, tmp_path, words, least, ended_by):
    """Another rank waits for it in a collective, and is not to blame."""
    marker = tmp_path / "slept"
    run = new(*words, sleep_at=[{"times": 1, "marker": str(marker)}])
    assert wait_for(marker.exists, 240), run.said
    ranks, slept_at = ranks_of(run), time.monotonic()
    assert sorted(ranks) == [0, 1]
    assert wait_for(lambda: not ranks[1].is_running(), 90), run.said
    assert least - 2.0 <= time.monotonic() - slept_at <= least + ENDED_WITHIN
    seen = STEP * BATCH / 1000
    require_mended(
        run,
        wanted,
        name(1, ranks[1]),
        rf"{name(1, ranks[1])} stands still since [\d:]+: training at {seen:.1f} kimg, in \w+ \(\w+\.py:\d+\); "
        rf"{name(0, ranks[0])} in \w+ \(\w+\.py:\d+\) waits for it",
    )
    assert ("ending 1 of 2 workers" in run.said) == (ended_by == "raygan")


def test_a_rank_that_is_stopped_is_named_and_replaced(new, wanted):
    """SIGSTOP of the one that saves for all: it cannot even say that it lives."""
    run = new("ray.stall_timeout_seconds=20", "ray.collective_timeout_seconds=300")
    assert run.reach(STEP * BATCH)
    ranks = wait_for(lambda: ranks_of(run), 60)
    ranks[0].send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    assert wait_for(lambda: not ranks[0].is_running(), 90), run.said
    assert 18.0 <= time.monotonic() - stopped_at <= 20.0 + ENDED_WITHIN
    silent = rf"{name(0, ranks[0])} is silent since [\d:]+; it was .*; {name(1, ranks[1])} in .* waits for it"
    require_mended(run, wanted, name(0, ranks[0]), silent)


def test_a_rank_that_hangs_again_and_again_ends_the_run_with_a_named_failure(new):
    patience, failures = 8, 1
    words = (f"ray.stall_timeout_seconds={patience}", "ray.collective_timeout_seconds=300", f"ray.max_failures={failures}")
    run = new(*words, sleep_at=[{}])
    assert run.reach(STEP * BATCH * 3 // 4), run.said
    began = time.monotonic()
    assert run.finish(400) == 1, run.said
    assert (failures + 1) * patience <= time.monotonic() - began <= (failures + 1) * (patience + 40.0)
    assert run.said.count("ending 1 of 2 workers") == failures + 1
    assert re.search(r"Before that, rank 1 \(node 127\.0\.0\.1, process \d+\) stands still since", run.said), run.said
    (run_id,) = run.run_ids
    assert f"continue it with: raygan train --resume {run_id}" in run.said
    assert "Traceback" not in run.said
    assert TrackedRun(run.folder, run_id, run.uri).run.info.status == "FAILED"
    assert run.leaves_nothing() == []
    assert max(int(path.name[-12:]) for path in Path(run.storage, run_id).glob("checkpoint_*")) < STEP * BATCH
