"""What a run reports, delivered to its MLflow run: once each, in order, in batches, and later if the server is away.

Written by rank 0. Undelivered records travel in every checkpoint, so that a worker that dies takes none with it.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np

from pipelines.clerk import Clerk
from pipelines.run_pictures import encode
from pipelines.store import Point, Store

CLOCK = "progress/images_seen"
METRICS_AT_ONCE = 1000  # the REST API's limit for one request
WAIT_SECONDS, FLUSH_POLL_SECONDS = 5.0, 0.005  # reports of so long are one request, which costs half of what they cost one by one
RETRY_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 15.0  # after a refusal, and twice as long after each further one up to so long
SIGN_SECONDS, LAST_CALL_SECONDS = 0.5, 2.0  # a call that is under way when the time is up may still end well
OPENING_SECONDS = 20.0  # what a last delivery waits at most for a process that imports MLflow on a busy machine


class Record(TypedDict):
    """One report: `step` is images_seen, `picture` a base64 PNG or empty, `tags` belong to the run. JSON as it stands."""

    step: int
    milliseconds: int
    metrics: dict[str, float]
    picture: str
    tags: dict[str, str]


def require_records(found: object) -> list[Record]:
    """What a checkpoint holds of undelivered records.

    Raises:
        ValueError: it is something else.
    """
    records: list[Any] = found if isinstance(found, list) else [found]
    for record in records:
        if not _is_record(record):
            raise ValueError(f"the checkpoint's undelivered records are none, but {str(record)[:100]}")
    return records


def _is_record(found: object) -> bool:
    kinds = {"step": int, "milliseconds": int, "metrics": dict, "picture": str, "tags": dict}
    if not isinstance(found, dict) or found.keys() != kinds.keys() or not all(isinstance(found[key], kinds[key]) for key in kinds):
        return False
    numbers, texts = found["metrics"].values(), found["tags"].values()
    return all(isinstance(value, int | float) for value in numbers) and all(isinstance(value, str) for value in texts)


class UndeliveredError(RuntimeError):
    """Records could not be delivered in the time allowed."""


class _TimeIsUpError(RuntimeError):
    """In the middle of the last delivery."""


class RunWriter:
    """Delivers records to run `run_id` from a thread of its own.

    `clock` is a metric that every record carries, last: its largest delivered step is the high-water mark, below which records are
    repeats (a worker was restarted from a checkpoint) and are dropped. `pending` are records that an earlier worker left. `say` tells
    the user that the store went away, and that it came back. `apart`: MLflow works in a process of its own, which opens the store while
    reports are queued already.

    Raises:
        Exception: the store cannot be opened, in MLflow's words; of one apart, the first `add` or `tag` after that is known raises it.
    """

    def __init__(
        self,
        tracking_uri: str,
        run_id: str,
        *,
        say: Callable[[str], None],
        clock: str = CLOCK,
        pending: list[Record] | None = None,
        apart: bool = False,
    ) -> None:
        self._store = Clerk(tracking_uri, run_id) if apart else Store(tracking_uri, run_id)
        self._uri, self._clock, self._say = tracking_uri, clock, say
        self._queue: list[Record] = list(pending or [])
        self._tags: dict[str, str] = {}
        self._lock = threading.Lock()
        self._closing, self._wake = threading.Event(), threading.Event()
        self._closed_at, self._allowed = math.inf, 0.0
        self._refusal: RuntimeError | None = None
        self._mark: int | None = None
        self._failing_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def add(
        self,
        step: int,
        metrics: dict[str, float],
        picture: np.ndarray[Any, Any] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Queue one report and return at once; `step` grows from call to call. `tags` are set on the run."""
        self._require_open()
        record = Record(step=step, milliseconds=int(time.time() * 1000), metrics=metrics, picture=encode(picture), tags=tags or {})
        with self._lock:
            self._queue.append(record)

    def tag(self, key: str, value: str) -> None:
        """Queue a tag of the run that belongs to no report, to be delivered now, and return at once. It does not travel in checkpoints."""
        self._require_open()
        with self._lock:
            self._tags[key] = value
        self._wake.set()

    def pending(self) -> list[Record]:
        """The records that are not known to be delivered."""
        with self._lock:
            return list(self._queue)

    def flush(self, timeout_seconds: float) -> bool:
        """Deliver what waits, now; returns whether nothing is left."""
        give_up_at = time.monotonic() + timeout_seconds
        self._wake.set()
        while left := bool(self.pending()):
            if time.monotonic() > give_up_at:
                break
            time.sleep(FLUSH_POLL_SECONDS)
        return not left

    def close(self, timeout_seconds: float) -> None:
        """Deliver what waits. A call that hangs, as calls to a network that swallows packets do, is left behind.

        Raises:
            UndeliveredError: some records still wait `timeout_seconds` after the store was open.
        """
        self._allowed, self._closed_at = timeout_seconds, time.monotonic()
        self._closing.set()
        self._wake.set()
        while self._thread.is_alive() and time.monotonic() < self._give_up_at() + LAST_CALL_SECONDS:
            if self._store.ready_at == math.inf and not (self.pending() or self._tags):
                break
            self._thread.join(SIGN_SECONDS)  # who looks whether this rank lives sees its CPU clock move
        self._store.close()
        left = self.pending()
        if left:
            points, pictures = sum(len(record["metrics"]) for record in left), sum(bool(record["picture"]) for record in left)
            why = f" within {timeout_seconds:g} s" if self._refusal is None else f", which cannot be opened ({_reason(self._refusal)})"
            raise UndeliveredError(f"{points} metric points and {pictures} pictures were not delivered to {self._uri}{why}")

    def _give_up_at(self) -> float:
        """When the last delivery ends. Its time begins when the store is open, which is waited for so long at most."""
        return min(max(self._closed_at, self._store.ready_at), self._closed_at + OPENING_SECONDS) + self._allowed

    def _require_open(self) -> None:
        if self._refusal is not None:
            raise RuntimeError(str(self._refusal)) from self._refusal

    def _open(self) -> bool:
        """Whether the store may be used: what opening it raises is no outage. A process that was lost is begun again by the next call."""
        try:
            self._store.open()
        except OSError:
            return True
        except RuntimeError as error:
            self._refusal = error
        return self._refusal is None

    def _work(self) -> None:
        if self._open():
            self._deliver_all()

    def _deliver_all(self) -> None:
        wait, retry, closing = WAIT_SECONDS, RETRY_SECONDS, False
        while True:
            if not self._closing.is_set():
                self._wake.wait(wait)
                self._wake.clear()
            if self._closing.is_set() and not closing:  # the last delivery has no time for pauses as long as an outage has made them
                closing, retry = True, RETRY_SECONDS
            if self._closing.is_set() and (not (self.pending() or self._tags) or time.monotonic() > self._give_up_at()):
                return
            try:
                self._deliver(self.pending())
                self._deliver_tags()
            except _TimeIsUpError:
                return
            except Exception as error:  # whatever the store raises: the records stay queued, and close() reports what is left
                self._note_failure(error)
                wait, retry = retry, min(retry * 2, LONGEST_WAIT_SECONDS)
                if self._closing.is_set():
                    time.sleep(min(wait, max(0.0, self._give_up_at() - time.monotonic())))
            else:
                self._note_success()
                wait, retry = WAIT_SECONDS, RETRY_SECONDS

    def _deliver(self, records: list[Record]) -> None:
        if self._mark is None:
            self._find_mark()
        assert self._mark is not None
        fresh = [record for record in records if record["step"] > self._mark]
        for record in fresh:
            self._require_time()
            if record["picture"]:
                self._store.picture(record["step"], record["milliseconds"], record["picture"])
            for key, value in record["tags"].items():
                self._store.tag(key, value)
        for batch in _batches([self._points(record) for record in fresh]):
            self._require_time()
            self._store.log(batch)
            self._mark = batch[-1][3]
        with self._lock:
            del self._queue[: len(records)]

    def _require_time(self) -> None:
        if time.monotonic() > self._give_up_at():
            raise _TimeIsUpError

    def _deliver_tags(self) -> None:
        with self._lock:
            tags = dict(self._tags)
        for key, value in tags.items():
            self._store.tag(key, value)
        with self._lock:
            self._tags = {key: value for key, value in self._tags.items() if tags.get(key) != value}

    def _points(self, record: Record) -> list[Point]:
        """The record's points, the clock last: where the clock stands, everything before it was delivered."""
        values = {**record["metrics"], self._clock: float(record["step"])}
        return [(key, value, record["milliseconds"], record["step"]) for key, value in values.items()]

    def _find_mark(self) -> None:
        delivered = self._store.latest(self._clock)
        self._mark = -1 if delivered is None else int(delivered)

    def _note_failure(self, error: Exception) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            self._say(f"{self._uri} does not take metrics ({_reason(error)}); training goes on, points wait")

    def _note_success(self) -> None:
        if self._failing_since is not None:
            self._say(f"{self._uri} takes metrics again, after {time.monotonic() - self._failing_since:.0f} s")
            self._failing_since = None


def _reason(error: Exception) -> str:
    """In one line."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _batches(records: list[list[Point]]) -> list[list[Point]]:
    """Records joined into requests of at most METRICS_AT_ONCE points, none cut in two."""
    batches: list[list[Point]] = []
    for points in records:
        if not batches or len(batches[-1]) + len(points) > METRICS_AT_ONCE:
            batches.append([])
        batches[-1].extend(points)
    return batches
