"""Joining a Ray cluster, or starting one on this machine for as long as it is needed."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray
from ray._private import ray_constants
from ray.exceptions import RayError

LOOPBACK = "127.0.0.1"
TASKS_REMEMBERED = 1000


@contextmanager
def connected(*, dashboard: bool, environment: dict[str, str] | None = None) -> Iterator[None]:
    """The cluster that $RAY_ADDRESS names, else one of this machine's CPUs and GPUs that ends with the block, with or without Ray's
    dashboard, and that only this machine reaches; workers have `environment`.

    Raises:
        ConnectionError: the cluster does not answer, or not without a token.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # "local", or Ray would join whatever cluster `ray start` once made on this machine. Its memory of tasks, which are all calls of actors,
    # is kept for people who look at them: 100,000 of them, of some kB each.
    remembered = {"_system_config": {"task_events_max_num_task_in_gcs": TASKS_REMEMBERED}}
    here = {"address": "local", "num_cpus": os.cpu_count(), "include_dashboard": dashboard, "_node_ip_address": LOOPBACK, **remembered}
    local = {} if os.environ.get("RAY_ADDRESS") else here
    workers = {"runtime_env": {"env_vars": environment}} if environment else {}
    before = signal.getsignal(signal.SIGTERM)
    with _on_loopback() if local else nullcontext():
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", **workers, **local)
        except RayError as error:
            raise ConnectionError(f"Ray: {error}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's own handler ends the program in silence
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A node that starts in the block has 127.0.0.1 for its address, and then all its servers listen there alone.

    This is how Ray starts on macOS. Asked for `_node_ip_address="127.0.0.1"` elsewhere, it takes the address of the network all the same,
    and then its control store, its nodes' managers and every worker listen on all interfaces.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
