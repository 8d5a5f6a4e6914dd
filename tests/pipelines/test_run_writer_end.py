"""How a writer ends, and how it waits: within its time, between two calls, and not longer after an outage than it has to."""

import threading
import time
from types import SimpleNamespace

import pytest

from pipelines import run_writer
from pipelines.run_writer import RunWriter, UndeliveredError
from tests.pipelines.store_stand_in import PACE, SAID, install, picture, wait_until


@pytest.fixture
def store(monkeypatch):
    return install(monkeypatch)


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
