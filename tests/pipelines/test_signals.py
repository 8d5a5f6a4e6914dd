"""Signals that come twice, that a whole process group gets, and that come before there is anything to save."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from types import SimpleNamespace

import psutil
import pytest

from gan_core.wishes import Wish
from pipelines import launch, signals
from pipelines.signals import Asked, Interrupted, gently, status_of, terminable
from tests.chaos.runs import ROOT, Run, wait_for, write_config
from tests.pipelines.command import TrackedRun


def send(*signums):
    for signum in signums:
        os.kill(os.getpid(), signum)


def test_a_second_signal_ends_at_once_and_says_so_but_an_echo_does_not(monkeypatch, capfd):
    monkeypatch.setattr(signals, "ECHO_SECONDS", 0.2)
    with gently() as asked:
        send(signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
        assert asked.signum == signal.SIGTERM
        time.sleep(0.25)
        with pytest.raises(Interrupted) as caught:
            send(signal.SIGINT)
    assert (caught.value.cause, status_of(caught.value)) == ("a second signal, SIGINT", 130)
    assert capfd.readouterr().err.count("stopping at a checkpoint; a second time, 0.2 s from now or later, ends at once") == 1


def test_an_echo_does_not_interrupt_what_the_first_signal_began(monkeypatch):
    monkeypatch.setattr(signals, "ECHO_SECONDS", 0.2)
    with terminable():
        with pytest.raises(Interrupted) as caught:
            send(signal.SIGTERM)
        send(signal.SIGTERM, signal.SIGINT)
        time.sleep(0.25)
        with pytest.raises(Interrupted):
            send(signal.SIGTERM)
    assert caught.value.cause == "SIGTERM"


def test_ray_answers_no_signal_while_it_starts(monkeypatch):
    from pipelines import cluster

    def init(**given):
        cluster.utils.set_sigterm_handler(lambda *_: pytest.fail("Ray answered"))
        send(signal.SIGTERM)

    monkeypatch.setattr(cluster.ray, "init", init)
    with terminable(), pytest.raises(Interrupted), cluster.connected(dashboard=False):
        pytest.fail("it has started")


def asked_now():
    asked = Asked()
    asked.signum, asked.at = signal.SIGTERM, time.monotonic()
    return asked


class SilentDesk:
    """Its board does not answer."""

    interval = 0.01

    def __init__(self):
        self.wishes = []

    def serve(self, wish, seconds):
        self.wishes.append(wish)
        time.sleep(seconds)


def test_before_there_are_workers_nothing_is_waited_for():
    desk = SilentDesk()
    with pytest.raises(Interrupted) as caught:
        launch._wait(Future(), desk, SimpleNamespace(gathering=True), asked_now())
    assert (desk.wishes, caught.value.cause) == ([], "SIGTERM")


def test_a_board_that_is_silent_prolongs_the_grace_period_by_no_time_out_of_its_own(monkeypatch):
    monkeypatch.setattr(launch, "GRACE_SECONDS", 1.0)
    desk, asked = SilentDesk(), asked_now()
    with pytest.raises(Interrupted):
        launch._wait(Future(), desk, SimpleNamespace(gathering=False), asked)
    assert 1.0 <= time.monotonic() - asked.at < 3.0
    assert set(desk.wishes) == {Wish.STOP}


NODE = """
import os, signal, time
from ray._private import services, utils
from pipelines import cluster
from pipelines.signals import gently

def init(**given):
    utils.set_sigterm_handler(lambda *_: os._exit(9))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(9))  # as Ray does in C++
    parts.append(services.start_ray_process(["sleep", "600"], "sleep", fate_share=True).process.pid)

parts = []
cluster.ray.init = init
with gently() as asked, cluster.connected(dashboard=False):
    print(parts[0], flush=True)
    while asked.signum is None:
        time.sleep(0.02)
    print("heard", flush=True)
    time.sleep(600)
"""


def there(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Ray ties its processes to ours by the process group")
def test_a_signal_to_the_process_group_is_the_drivers_alone_but_nothing_outlives_the_driver():
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", NODE], env=environment, start_new_session=True, **streams) as driver:
        try:
            part = int(driver.stdout.readline())
            os.killpg(driver.pid, signal.SIGTERM)
            assert driver.stdout.readline() == "heard\n"
            assert there(part)
        finally:
            driver.kill()
    assert wait_for(lambda: not there(part), 10)


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    run.start("train", write_config(tmp_path, run.uri, str(run.storage), workers=1), "ray.checkpoints_to_keep=3", "total_kimg=4000")
    yield run
    run.end()


def stop(run):
    """As `timeout` does it: everything in the process group is told twice. Returns the seconds that the end took."""
    began = time.monotonic()
    for _ in range(2):
        os.killpg(run.process.pid, signal.SIGTERM)
    assert run.finish(120) == 143, run.said
    assert run.leaves_nothing() == []
    assert "Failed to connect" not in run.said
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_group_that_is_told_to_end_leaves_a_checkpoint_and_is_told_of_when_it_goes_on(run):
    assert run.reach(4000), run.said
    assert stop(run) < 60.0  # what a job is given
    (run_id,) = run.run_ids
    left = TrackedRun(run.folder, run_id, run.uri).run
    (kept,) = re.findall(r"interrupted by SIGTERM, (checkpoint at [\d.]+ kimg); continue it with: raygan train --resume", run.said)
    assert (left.info.status, left.data.tags["raygan.stopped"]) == ("KILLED", f"by SIGTERM, {kept}")
    images = run.seen()
    run.resume()
    assert run.reach(images + 4000), run.said
    run.process.kill()
    run.process.wait()
    assert run.leaves_nothing() == []
    run.start("train", "--resume", run_id, f"mlflow.tracking_uri={run.uri}", f"total_kimg={run.seen() / 1000 + 8}")
    assert run.finish(240) == 0, run.said
    tags = TrackedRun(run.folder, run_id, run.uri).run.data.tags
    silent = "its last driver ended without a word: killed, or the tracking store was away"
    first, second = tags["raygan.resumed"].splitlines()
    assert re.fullmatch(rf"1: [-\d]+ [:\d]+ UTC, was KILLED by SIGTERM, {re.escape(kept)}", first)
    assert re.fullmatch(rf"2: [-\d]+ [:\d]+ UTC, {silent}", second)
    assert "raygan.stopped" not in tags
    assert run.said.count(f"run {run_id}: {silent}") == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", ["Ray", "the workers"])
def test_a_signal_before_the_first_step_ends_within_seconds(run, moment):
    """While Ray starts, before there is a run; and while the workers do."""
    ready = (lambda: run.processes("gcs_server")) if moment == "Ray" else (lambda: "training run" in run.said)
    assert wait_for(ready, 120), run.said
    assert stop(run) < 40.0  # of a busy machine
    if moment == "Ray":
        assert "interrupted before the training began, nothing was started" in run.said
        assert run.run_ids == []
    else:
        (run_id,) = run.run_ids
        assert TrackedRun(run.folder, run_id, run.uri).run.info.status == "KILLED"
        assert f"interrupted by SIGTERM, no new checkpoint; continue it with: raygan train --resume {run_id}" in run.said
