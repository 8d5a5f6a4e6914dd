"""Who makes the shards: processes of this machine at once, and Ray Data for what is worth its start.

Ray takes seconds to start, in which 60,000 small images are done. So this machine begins, measures itself, and hands the rest over.
"""

import json
import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from multiprocessing.connection import wait as wait_for
from types import TracebackType
from typing import Any, Literal

from pipelines.preparing import shard
from pipelines.preparing.inventory import Block
from pipelines.preparing.shard import Job, Record

RayUse = Literal["auto", "always", "never"]
WORTH_SECONDS = 30.0  # of work that is left: about five times Ray's start and end
WORTH_SECONDS_ON_A_CLUSTER = 10.0  # it is there already, and has more machines
LOOK_SECONDS = 3.0  # before it is said how long the rest will take
AHEAD = 2  # blocks that a process has or waits for


def records(blocks: list[Block], job: Job, *, workers: int | None, ray: RayUse) -> Iterator[Record]:
    """The records of all blocks, as they are made. `workers` bounds the tasks at once; None is a task for each CPU.

    Raises:
        RuntimeError: a process was killed, or a task failed on the cluster.
        OSError: the source or the destination fails.
    """
    if not blocks:
        return
    with ExitStack() as stack:
        if ray == "always":
            yield from stack.enter_context(_RayData(job, workers)).records(blocks)
            return
        cluster: _RayData | None = None
        waiting, rest, began = deque(blocks), list[Block](), 0.0
        tasks = min(workers or os.cpu_count() or 1, len(blocks))
        here = _inline if tasks == 1 else _processes
        for done, record in enumerate(here(waiting, job, tasks)):
            yield record
            began = began or time.monotonic()  # from the first record: before it processes start
            elapsed = time.monotonic() - began
            if ray == "auto" and cluster is None and done and elapsed >= LOOK_SECONDS and elapsed / done * len(waiting) > _worth():
                cluster = stack.enter_context(_RayData(job, workers))
            if cluster is not None and cluster.is_ready():
                rest += waiting
                waiting.clear()
        if cluster is not None:
            yield from cluster.records(rest)


def _worth() -> float:
    return WORTH_SECONDS_ON_A_CLUSTER if os.environ.get("RAY_ADDRESS") else WORTH_SECONDS


def _inline(waiting: deque[Block], job: Job, workers: int) -> Iterator[Record]:
    while waiting:
        yield shard.make(waiting.popleft(), job)


def _processes(waiting: deque[Block], job: Job, workers: int) -> Iterator[Record]:
    """By this process and others of this machine, which take from `waiting` what is still there."""
    others = workers - 1
    context = multiprocessing.get_context("spawn")  # pyarrow has threads, which a fork does not survive
    with ExitStack() as stack:
        pool = ProcessPoolExecutor(others, mp_context=context, initializer=_attend_to_the_parent)
        stack.callback(pool.shutdown, cancel_futures=True)  # what is at hand is finished, and kept
        running: set[Future[Record]] = set()
        try:
            while waiting or running:
                while waiting and len(running) < AHEAD * others:
                    running.add(pool.submit(shard.make, waiting.popleft(), job))
                if waiting:
                    yield shard.make(waiting.popleft(), job)
                done, running = wait(running, timeout=0.0 if waiting else None, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise RuntimeError("a process that makes shards was killed, perhaps for want of memory; try fewer --workers") from None


def _attend_to_the_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it is gone, however it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _make_row(row: dict[str, str], job: Job) -> dict[str, str]:
    """`shard.make` for Ray Data, whose rows are columns of text."""
    return {"record": json.dumps(shard.make(json.loads(row["block"]), job))}


class _RayData:
    """A cluster that is being joined in a thread of its own, which must live as long: Ray's processes end with the thread that started
    them. `records` hands it the blocks.
    """

    def __init__(self, job: Job, workers: int | None) -> None:
        self._job, self._workers = job, workers
        self._ready, self._stopped = threading.Event(), threading.Event()
        self._blocks: queue.Queue[list[Block]] = queue.Queue()
        self._said: queue.Queue[Record | BaseException | None] = queue.Queue()
        self._thread = threading.Thread(target=self._live, name="ray-data", daemon=True)

    def __enter__(self) -> "_RayData":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._stopped.set()  # what it was handed while Ray started is not begun
            if self._ready.is_set():
                import ray

                ray.shutdown()  # the tasks end with it
        self._blocks.put([])
        self._thread.join()

    def is_ready(self) -> bool:
        """Whether it can be handed blocks, or has failed to start, which `records` will tell."""
        return self._ready.is_set()

    def records(self, blocks: list[Block]) -> Iterator[Record]:
        """The records of the blocks, as they are made.

        Raises:
            RuntimeError: Ray could not be joined, or a task failed.
        """
        self._blocks.put(blocks)
        while (said := self._said.get()) is not None:
            if isinstance(said, BaseException):
                lines = str(said).strip().splitlines() or [type(said).__name__]
                raise RuntimeError(f"Ray: {lines[-1].strip()}") from said
            yield said

    def _live(self) -> None:
        try:
            from pipelines.cluster import connected

            with connected(dashboard=False):
                self._ready.set()
                blocks = self._blocks.get()
                if blocks and not self._stopped.is_set():
                    self._work(blocks)
            self._said.put(None)
        except BaseException as error:  # handed to whoever waits
            self._said.put(error)
        finally:
            self._ready.set()

    def _work(self, blocks: list[Block]) -> None:
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows: list[Any] = [{"block": json.dumps(block)} for block in blocks]
        made = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _make_row,
            fn_kwargs={"job": self._job},
            num_cpus=1,
            compute=ray.data.TaskPoolStrategy(size=self._workers),
        )
        for row in made.iter_rows():
            if self._stopped.is_set():
                return
            self._said.put(json.loads(row["record"]))
