"""How a rank is, as a thread of its process sees it, and tells the driver's board every second: where on the clock, what it is doing, and
since when it stands still; and its reports since. The training thread is only looked at, by its stack and its CPU clock, so that
this costs it nothing.

Imports are inside, as in rank.py.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

BEAT_SECONDS, ANSWER_SECONDS = 1.0, 10.0
STOP_SECONDS = ANSWER_SECONDS + 2.0  # the beat that is on its way has been answered by then, or given up
KEPT = 16  # reports between two beats
ROOT = f"{Path(__file__).parents[1]}/"
TRAINING, STARTING, DONE = "training", "starting", "done"
# What a rank is doing, by the outermost of its frames that is one of these; such pauses may be long.
PAUSES = {
    "gan_core/trainer.py:_round": TRAINING,
    "gan_core/trainer.py:_evaluate": "evaluating",
    "gan_core/evaluation.py": "evaluating",
    "gan_core/building.py": "loading the data",
    "pipelines/rank.py:save": "saving a checkpoint",
    "pipelines/rank.py:latest_checkpoint": "loading a checkpoint",
    "pipelines/rank.py:may_go_on": "waiting for leave to go on",
    "pipelines/run_writer.py": "delivering metrics",
}
Shown = tuple[int, dict[str, float]]
# Where a thread waits for other ranks, or for Ray Train's controller, which waits for them.
MEETINGS = (
    "gan_core/distributed.py:wait_for_sum",
    "torch/distributed/",
    "ray/train/v2/_internal/execution/collective_impl.py",
    "ray/train/v2/_internal/execution/context.py:_sync_checkpoint_dir_name_across_ranks",
    "ray/train/v2/_internal/execution/context.py:report",
)
UPLOAD = "ray/train/v2/_internal/execution/context.py:_upload_checkpoint"


class Beat(NamedTuple):
    """How a rank is, one of `ranks`. `group` tells one worker group from the next, `waits` is for other ranks, `place` where in our code it
    is.
    """

    group: str
    rank: int
    ranks: int
    node: str
    node_id: str
    pid: int
    born: float
    images_seen: int
    doing: str
    place: str
    waits: bool
    still_seconds: float


class View(NamedTuple):
    """What a stack says: what is being done, the innermost place in our code, and whether other ranks are waited for."""

    doing: str
    place: str
    waits: bool


def view(frame: FrameType | None) -> View:
    """Read the stack that ends in `frame`."""
    doing, place, waits, uploads = STARTING, "", False, False
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        where = f"{file.removeprefix(ROOT)}:{name}"
        waits = waits or (not place and any(meeting in f"{file}:{name}" for meeting in MEETINGS))
        if not place and where.startswith(("gan_core/", "pipelines/")):
            place = f"{name} ({Path(file).name}:{frame.f_lineno})"
        uploads = uploads or f"{file}:{name}".endswith(UPLOAD)
        doing = next((said for start, said in PAUSES.items() if where.startswith(start)), doing)
        frame = frame.f_back
    return View(doing, place, waits and not uploads)


class Reports:
    """Reports that wait to be shown, the oldest first. Of more than KEPT the oldest become one, with the newest of every value."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Shown] = []

    def add(self, images_seen: int, metrics: dict[str, float]) -> None:
        """The newest one."""
        with self._lock:
            self._waiting = _bounded([*self._waiting, (images_seen, metrics)])

    def take(self) -> list[Shown]:
        """All that wait."""
        with self._lock:
            taken, self._waiting = self._waiting, []
        return taken

    def give_back(self, taken: list[Shown]) -> None:
        """They could not be shown; those that came meanwhile are newer."""
        with self._lock:
            self._waiting = _bounded([*taken, *self._waiting])


def _bounded(reports: list[Shown]) -> list[Shown]:
    surplus = len(reports) - KEPT
    return [merged(reports[: surplus + 1]), *reports[surplus + 1 :]] if surplus > 0 else reports


