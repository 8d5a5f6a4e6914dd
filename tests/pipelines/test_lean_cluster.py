"""A cluster of our own: its workers yield to nobody, what works beside them does, and what nobody can see is not measured."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
from ray.train import RunConfig, ScalingConfig

from pipelines import board, cluster, yielding
from pipelines.forgiving import ForgivingTrainer
from pipelines.process_group import ProcessGroup

pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning:ray.data")  # by Ray, of its own settings


@pytest.fixture(scope="module")
def ours():
    """Within a cluster of our own that trains, without a dashboard."""
    with cluster.connected(dashboard=False, trains=True):
        yield


def niceness(_=None):
    """Of the thread that runs this."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def of_all_threads(_=None):
    return {os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in Path("/proc/self/task").iterdir()}


ON_LINUX = pytest.mark.skipif(not yielding.THREADS.is_dir(), reason="Linux has a niceness for each thread")


@ON_LINUX
def test_workers_yield_to_nobody_and_the_board_to_them(ours):
    begun = niceness()
    assert ray.get(ray.remote(niceness).remote(), timeout=60) == begun
    beside = board.new({})
    assert ray.get(beside.__ray_call__.remote(of_all_threads), timeout=60) == {max(begun, yielding.NICENESS)}
    assert ray.get(beside.take.remote(), timeout=60).said == []
    ray.kill(beside)


def beside_a_rank():
    """Niceness of the rank, and of Ray Train's processes beside it, once these yield."""
    names = ("ray::TrainController", "ray::SynchronizationActor")
    this, found = psutil.Process(), {}
    for _ in range(300):
        with suppress(psutil.NoSuchProcess):
            titles = {"".join(process.cmdline()): process for process in psutil.Process(this.ppid()).children()}
            found = {name: process.nice() for title, process in titles.items() for name in names if title.startswith(name)}
        if len(found) == len(names) and min(found.values()) >= yielding.NICENESS:
            break
        time.sleep(0.1)
    return {"rank": niceness(), **found}


@ON_LINUX
def test_ray_trains_processes_yield_to_the_ranks(ours, tmp_path):
    begun = niceness()
    trainer = ForgivingTrainer(
        beside_a_rank,
        leanly=True,
        backend_config=ProcessGroup("gloo", timeout_s=30),
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name="x", storage_path=str(tmp_path)),
    )
    beside = max(begun, yielding.NICENESS)
    assert trainer.fit().return_value == {"rank": begun, "ray::TrainController": beside, "ray::SynchronizationActor": beside}


def test_the_agent_has_nothing_to_do_where_nobody_watches(ours):
    log = Path(ray._private.worker._global_node.get_logs_dir_path(), "dashboard_agent.log")
    assert "Loaded 0 modules" in log.read_text()


def test_what_the_user_has_set_for_ray_stays_and_only_ranks_come_first(monkeypatch):
    sweeps, trains = (cluster._settings(dashboard=True, trains=trains) for trains in (False, True))
    assert "worker_niceness" not in sweeps
    assert trains == {**sweeps, "worker_niceness": 0}
    assert "memory_monitor_refresh_ms" not in trains
    for name in ("worker_niceness", "event_stats", "task_events_max_num_task_in_gcs"):
        monkeypatch.setenv(f"RAY_{name}", "7")
        del trains[name]
    assert cluster._settings(dashboard=True, trains=True) == trains
