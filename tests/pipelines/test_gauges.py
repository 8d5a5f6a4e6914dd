"""Gauges of runs in Ray's metrics: each is a metric that reports have, and arrives where Prometheus collects it."""

import math
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from gan_core import Trainer
from gan_core.config import GanConfig
from gan_core.overrides import validate
from pipelines import gauges
from tests.gan_core.ranks import free_port
from tests.pipelines.command import finish, start, write_config
from tests.pipelines.test_ray_run import wait_for

TWO_RUNS = """
import sys, time, ray
from pipelines import gauges

ray.init(sys.argv[1], log_to_driver=False)

@ray.remote
class Worker:
    def show(self, run_id, value):
        labels = gauges.labels_of(run_id, {"mlflow": {"run_name": None, "experiment": "some"}})
        gauges.show(labels, 10, {"d/loss": value})

worker = Worker.remote()
ray.get(worker.show.remote("first-run", 0.25))
sys.stdin.readline()
ray.get(worker.show.remote("second-run", 0.5))
sys.stdin.readline()
"""


def test_every_gauge_is_in_a_report_with_its_value(tree):
    reports = []
    Trainer(validate(tree, GanConfig)).run(reports.append)
    seen, metrics = reports[-1].images_seen, reports[-1].metrics
    found = list(gauges.values_of(seen, metrics))
    assert {name for name, _, _ in found} == {*gauges.PLAIN, *gauges.FAMILIES}
    by_name = {name: value for name, extra, value in found if not extra}
    assert by_name.pop("raygan_images_seen") == seen == 160
    assert by_name == {name: metrics[key] for name, (key, _) in gauges.PLAIN.items() if name != "raygan_images_seen"}
    for name, (prefix, label, _) in gauges.FAMILIES.items():
        families = {extra[label]: value for found_name, extra, value in found if found_name == name}
        assert families == {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}


class Recorded:
    """A gauge of Ray's that keeps what it was set to last, by run."""

    def __init__(self):
        self.values = {}

    def set(self, value, tags):
        self.values[tags["run_id"]] = value


@pytest.fixture
def exported(monkeypatch):
    """What the gauge of the discriminator's loss says of each run."""
    made = {name: Recorded() for name in (*gauges.PLAIN, *gauges.FAMILIES)}
    monkeypatch.setattr(gauges, "_gauges", lambda: made)
    monkeypatch.setattr(gauges, "_last", {})
    return made["raygan_discriminator_loss"].values


def labels(run_id):
    return gauges.labels_of(run_id, {"mlflow": {"run_name": None, "experiment": "some"}})


def test_a_process_that_trains_one_run_after_the_other_shows_the_last_one_only(exported):
    gauges.show(labels("first"), 10, {"d/loss": 0.25})
    gauges.show(labels("second"), 10, {"d/loss": 0.5})
    assert exported["second"] == 0.5
    assert math.isnan(exported["first"])


def test_runs_that_are_trained_side_by_side_are_all_shown_until_each_ends(exported):
    gauges.show_beside(labels("first"), 10, {"d/loss": 0.25})
    gauges.show_beside(labels("second"), 10, {"d/loss": 0.5})
    assert exported == {"first": 0.25, "second": 0.5}
    gauges.end("first")
    assert math.isnan(exported["first"])
    assert exported["second"] == 0.5


def test_a_run_without_a_name_is_labelled_by_the_beginning_of_its_id():
    config = {"mlflow": {"run_name": None, "experiment": "some"}}
    assert gauges.labels_of("0123456789abcdef", config) == {"run_id": "0123456789abcdef", "run_name": "01234567", "experiment": "some"}
    config["mlflow"]["run_name"] = "mine"
    assert gauges.labels_of("0123456789abcdef", config)["run_name"] == "mine"


@pytest.fixture
def collected(tmp_path_factory):
    """The address of a cluster, and a function that reads raygan's series at its metrics port: (name, labels) -> value."""
    gcs, metrics, home = free_port(), free_port(), tmp_path_factory.mktemp("r")
    ports = [f"--port={gcs}", f"--metrics-export-port={metrics}", f"--dashboard-port={free_port()}"]
    others = [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", f"--temp-dir={home}", *ports, *others]
    environment = {**os.environ, "RAY_metrics_report_interval_ms": "500"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen(command, env=environment, **quiet)

    def read():
        try:
            text = urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10).read().decode()
        except OSError:
            return None
        series = re.findall(r"^ray_(raygan_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE)
        return {(name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))): float(value) for name, labels, value in series}

    try:
        wait_for(lambda: process.poll() is not None or read() is not None)
        assert process.poll() is None
        yield f"127.0.0.1:{gcs}", read
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def of_run(series, run_id):
    return {(name, dict(labels).get("score")): value for (name, labels), value in series.items() if ("run_id", run_id) in labels}


@pytest.mark.slow
def test_a_training_shows_its_reports_where_prometheus_collects(collected, tmp_path):
    address, read = collected
    process = start(tmp_path, write_config(tmp_path, mlflow={"experiment": "seen"}), RAY_ADDRESS=address)
    seen = []

    def ended():
        seen.append(read() or {})
        return process.poll() is not None

    wait_for(ended)
    seen.append(read())
    status, out, err = finish(process)
    assert status == 0, err
    run_id = out.split("run ", 1)[1].split(":")[0]
    last = next(found for found in (of_run(series, run_id) for series in reversed(seen)) if found)
    assert {name for name, _ in last} == {*gauges.PLAIN, *gauges.FAMILIES}
    assert last["raygan_images_seen", None] in [float(n) for n in range(160, 3201, 160)]
    assert 0.0 < last["raygan_images_per_second", None] < 1e6
    assert ("raygan_quality", "kid_pixels") in last
    labels = [dict(labels) for series in seen for _, labels in series if ("run_id", run_id) in labels]
    assert {entry["experiment"] for entry in labels} == {"seen"}


@pytest.mark.slow
def test_the_series_of_a_process_that_goes_on_to_another_run_end(collected):
    address, read = collected
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", TWO_RUNS, address], env=environment, stdin=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: of_run(read(), "first-run"))
        assert of_run(read(), "first-run")["raygan_discriminator_loss", None] == 0.25
        process.stdin.write("\n")
        process.stdin.flush()
        wait_for(lambda: of_run(read(), "second-run") and not of_run(read(), "first-run"))
        assert of_run(read(), "second-run")["raygan_discriminator_loss", None] == 0.5
    finally:
        process.kill()
        process.communicate()