def merged(reports: list[Shown]) -> Shown:
    """The newest of every value."""
    return reports[-1][0], {name: value for _, metrics in reports for name, value in metrics.items()}


class Pulse:
    """Beats for the thread that makes it, until it is stopped; `wish` is the driver's, as of the last beat. What is shown goes to the board
    with the next beat, and then the newest of every value to `export`.
    """

    def __init__(self, board: Any) -> None:
        import psutil
        import ray.train

        from gan_core.wishes import Wish

        context = ray.get_runtime_context()
        self._board, self._rank = board, ray.train.get_context().get_world_rank()
        self._ranks = ray.train.get_context().get_world_size()
        self._group, self._node_id = context.get_placement_group_id() or "", context.get_node_id()
        self._node, self._born = ray.util.get_node_ip_address(), psutil.Process().create_time()
        self._thread = threading.get_ident()
        self._cpu_clock = time.pthread_getcpuclockid(self._thread)
        self._clock: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._signs: tuple[Any, ...] = ()
        self._moved_at = time.monotonic()
        self._ended = threading.Event()
        self._reports = Reports()
        self.export: Callable[[int, dict[str, float]], None] = lambda *_: None
        self.wish: Wish = Wish.NONE
        self._told_of_export = False
        self._beats = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._beats.start()

    def follow(self, clock: Callable[[], tuple[int, int]]) -> None:
        """`clock` gives the images seen and the steps taken."""
        self._clock = clock

    def show(self, images_seen: int, metrics: dict[str, float]) -> None:
        """One report, to be sent with the next beat."""
        self._reports.add(images_seen, metrics)

    def stop(self) -> None:
        """No more beats. Once the last one was answered, or was not, what waits to be shown is sent."""
        self._ended.set()
        self._beats.join(STOP_SECONDS)
        last = self._reports.take()
        for shown in last:
            self._board.put.remote(shown)
        self._export(last)

    def finish(self) -> None:
        """A last beat, which says that this rank has done all it had to."""
        import ray

        self.stop()
        ray.get(self._board.beat.remote(self._look()._replace(doing=DONE, waits=True), []), timeout=ANSWER_SECONDS)

    def _beat(self) -> None:
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        from gan_core.wishes import Wish

        while not self._ended.is_set():
            shown = self._reports.take()
            try:
                self.wish = Wish(ray.get(self._board.beat.remote(self._look(), shown), timeout=ANSWER_SECONDS))
            except (RayError, GetTimeoutError):  # the driver is away; should it be dead, Ray ends this process
                self._reports.give_back(shown)
            except OSError:  # the thread has ended, and its clock with it
                self._reports.give_back(shown)
                return
            else:
                self._export(shown)
            self._ended.wait(BEAT_SECONDS)

    def _export(self, reports: list[Shown]) -> None:
        """Nothing that fails there ends the beats, or the run; it is told once."""
        try:
            if reports:
                self.export(*merged(reports))
        except Exception as error:  # Ray's and Prometheus', of many kinds
            if not self._told_of_export:
                self._board.put.remote(f"the gauges of this run are not its latest: {type(error).__name__}: {error}")
            self._told_of_export = True

    def _look(self) -> Beat:
        seen = view(sys._current_frames().get(self._thread))
        images_seen, steps = self._clock()
        # In training only steps count: a loop that hangs is busy too. A pause lives while its thread uses the CPU.
        busy = () if seen.doing == TRAINING or seen.waits else (time.clock_gettime(self._cpu_clock),)
        signs = (images_seen, steps, seen.doing, seen.waits, *busy)
        if signs != self._signs:
            self._signs, self._moved_at = signs, time.monotonic()
        still = time.monotonic() - self._moved_at
        where = (self._node, self._node_id, os.getpid(), self._born)
        return Beat(self._group, self._rank, self._ranks, *where, images_seen, seen.doing, seen.place, seen.waits, still)
