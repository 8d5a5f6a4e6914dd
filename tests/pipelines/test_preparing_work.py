"""Who makes the shards, when something goes wrong."""

import os
import threading
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import pytest

from pipelines import cluster
from pipelines.preparing import shard, work

BLOCKS = [{"number": number, "count": 1, "units": []} for number in range(3)]


def test_one_cpu_needs_no_other_process(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(shard, "make", lambda block, job: {"number": block["number"]})
    made = work.records(BLOCKS, None, workers=None, ray="never")
    assert [record["number"] for record in made] == [0, 1, 2]


def test_a_pool_that_breaks_while_blocks_are_handed_out_is_reported(monkeypatch):
    class Broken:
        def __init__(self, *_, **__):
            pass

        def submit(self, *_):
            raise BrokenProcessPool

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(work, "ProcessPoolExecutor", Broken)
    with pytest.raises(RuntimeError, match="was killed, perhaps for want of memory"):
        list(work.records(BLOCKS, None, workers=2, ray="never"))


def test_ctrl_c_while_ray_starts_begins_none_of_the_blocks(monkeypatch):
    started, worked = threading.Event(), []

    @contextmanager
    def connected(**_):
        started.wait(10)
        yield

    monkeypatch.setattr(cluster, "connected", connected)
    monkeypatch.setattr(work._RayData, "_work", lambda self, blocks: worked.extend(blocks))
    joined = work._RayData(None, 1)
    with pytest.raises(KeyboardInterrupt), joined:
        threading.Timer(0.2, started.set).start()
        joined._blocks.put(BLOCKS)  # as `records` does, which then waits
        raise KeyboardInterrupt
    assert worked == []
