"""What another process writes to MLflow: the same as this one would, with the store's own words where it refuses, and after it was lost."""

import math
import signal
import threading
import time

import pytest
from mlflow import MlflowClient

from pipelines.clerk import Clerk
from pipelines.run_writer import CLOCK, RunWriter, UndeliveredError
from pipelines.store import Store

NO_STORE = "gopher://nobody"  # a kind that MLflow does not know


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store's URI, a client of it, and an experiment there."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    return uri, client, client.create_experiment("some", artifact_location=str(folder / "artifacts"))


@pytest.fixture
def run(kept):
    """A store's URI, a client of it, and a run there."""
    uri, client, experiment = kept
    return uri, client, client.create_run(experiment).info.run_id


def points(client, run_id, key):
    return [(point.step, point.value, point.timestamp) for point in client.get_metric_history(run_id, key)]


def test_what_it_writes_is_what_the_store_writes(run):
    uri, client, run_id = run
    clerk = Clerk(uri, run_id)
    for number, store in enumerate((Store(uri, run_id), clerk)):
        assert store.latest(f"loss{number}") is None
        store.log([(f"loss{number}", 0.1 + 0.2, 7, 3), (f"loss{number}", 1e-300, 8, 4), (f"odd{number}", math.nan, 8, 4)])
        store.tag(f"tag{number}", 'ä "1"\n')
        assert store.latest(f"loss{number}") == 1e-300
    clerk.close()
    assert points(client, run_id, "loss0") == points(client, run_id, "loss1") == [(3, 0.1 + 0.2, 7), (4, 1e-300, 8)]
    assert math.isnan(client.get_metric_history(run_id, "odd1")[0].value)
    tags = client.get_run(run_id).data.tags
    assert tags["tag0"] == tags["tag1"] == 'ä "1"\n'


def test_what_the_store_refuses_is_told_in_its_own_words(run):
    uri, _, run_id = run
    clerk, refusals = Clerk(uri, run_id), []
    for store in (Store(uri, run_id), clerk):
        with pytest.raises(Exception, match="Invalid value") as refused:
            store.log([("a key of\nno kind", 1.0, 7, 3)])
        refusals.append(str(refused.value))
    assert refusals[0] == refusals[1]
    assert clerk.latest("d/loss") is None
    clerk.close()


def test_nothing_is_lost_and_nothing_written_twice_where_the_process_is_lost(run):
    uri, client, run_id = run
    said = []
    writer = RunWriter(uri, run_id, say=said.append, apart=True)
    for step in range(100):
        writer.add(step, {"d/loss": float(step)})
    assert writer.flush(60)
    writer._store._process.kill()
    for step in range(100, 200):
        writer.add(step, {"d/loss": float(step)})
    writer.close(60)
    for key in ("d/loss", CLOCK):
        assert [(step, value) for step, value, _ in points(client, run_id, key)] == [(step, float(step)) for step in range(200)]
    assert writer._store._process is None


def stopped(writer):
    """The writer's process, which no longer runs, but is there."""
    wait_until(lambda: writer._store._process is not None)
    process = writer._store._process
    process.send_signal(signal.SIGSTOP)
    return process


def wait_until(holds):
    """For a minute at most."""
    give_up_at = time.monotonic() + 60.0
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_a_call_that_hangs_is_left_behind_with_its_process(run, monkeypatch):
    uri, _, run_id = run
    writer = RunWriter(uri, run_id, say=lambda sentence: None, apart=True)
    wait_until(lambda: writer._store.ready_at < math.inf)
    monkeypatch.setattr("pipelines.run_writer.LAST_CALL_SECONDS", 0.2)
    process = stopped(writer)
    writer.add(1, {"d/loss": 1.0})
    began = time.monotonic()
    with pytest.raises(UndeliveredError, match="1 metric points and 0 pictures were not delivered"):
        writer.close(0.5)
    assert time.monotonic() - began < 5.0
    writer._thread.join(5.0)
    assert not writer._thread.is_alive()
    assert process.returncode == -signal.SIGKILL


def test_what_a_run_reports_before_its_process_is_ready_is_delivered_also_in_a_short_time(run, monkeypatch):
    uri, client, run_id = run
    monkeypatch.setattr("pipelines.run_writer.LAST_CALL_SECONDS", 0.0)
    writer = RunWriter(uri, run_id, say=lambda sentence: None, apart=True)
    writer.add(1, {"d/loss": 0.5})
    process = stopped(writer)  # as by a machine that has no time for it
    threading.Timer(3.0, process.send_signal, [signal.SIGCONT]).start()
    writer.close(2.0)
    assert [(step, value) for step, value, _ in points(client, run_id, "d/loss")] == [(1, 0.5)]


def test_a_process_that_never_gets_ready_is_waited_for_up_to_a_limit_and_not_at_all_for_nothing(run, monkeypatch):
    uri, _, run_id = run
    monkeypatch.setattr("pipelines.run_writer.LAST_CALL_SECONDS", 0.0)
    for limit, waits in ((1.0, True), (60.0, False)):
        monkeypatch.setattr("pipelines.run_writer.OPENING_SECONDS", limit)
        writer = RunWriter(uri, run_id, say=lambda sentence: None, apart=True)
        process, began = stopped(writer), time.monotonic()
        if waits:
            writer.add(1, {"d/loss": 0.5})
            with pytest.raises(UndeliveredError):
                writer.close(0.5)
            assert 1.5 <= time.monotonic() - began < 10.0
        else:
            writer.close(60.0)
            assert time.monotonic() - began < 10.0
        writer._thread.join(5.0)
        assert not writer._thread.is_alive()
        assert process.returncode == -signal.SIGKILL


def words_of(told):
    with pytest.raises(Exception, match="gopher") as refused:
        Store(*told)
    return str(refused.value)


def test_a_store_that_cannot_be_opened_ends_the_run_with_its_own_words():
    said = []
    writer = RunWriter(NO_STORE, "some", say=said.append, apart=True)
    writer.add(0, {"d/loss": 1.0})
    writer._thread.join(60.0)
    for report in (lambda: writer.add(1, {"d/loss": 1.0}), lambda: writer.tag("raygan.some", "a reason")):
        with pytest.raises(RuntimeError) as refused:
            report()
        assert str(refused.value) == words_of([NO_STORE, "some"])
    with pytest.raises(UndeliveredError, match=f"^1 metric points and 0 pictures were not delivered to {NO_STORE}, which cannot be opened"):
        writer.close(60.0)
    assert (writer._store._process, said) == (None, [])


def test_a_store_that_cannot_be_opened_by_a_second_process_is_one_that_is_away(run):
    uri, client, run_id = run
    said = []
    writer = RunWriter(uri, run_id, say=said.append, apart=True)
    wait_until(lambda: writer._store.ready_at < math.inf)
    writer._store._told[0] = NO_STORE
    writer._store._process.kill()
    writer.add(0, {"d/loss": 1.0})
    assert not writer.flush(0.1)
    wait_until(lambda: said)
    writer._store._told[0] = uri
    writer.add(1, {"d/loss": 2.0})
    writer.close(60.0)
    assert [(step, value) for step, value, _ in points(client, run_id, "d/loss")] == [(0, 1.0), (1, 2.0)]
    assert "does not take metrics" in said[0]
    assert len(said) == 2
