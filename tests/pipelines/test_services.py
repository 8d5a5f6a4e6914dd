"""MLflow on PostgreSQL with its artifacts in an S3-compatible store, and checkpoints there too."""

import os
import time

import pyarrow.fs
import pytest

from gan_core import checkpoint
from pipelines import storage
from tests.pipelines import services
from tests.pipelines.command import TrackedRun, finish, require_equal_states, start, train, write_config
from tests.pipelines.sweeps.runs import Sweep, kill
from tests.pipelines.test_ray_run import wait_for, workers_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.skipif(bool(services.missing()), reason=services.missing())]

LENGTH = {
    "total_kimg": 64,
    "schedule.report_kimg": 1.6,
    "schedule.evaluate_kimg": 8,
    "schedule.checkpoint_kimg": 8,
    "schedule.sample_kimg": 16,
}
WORDS = [f"{key}={value}" for key, value in LENGTH.items()]
LOSSES = "hinge,non_saturating,minimax,least_squares,wasserstein,f_jensen_shannon,relativistic,relativistic_average"
AWAY_SECONDS = 60.0


@pytest.fixture
def server(tmp_path, monkeypatch):
    environment = {}
    with services.everything(tmp_path, environment) as server:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        yield server


def checkpoints(place):
    """What the runs below `place` had seen at each of their checkpoints that is there and complete, as folders by the number of images."""
    filesystem, path = pyarrow.fs.FileSystem.from_uri(place)
    entries = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True, allow_not_found=True))
    folders = [entry.path.rpartition("/")[0] for entry in entries if entry.base_name == checkpoint.SUMS and "/checkpoint_0" in entry.path]
    return sorted(int(folder[-12:]) for folder in folders)


def require_all(run):
    """Every point and picture of LENGTH, once, and what a finished run holds beside them."""
    assert run.run.info.status == "FINISHED"
    assert run.steps("progress/images_seen") == list(range(0, 64001, 1600))
    assert run.steps("d/loss") == run.steps("g/loss") == list(range(1600, 64001, 1600))
    assert run.steps("quality/kid_pixels") == list(range(0, 64001, 8000))
    assert run.pictures() == dict.fromkeys(range(0, 64001, 16000), 1)
    assert {"config.yaml", "environment.json"} <= {artifact.path for artifact in run.client.list_artifacts(run.run_id)}


def test_a_training_killed_twice_goes_on_from_its_checkpoints_in_s3_to_the_same_bits(server, tmp_path):
    place = "s3://checkpoints/runs"
    words = [*WORDS, f"mlflow.tracking_uri={server.uri}", f"ray.storage_path={place}"]
    process = start(tmp_path, write_config(tmp_path, workers=2), *words)
    wait_for(lambda: process.poll() is not None or max(checkpoints(place), default=0) >= 16000)
    assert process.poll() is None, process.communicate()
    workers_of(process)[0].kill()
    wait_for(lambda: process.poll() is not None or max(checkpoints(place)) >= 40000)
    assert process.poll() is None, process.communicate()
    kill(process)
    (run_id,) = [entry.base_name for entry in listed(place)]
    status, _, err = finish(start(tmp_path, "--resume", run_id, f"mlflow.tracking_uri={server.uri}"), 400)
    assert status == 0, err
    run = TrackedRun(tmp_path, run_id, server.uri)
    require_all(run)
    assert len(run.client.search_logged_models([run.run.info.experiment_id])) == 1
    assert checkpoints(place)[-3:] == [48000, 56000, 64000]
    (tmp_path / "quiet").mkdir()
    quiet, _, _ = train(tmp_path / "quiet", write_config(tmp_path / "quiet", workers=2), *WORDS)
    for key in ("d/loss", "g/loss", "quality/kid_pixels"):
        assert run.values(key) == quiet.values(key), key
    with storage.latest(place, run_id) as folder:
        require_equal_states(checkpoint.load(folder), quiet.final_state())


def listed(place):
    filesystem, path = pyarrow.fs.FileSystem.from_uri(place)
    return filesystem.get_file_info(pyarrow.fs.FileSelector(path))


def test_eight_writers_lose_nothing_while_the_tracking_server_is_away_for_a_minute(server, tmp_path):
    """A sweep of eight trials at once; every point, picture, artifact and status is there afterwards."""
    place = "s3://checkpoints/sweep"
    config = write_config(tmp_path)
    words = [*WORDS, f"loss.name=[{LOSSES}]", "step_ratio=1:1", "sweep.confirm=0", "sweep.scheduler=fifo", "ray.cpus_per_worker=0.25"]
    here = [f"mlflow.tracking_uri={server.uri}", f"ray.storage_path={place}", "mlflow.delivery_timeout_seconds=300"]
    cores = os.cpu_count()
    process = start(tmp_path, config, "loss_x_ratio", *words, *here, f"sweep.max_concurrent={min(8, 4 * cores)}", command="sweep")
    wait_for(lambda: process.poll() is not None or max(checkpoints(place), default=0) >= 8000)
    assert process.poll() is None, process.communicate()
    server.end()
    time.sleep(AWAY_SECONDS)
    server.start()
    status, _, err = finish(process, 600)
    assert status == 0, err
    assert "8 at once" in err
    found = Sweep(tmp_path, server.uri)
    assert [(row.status, row.reason) for row in found.rows] == [("FINISHED", "budget spent")] * 8
    for row in found.rows:
        require_all(found.tracked(row))
    assert {"results.parquet", "best.yaml", "report"} <= {artifact.path for artifact in found.client.list_artifacts(found.run.info.run_id)}
    assert found.run.info.status == "FINISHED"
