"""A real MLflow server on loopback that goes away in the middle of a run."""

import time

import pytest

from tests.pipelines.command import TrackedRun, finish, start, train, write_config
from tests.pipelines.services import Tracking
from tests.pipelines.test_ray_run import reached, wait_for


@pytest.fixture
def server(tmp_path):
    server = Tracking(tmp_path)
    server.start()
    yield server
    server.end()


LONG = [
    "--local",
    "total_kimg=64",
    "schedule.report_kimg=0.8",
    "schedule.checkpoint_kimg=8",
    "schedule.evaluate_kimg=8",
    "schedule.sample_kimg=8",
]


def require_all_points(run):
    assert run.steps("progress/images_seen") == list(range(0, 64001, 800))
    assert run.steps("d/loss") == list(range(800, 64001, 800))
    assert run.pictures() == dict.fromkeys(range(0, 64001, 8000), 1)
    assert run.run.info.status == "FINISHED"


def test_points_wait_while_the_server_is_away_and_arrive_when_it_is_back(server, tmp_path):
    process = start(tmp_path, write_config(tmp_path), *LONG, f"mlflow.tracking_uri={server.uri}")
    run_id = wait_for(lambda: reached(tmp_path, 8000))
    server.end()
    wait_for(lambda: reached(tmp_path, 32000))
    server.start()
    status, _, err = finish(process)
    assert status == 0, err
    assert f"{server.uri} does not take metrics" in err
    assert "takes metrics again" in err
    require_all_points(TrackedRun(tmp_path, run_id, server.uri))


def test_a_server_that_stays_away_is_an_error_at_the_end_and_resuming_delivers(server, tmp_path):
    timeout = "mlflow.delivery_timeout_seconds=1"
    process = start(tmp_path, write_config(tmp_path), *LONG, f"mlflow.tracking_uri={server.uri}", timeout)
    run_id = wait_for(lambda: reached(tmp_path, 8000))
    server.end()
    status, _, err = finish(process)
    assert status == 1
    assert "metric points and" in err and "were not delivered to" in err
    assert f"raygan train --resume {run_id}" in err
    time.sleep(0.5)
    server.start()
    run, _, _ = train(tmp_path, "--resume", run_id, "--local", f"mlflow.tracking_uri={server.uri}", uri=server.uri)
    assert run.run_id == run_id
    require_all_points(run)
