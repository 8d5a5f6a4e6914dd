"""What the head's pods and containers do before they go: drivers are told once, waited for, and leave a job that KubeRay tries again."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from ray.job_submission import JobSubmissionClient

from tests.gan_core.ranks import free_port
from tests.infra.parts import INFRA, ROOT
from tests.pipelines.head import head, ray_environment
from tests.pipelines.test_ray_run import wait_for

SCRIPT = INFRA / "kuberay/base/scripts/stop_jobs.py"
TOKEN = "token-of-the-tests-4417"
# Takes 2 s for its checkpoint, as raygan does, and has none when it is told a second time.
DRIVER = """
import os, sys, time
from pathlib import Path
from pipelines import signals
from pipelines.signals import gently
signals.ECHO_SECONDS = 0.0  # so that a second time counts, however soon it is
CONNECT
with gently() as asked:
    Path(sys.argv[1] + ".ready").write_text(os.environ.get("RAY_ADDRESS", "-"))
    while asked.signum is None:
        time.sleep(0.05)
    time.sleep(2)
    Path(sys.argv[1]).write_text("checkpoint")
sys.exit(128 + asked.signum)
"""


@contextmanager
def driver_at(place, connect="", **environment):
    command = [sys.executable, "-c", DRIVER.replace("CONNECT", connect), str(place)]
    process = subprocess.Popen(command, env={**ray_environment(PYTHONPATH=str(ROOT)), **environment}, stderr=subprocess.DEVNULL)
    try:
        wait_for(Path(f"{place}.ready").exists)
        yield process
    finally:
        process.kill()
        process.wait()


def job(process, submission="raysubmit_1", *, address="127.0.0.1", status=None):
    """An entry of Ray's list, which says RUNNING while the process lives."""

    def entry():
        driver = {"id": "01000000", "node_ip_address": address, "pid": str(process.pid)} if process else None
        alive = process is None or process.poll() is None
        return {"submission_id": submission, "driver_info": driver, "status": status or ("RUNNING" if alive else "FAILED")}

    return entry


@contextmanager
def dashboard(jobs, logs="", spoil=()):
    """Its port. `spoil` are answers that come before the right ones."""
    spoilt = iter(spoil)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = [entry() for entry in jobs] if self.path == "/api/jobs/" else {"logs": logs}
            body = next(spoilt, None) or json.dumps(found)
            authorised = self.headers["Authorization"] == f"Bearer {TOKEN}"
            self.send_response(200 if authorised else 401)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def stop_jobs(port, wait="30"):
    """Seconds that it took, and what it said."""
    environment = {**ray_environment(), "RAY_DASHBOARD_PORT": str(port), "RAY_AUTH_TOKEN": TOKEN, "RAY_JOB_STOP_WAIT_TIME_S": wait}
    began = time.monotonic()
    ended = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return time.monotonic() - began, ended.stdout


@pytest.fixture
def driver(tmp_path):
    with driver_at(tmp_path / "here") as process:
        yield process


def test_a_driver_is_told_once_and_waited_for_while_one_elsewhere_is_left_alone(driver, tmp_path):
    with driver_at(tmp_path / "elsewhere") as elsewhere:
        jobs = [job(driver), job(elsewhere, "raysubmit_2", address="203.0.113.9"), job(None, "raysubmit_3", status="SUCCEEDED")]
        with dashboard(jobs) as port:
            seconds, said = stop_jobs(port)
        assert driver.wait() == 128 + signal.SIGTERM
        assert (tmp_path / "here").read_text() == "checkpoint"
        assert 2 <= seconds < 20
        assert said == ""
        assert elsewhere.poll() is None
        assert not (tmp_path / "elsewhere").exists()


def test_what_was_told_already_is_only_waited_for(driver, tmp_path):
    source = (ROOT / "pipelines/signals.py").read_text()
    assert "\\nstopping at a checkpoint; a second time" in source  # the words by which it is known
    os.kill(driver.pid, signal.SIGTERM)
    with dashboard([job(driver)], logs="...\nstopping at a checkpoint; a second time ends at once\n") as port:
        seconds, _ = stop_jobs(port)
    assert driver.wait() == 128 + signal.SIGTERM
    assert (tmp_path / "here").read_text() == "checkpoint"
    assert 1 <= seconds < 20


def test_a_driver_that_nobody_submitted_is_told_too_and_answers_that_are_spoilt_are_asked_for_again(driver, tmp_path):
    with dashboard([job(driver, None)], spoil=["not JSON", "[{"]) as port:
        seconds, said = stop_jobs(port)
    assert said.count("Ray's dashboard: ") == 2
    assert (tmp_path / "here").read_text() == "checkpoint"
    assert 4 <= seconds < 20


def test_no_more_is_waited_than_a_job_gets_and_not_at_all_where_there_is_no_dashboard_or_no_job():
    with dashboard([job(None)]) as port:  # a job that never connects to Ray
        assert 3 <= stop_jobs(port, wait="3")[0] < 15
    with dashboard([job(None, status="PENDING")]) as port:
        assert stop_jobs(port)[0] < 10
    seconds, said = stop_jobs(free_port())
    assert seconds < 10
    assert "refused" in said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_of_ray_is_failed_and_not_stopped_and_one_that_ray_stops_is_not_told_twice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    script = folder / "driver.py"
    connect = "import ray; ray.init(address=os.environ['RAY_ADDRESS'], log_to_driver=False)"
    script.write_text(DRIVER.replace("CONNECT", connect))
    environment = {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    with head(folder, **environment) as address:
        client = JobSubmissionClient(address, headers={"Authorization": f"Bearer {TOKEN}"})
        port = address.rpartition(":")[2]

        def submit(name):
            client.submit_job(entrypoint=f"python {script} {folder}/{name}", submission_id=name)
            wait_for((folder / f"{name}.ready").exists)

        submit("evicted")
        cluster = (folder / "evicted.ready").read_text()
        alike = {**environment, "RAY_ADDRESS": cluster, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # as `head` says
        with driver_at(folder / "by_hand", connect, **alike) as by_hand:
            seconds, _ = stop_jobs(port, wait="60")
            evicted = client.get_job_info("evicted")
            assert (evicted.status, evicted.driver_exit_code) == ("FAILED", 143)  # which KubeRay tries again; STOPPED it takes for done
            assert by_hand.wait(30) == 143
        assert (folder / "evicted").read_text() == (folder / "by_hand").read_text() == "checkpoint"
        assert 2 <= seconds < 60

        submit("deleted")
        client.stop_job("deleted")  # returns at once; what KubeRay asks for first when a RayJob is deleted
        wait_for(lambda: "stopping at a checkpoint" in client.get_job_logs("deleted"), 60)
        stop_jobs(port, wait="60")
        assert client.get_job_status("deleted") == "STOPPED"
        assert (folder / "deleted").read_text() == "checkpoint"
