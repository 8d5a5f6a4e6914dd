"""What is measured of a machine, for one run and for several that report at once."""

import pytest

from pipelines import machine_metrics
from pipelines.machine_metrics import MachineMetrics


class Counting:
    """MLflow's monitor, whose every measurement is another number."""

    monitors = ()

    def __init__(self, *_, **__):
        self.count = 0

    def collect_metrics(self):
        self.count += 1

    def aggregate_metrics(self):
        return {"cpu_utilization_percentage": self.count}


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr("mlflow.system_metrics.system_metrics_monitor.SystemMetricsMonitor", Counting)
    return MachineMetrics("some", "sqlite:///some.db")


def read(machine, reader):
    return machine.read(reader)["cpu_utilization_percentage"]


def test_a_run_by_itself_is_given_a_new_measurement_each_time(machine):
    assert [read(machine, "one") for _ in range(3)] == [1.0, 2.0, 3.0]


def test_runs_that_report_together_are_given_the_same_measurement(machine):
    assert [read(machine, name) for name in ("one", "two", "three", "one", "two", "three")] == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]


def test_an_old_measurement_is_made_again(machine, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(machine_metrics.time, "monotonic", lambda: now[0])
    assert read(machine, "one") == 1.0
    now[0] += 0.9
    assert read(machine, "two") == 1.0
    now[0] += 0.2
    assert read(machine, "three") == 2.0


def test_it_measures_what_mlflow_does():
    found = MachineMetrics("some", "http://127.0.0.1:1").read("some")  # nothing is sent
    assert found["system_memory_usage_megabytes"] > 1.0
    assert 0.0 <= found["cpu_utilization_percentage"] <= 100.0
