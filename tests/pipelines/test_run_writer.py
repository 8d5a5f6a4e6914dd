import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mlflow.store.tracking.rest_store import RestStore
from PIL import Image

from pipelines import run_writer
from pipelines import store as stores
from pipelines.run_pictures import step_of
from pipelines.run_writer import CLOCK, RunWriter, UndeliveredError


class Store:
    """Stands for an MLflow store: keeps what it is given, and can be away, or away after some calls."""

    def __init__(self):
        self.points, self.files, self.calls, self.tags = [], {}, [], {}
        self.away, self.fail_after = False, None
        self.lock = threading.Lock()

    def answer(self, call):
        with self.lock:
            if self.fail_after is not None:
                self.fail_after -= 1
                if self.fail_after < 0:
                    self.away = True
            if self.away:
                raise ConnectionError("nobody answers")
            self.calls.append(call)

    def get_run(self, run_id):
        self.answer("get_run")
        clock = [point for point in self.points if point.key == CLOCK]
        latest = {CLOCK: max(point.step for point in clock)} if clock else {}
        return SimpleNamespace(data=SimpleNamespace(metrics=latest))

    def list_artifacts(self, run_id, path):
        self.answer("list_artifacts")
        return [SimpleNamespace(path=f"images/{name}") for name in self.files]

    def log_artifact(self, run_id, path, folder):
        self.answer("log_artifact")
        self.files[Path(path).name] = np.asarray(Image.open(path))

    def set_tag(self, run_id, key, value, synchronous=True):
        self.answer("set_tag")
        self.tags[key] = value

    def log_batch(self, run_id, metrics, synchronous):
        self.answer("log_batch")
        assert len(metrics) <= 1000
        self.points += metrics

    @property
    def pictures(self):
        """Step and pixels of every full picture; each has its preview."""
        full = [(step_of(f"images/{name}"), pixels) for name, pixels in self.files.items() if name.endswith(".png")]
        assert len(self.files) == 2 * len(full)
        return full

    def steps(self, key):
        return [point.step for point in self.points if point.key == key]


SAID = []
PACE = {name: getattr(run_writer, name) for name in ("WAIT_SECONDS", "RETRY_SECONDS", "LONGEST_WAIT_SECONDS")}


@pytest.fixture
def store(monkeypatch):
    store = Store()
    SAID.clear()
    monkeypatch.setattr(stores, "patient_client", lambda uri: store)
    for name, seconds in zip(PACE, (0.02, 0.02, 0.05), strict=True):
        monkeypatch.setattr(run_writer, name, seconds)
    return store


def picture(value):
    return np.full((4, 5, 3), value, np.uint8)


