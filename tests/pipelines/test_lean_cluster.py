"""A cluster of our own: its workers yield to nobody, what works beside them does, and what nobody can see is not measured."""

import os
from pathlib import Path

import pytest
import ray

from pipelines import board, cluster, yielding


@pytest.fixture(scope="module")
def ours():
    """Within a cluster of our own, without a dashboard."""
    with cluster.connected(dashboard=False):
        yield


def niceness(_=None):
    """Of all threads of this process."""
    return {os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in Path("/proc/self/task").iterdir()}


@pytest.mark.skipif(not yielding.THREADS.is_dir(), reason="Linux has a niceness for each thread")
def test_workers_yield_to_nobody_and_the_board_to_them(ours):
    begun = os.getpriority(os.PRIO_PROCESS, 0)
    assert begun in ray.get(ray.remote(niceness).remote(), timeout=60)
    beside = board.new({})
    assert max(ray.get(beside.__ray_call__.remote(niceness), timeout=60)) == yielding.NICENESS
    assert ray.get(beside.take.remote(), timeout=60).said == []
    ray.kill(beside)


def test_the_agent_has_nothing_to_do_where_nobody_watches(ours):
    log = Path(ray._private.worker._global_node.get_logs_dir_path(), "dashboard_agent.log")
    assert "Loaded 0 modules" in log.read_text()
