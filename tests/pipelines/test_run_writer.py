"""What reports become in MLflow, whatever the store does meanwhile: once, in order, complete."""

import json
import time

import numpy as np
import pytest
from mlflow.store.tracking.rest_store import RestStore

from pipelines import run_writer
from pipelines import store as stores
from pipelines.run_writer import CLOCK, RunWriter, UndeliveredError
from tests.pipelines.store_stand_in import SAID, install, picture, wait_until


@pytest.fixture
def store(monkeypatch):
    return install(monkeypatch)


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


def test_the_end_of_a_run_on_a_server_prints_none_of_mlflows_own_links(monkeypatch, capsys):
    calls = []
    for name in ("update_run_info", "get_run"):
        monkeypatch.setattr(RestStore, name, lambda *given, name=name, **options: calls.append(name))
    stores.patient_client("http://127.0.0.1:9").set_terminated("some", "FINISHED")
    assert (calls, capsys.readouterr().out) == (["update_run_info"], "")


def test_a_tag_is_delivered_at_once(store, monkeypatch):
    monkeypatch.setattr(run_writer, "WAIT_SECONDS", 600.0)
    writer = RunWriter("uri", "run", say=SAID.append)
    writer.tag("raygan.damaged.some", "a reason")
    wait_until(lambda: store.tags)
    writer.close(5)
    assert store.tags == {"raygan.damaged.some": "a reason"}
