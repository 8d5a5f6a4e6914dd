"""What another process writes to MLflow: the same as this one would, with the store's own words where it refuses, and after it was lost."""

import math
import time

import pytest
from mlflow import MlflowClient

from pipelines.clerk import Clerk
from pipelines.run_writer import CLOCK, RunWriter, Store


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
    assert writer._store._process.poll() is not None


def test_a_call_that_hangs_is_left_behind_with_its_process(run, monkeypatch):
    uri, _, run_id = run
    clerk = Clerk(uri, run_id)
    monkeypatch.setattr("pipelines.run_writer.Clerk", lambda *told: clerk)
    writer = RunWriter(uri, run_id, say=lambda sentence: None, apart=True)
    assert clerk.latest("d/loss") is None
    monkeypatch.setattr("pipelines.run_writer.LAST_CALL_SECONDS", 0.2)
    clerk._process.send_signal(19)  # SIGSTOP
    writer.add(1, {"d/loss": 1.0})
    began = time.monotonic()
    with pytest.raises(Exception, match="1 metric points and 0 pictures were not delivered"):
        writer.close(0.5)
    assert time.monotonic() - began < 5.0
    writer._thread.join(5.0)
    assert not writer._thread.is_alive()
