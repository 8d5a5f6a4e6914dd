"""Joining a Ray cluster, or starting one on this machine for as long as it is needed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def connected(*, dashboard: bool, environment: dict[str, str] | None = None) -> Iterator[None]:
    """The cluster that $RAY_ADDRESS names, else one of this machine's CPUs and GPUs that ends with the block, with or without Ray's
    dashboard; workers have `environment`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # "local", or Ray would join whatever cluster `ray start` once made on this machine.
    here = {"address": "local", "num_cpus": os.cpu_count(), "include_dashboard": dashboard}
    local = {} if os.environ.get("RAY_ADDRESS") else here
    workers = {"runtime_env": {"env_vars": environment}} if environment else {}
    ray.init(log_to_driver=False, logging_level="ERROR", **workers, **local)
    try:
        yield
    finally:
        ray.shutdown()
