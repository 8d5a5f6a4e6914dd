"""Training on hosts with addresses of their own: a cable that is pulled, a machine that dies, and machines that are not alike."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipelines import hosts
from tests.pipelines.command import TrackedRun, finish, require_equal_states, train, write_config
from tests.pipelines.services import Tracking
from tests.pipelines.test_ray_run import reached, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.skipif(bool(hosts.missing()), reason=hosts.missing())]

ROOT = Path(__file__).parents[2]
WORDS = [
    "total_kimg=128",
    *(f"schedule.{what}_kimg={kimg}" for what, kimg in {"checkpoint": 8, "evaluate": 16, "sample": 32, "report": 1.6}.items()),
]


@pytest.fixture
def network():
    with hosts.Network() as network:
        yield network


@pytest.fixture
def pair(network):
    """Two hosts with a Ray node of one CPU each, and how to start a training on the first."""
    return network.host(), network.host()


def begin(head, folder, *words, server=None):
    """`raygan train` on a host, as a process whose output is kept."""
    uri = [f"mlflow.tracking_uri={server.uri}"] if server else []
    environment = {"RAY_ADDRESS": head.network.ray_address, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "pipelines.train", write_config(folder, workers=2), *words, *uri]
    return head.start(command, environment=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tracking_on(head, folder):
    """MLflow's server on a host; its database and artifacts are files of this machine."""
    return Tracking(
        folder, address=head.address, begin=lambda command, **options: head.start(command, environment=options.pop("env"), **options)
    )


def test_a_pulled_cable_and_a_dead_machine_cost_nothing_but_time(pair, tmp_path):
    """gloo between two hosts; no link for 20 s, longer than the collectives wait; then a host dies, and another takes its place."""
    head, other = pair
    head.start_ray(cpus=1)
    other.start_ray(cpus=1)
    server = tracking_on(head, tmp_path)
    server.start()
    process = begin(head, tmp_path, *WORDS, "ray.collective_timeout_seconds=10", server=server)
    try:
        run_id = wait_for(lambda: process.poll() is not None or reached(tmp_path, 16000))
        assert process.poll() is None, process.communicate()
        other.link(up=False)
        time.sleep(20)
        other.link(up=True)
        cut_at = reached_now(tmp_path)
        wait_for(lambda: process.poll() is not None or reached(tmp_path, cut_at + 16000))
        assert process.poll() is None, process.communicate()
        other.kill()
        killed_at = reached_now(tmp_path)
        other.start_ray(cpus=1)
        status, _, err = finish(process, 400)
    finally:
        process.kill()
    assert status == 0, err
    assert 16000 <= cut_at < killed_at < 128000
    (tmp_path / "quiet").mkdir()
    quiet, _, _ = train(tmp_path / "quiet", write_config(tmp_path / "quiet", workers=2), *WORDS)
    run = TrackedRun(tmp_path, run_id, server.uri)
    assert run.run.info.status == "FINISHED"
    assert run.steps("progress/images_seen") == list(range(0, 128001, 1600))
    for key in ("d/loss", "g/loss", "quality/kid_pixels"):
        assert run.values(key) == quiet.values(key), key
        assert len(run.steps(key)) == len(quiet.steps(key)), key
    assert run.pictures() == quiet.pictures()
    require_equal_states(run.final_state(), quiet.final_state())


def reached_now(folder):
    """How far the newest checkpoint is."""
    return max(int(path.parent.name[-12:]) for path in (folder / "runs").glob("*/checkpoint_0*/checkpoint.json"))