def test_everything_arrives_once_and_in_order(store):
    writer = RunWriter("uri", "run", say=SAID.append)
    for step in range(500):
        writer.add(step, {"d/loss": float(step), "g/loss": 1.0}, picture(step // 4) if step % 100 == 0 else None)
    writer.close(5)
    assert store.steps("d/loss") == store.steps(CLOCK) == list(range(500))
    assert [point.value for point in store.points if point.key == "d/loss"] == [float(step) for step in range(500)]
    assert [step for step, _ in store.pictures] == [0, 100, 200, 300, 400]
    np.testing.assert_array_equal(store.pictures[2][1], picture(50))


def test_tags_arrive_also_after_the_store_was_away(store):
    store.away = True
    writer = RunWriter("uri", "run", say=SAID.append)
    writer.add(3, {"d/loss": 0.0}, tags={"alarm.collapse": "at 0.0 kimg"})
    writer.add(4, {"d/loss": 0.0})
    time.sleep(0.1)
    assert "alarm.collapse" not in store.tags
    store.away = False
    writer.close(5)
    assert store.tags["alarm.collapse"] == "at 0.0 kimg"
    assert store.steps("d/loss") == [3, 4]


def test_a_request_never_holds_half_a_report():
    records = [[object()] * 300 for _ in range(7)]
    batches = run_writer._batches(records)
    assert [len(batch) for batch in batches] == [900, 900, 300]


def test_training_does_not_wait_for_a_store_that_is_away_and_nothing_is_lost(store):
    store.away = True
    writer = RunWriter("uri", "run", say=SAID.append)
    started = time.monotonic()
    for step in range(200):
        writer.add(step, {"d/loss": 0.0}, picture(1) if step == 7 else None)
    assert time.monotonic() - started < 1
    time.sleep(0.2)
    assert len(writer.pending()) == 200
    store.away = False
    writer.close(5)
    went, came = SAID
    assert went == "uri does not take metrics (nobody answers); training goes on, points wait"
    assert came.startswith("uri takes metrics again, after")
    assert store.steps("d/loss") == list(range(200))
    assert [step for step, _ in store.pictures] == [7]


@pytest.mark.parametrize("calls", range(1, 14))
def test_a_store_that_fails_in_the_middle_gets_every_point_once(store, calls):
    store.fail_after = calls
    writer = RunWriter("uri", "run", say=SAID.append)
    for step in range(3000):
        writer.add(step, {"d/loss": 0.0}, picture(step) if step in (3, 5) else None)
    time.sleep(0.3)
    store.away, store.fail_after = False, None
    writer.close(5)
    assert store.steps("d/loss") == list(range(3000))
    assert [step for step, _ in store.pictures] == [3, 5]


def test_what_cannot_be_delivered_is_an_error_that_counts_it(store):
    store.away = True
    writer = RunWriter("uri", "run", say=SAID.append)
    writer.add(0, {"a": 1.0, "b": 2.0}, picture(0))
    writer.add(1, {"a": 1.0})
    with pytest.raises(UndeliveredError, match="3 metric points and 1 pictures were not delivered to uri within 0.2 s"):
        writer.close(0.2)


def test_a_restarted_worker_repeats_nothing_and_leaves_no_gap(store):
    first = RunWriter("uri", "run", say=SAID.append)
    for step in range(10):
        first.add(step, {"d/loss": float(step)}, picture(step) if step in (4, 9) else None)
    first.close(5)
    again = RunWriter("uri", "run", say=SAID.append)  # restarted from a checkpoint at step 4
    for step in range(5, 15):
        again.add(step, {"d/loss": float(step)}, picture(step) if step == 9 else None)
    again.close(5)
    assert store.steps("d/loss") == list(range(15))
    assert [step for step, _ in store.pictures] == [4, 9]


def test_records_that_waited_in_a_checkpoint_are_delivered_by_the_next_worker(store):
    store.away = True
    dead = RunWriter("uri", "run", say=SAID.append)
    for step in range(5):
        dead.add(step, {"d/loss": float(step)}, picture(step) if step == 2 else None)
    carried = json.loads(json.dumps(dead.pending()))
    with pytest.raises(UndeliveredError):
        dead.close(0.1)
    store.away = False
    heir = RunWriter("uri", "run", say=SAID.append, pending=carried)
    heir.add(5, {"d/loss": 5.0})
    heir.close(5)
    assert store.steps("d/loss") == list(range(6))
    np.testing.assert_array_equal(store.pictures[0][1], picture(2))


def test_a_picture_that_arrived_by_half_is_completed_under_its_name_by_the_next_worker(store):
    store.fail_after = 3  # get_run, list_artifacts, the full picture; then the preview fails
    dead = RunWriter("uri", "run", say=SAID.append)
    dead.add(8, {}, picture(8))
    with pytest.raises(UndeliveredError):
        dead.close(0.3)
    assert len(store.files) == 1
    store.away, store.fail_after = False, None
    time.sleep(0.01)
    heir = RunWriter("uri", "run", say=SAID.append)
    heir.add(8, {}, picture(8))
    heir.close(5)
    assert [step for step, _ in store.pictures] == [8]


def closed_in(writer, seconds):
    """How long it took to give up."""
    started = time.monotonic()
    with pytest.raises(UndeliveredError):
        writer.close(seconds)
    return time.monotonic() - started


def test_a_call_that_hangs_is_not_waited_for_beyond_its_time(store, monkeypatch):
    """A network that swallows packets answers nothing for as long as the client's own limits allow."""
    monkeypatch.setattr(run_writer, "LAST_CALL_SECONDS", 0.3)
    back = threading.Event()
    monkeypatch.setattr(store, "log_batch", lambda *given, **options: back.wait(60.0))
    writer = RunWriter("uri", "run", say=SAID.append)
    writer.add(0, {"d/loss": 0.0})
    time.sleep(0.2)
    took = closed_in(writer, 0.5)
    back.set()
    assert 0.5 <= took < 10.0


@pytest.mark.parametrize("slow", ["log_artifact", "log_batch"])
def test_the_last_delivery_ends_between_two_calls_when_its_time_is_up(store, monkeypatch, slow):
    monkeypatch.setattr(run_writer, "METRICS_AT_ONCE", 2)
    calls, do = [], getattr(store, slow)

    def slowly(*given, **options):
        calls.append(slow)
        time.sleep(0.1)
        do(*given, **options)

    monkeypatch.setattr(store, slow, slowly)
    monkeypatch.setattr(run_writer, "WAIT_SECONDS", 60.0)  # nothing is delivered before the end
    writer = RunWriter("uri", "run", say=SAID.append)
    for step in range(100):
        writer.add(step, {"d/loss": 0.0}, picture(1) if slow == "log_artifact" else None)
    assert closed_in(writer, 0.5) < 10.0
    assert not writer._thread.is_alive()
    assert 1 <= len(calls) <= 8
    assert SAID == []


def test_a_rank_that_delivers_shows_signs_of_life(store, monkeypatch):
    """Its thread's CPU clock moves, which is what its pulse looks at: metrics may take longer than ranks may stand still."""
    import sys

    from pipelines import pulse

    monkeypatch.setattr(run_writer, "SIGN_SECONDS", 0.05)
    store.away = True
    writer = RunWriter("uri", "run", say=SAID.append)
    writer.add(0, {"d/loss": 0.0})
    rank = threading.Thread(target=lambda: closed_in(writer, 3.0))
    rank.start()
    clock = time.pthread_getcpuclockid(rank.ident)
    time.sleep(0.5)
    seen = []
    for _ in range(3):
        assert pulse.view(sys._current_frames()[rank.ident]).doing == "delivering metrics"
        seen.append(time.clock_gettime(clock))
        time.sleep(0.5)
    rank.join()
    assert seen[0] < seen[1] < seen[2]


def test_the_end_of_a_run_on_a_server_prints_none_of_mlflows_own_links(monkeypatch, capsys):
    calls = []
    for name in ("update_run_info", "get_run"):
        monkeypatch.setattr(RestStore, name, lambda *given, name=name, **options: calls.append(name))
    stores.patient_client("http://127.0.0.1:9").set_terminated("some", "FINISHED")
    assert (calls, capsys.readouterr().out) == (["update_run_info"], "")


@pytest.fixture
def clock(store, monkeypatch):
    """The paces of a real run, on a clock that pauses alone move."""
    for name, seconds in PACE.items():
        monkeypatch.setattr(run_writer, name, seconds)
    now = [1000.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(run_writer, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep, time=time.time))
    return now


@pytest.fixture
def refusals(store, monkeypatch):
    """How often the store refused; it refuses `refusals.left` times more."""
    refusals, answer = SimpleNamespace(count=0, left=0), store.answer

    def refuse(call):
        if refusals.left:
            refusals.count, refusals.left = refusals.count + 1, refusals.left - 1
            raise ConnectionError("not now")
        answer(call)

    monkeypatch.setattr(store, "answer", refuse)
    return refusals


@pytest.mark.parametrize("before", [0, 6])
def test_a_last_delivery_of_five_seconds_survives_a_refusal_also_after_an_outage(store, clock, refusals, before):
    writer, refusals.left = RunWriter("uri", "run", say=SAID.append), before + 1
    writer.add(3, {"d/loss": 0.5})
    for count in range(1, before + 1):
        writer.tag("raygan.some", str(count))
        wait_until(lambda count=count: refusals.count == count)
    writer.close(5.0)
    assert store.steps("d/loss") == [3]
    assert clock == [1001.0]


def test_pauses_after_refusals_double_up_to_the_longest(store, clock, refusals):
    writer, refusals.left, started = RunWriter("uri", "run", say=SAID.append), 7, clock[0]
    writer.add(3, {"d/loss": 0.5})
    writer.close(600.0)
    assert store.steps("d/loss") == [3]
    assert clock[0] - started == 1.0 + 2.0 + 4.0 + 8.0 + 15.0 + 15.0 + 15.0


def test_a_tag_is_delivered_at_once(store, monkeypatch):
    monkeypatch.setattr(run_writer, "WAIT_SECONDS", 600.0)
    writer = RunWriter("uri", "run", say=SAID.append)
    writer.tag("raygan.damaged.some", "a reason")
    wait_until(lambda: store.tags)
    writer.close(5)
    assert store.tags == {"raygan.damaged.some": "a reason"}


def wait_until(holds):
    """For ten seconds at most."""
    give_up_at = time.monotonic() + 10.0
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)
