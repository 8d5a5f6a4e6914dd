"""A Ray cluster of one machine, made by `ray start`, for tests of jobs."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from tests.gan_core.ranks import free_port
from tests.pipelines.test_ray_run import wait_for

RAY = str(Path(sys.executable).with_name("ray"))
ROOT = Path(__file__).parents[2]


def ray_environment(**changes):
    """The tests' environment, with `python` and `ray` of theirs, and with nothing that says where a cluster is, or its token."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("RAY_ADDRESS", "RAY_API_SERVER", "RAY_AUTH", "MLFLOW_TRACKING"))
    }
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "OMP_NUM_THREADS": "1", **changes}


@contextmanager
def head(folder, **environment):
    """The address of a new cluster's dashboard; its processes are one group, ended as one."""
    # As on macOS: all servers on loopback, which Ray does not do elsewhere, whatever address it is told.
    port, variables = free_port(), ray_environment(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", **environment)
    others = [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
    ports = [f"--port={free_port()}", f"--dashboard-port={port}", *others]
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", f"--temp-dir={folder}", *ports]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen(command, env=variables, **quiet)
    address = f"http://127.0.0.1:{port}"
    listing = [RAY, "job", "list", "--address", address]
    try:
        wait_for(
            lambda: process.poll() is not None or subprocess.run(listing, env=variables, capture_output=True, timeout=60).returncode == 0
        )
        assert process.poll() is None
        yield address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
