"""CPU, memory, disk, network and GPU use of a machine, measured once for all runs in a process that report at about the same time."""

import threading
import time

FRESH_SECONDS = 1.0  # the CPU's share is a mean since the last measurement: over less it is 0 or 100 %


class MachineMetrics:
    """MLflow's own measurements, by its own names. Threads may read at once."""

    def __init__(self, run_id: str, tracking_uri: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor  # here, because ranks that read nothing do without

        self._monitor = SystemMetricsMonitor(run_id, tracking_uri=tracking_uri)  # measures when it is told to, and writes nothing
        self._lock = threading.Lock()
        self._values: dict[str, float] = {}
        self._at = 0.0
        self._readers: set[str] = set()

    def read(self, reader: str) -> dict[str, float]:
        """What the machine does now; or what it did within the last second, if that was measured for another run and not read by this."""
        with self._lock:
            if reader in self._readers or time.monotonic() - self._at > FRESH_SECONDS:
                self._measure()
            self._readers.add(reader)
            return dict(self._values)

    def _measure(self) -> None:
        self._monitor.collect_metrics()
        self._values = {key: float(value) for key, value in self._monitor.aggregate_metrics().items()}
        for monitor in self._monitor.monitors:
            monitor.clear_metrics()
        self._at, self._readers = time.monotonic(), set()
