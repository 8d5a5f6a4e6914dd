"""Before a head node goes: SIGTERM to the drivers on it, once each, and wait until they have written their checkpoints.

Not `ray job stop`: what that ends is STOPPED, which KubeRay takes for done. A driver that ends by itself leaves FAILED, and its RayJob is
tried again. This never ends with an error, for then `docker compose down` would stop half-way.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request

DASHBOARD = f"http://127.0.0.1:{os.environ.get('RAY_DASHBOARD_PORT', '8265')}"
DEADLINE = time.monotonic() + int(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "60"))
STOPPING = "stopping at a checkpoint"  # what raygan writes when it is told; a second time would end it at once


def ask(path):
    """What the dashboard answers."""
    token = {"Authorization": f"Bearer {os.environ.get('RAY_AUTH_TOKEN', '')}"}
    with urllib.request.urlopen(urllib.request.Request(DASHBOARD + path, headers=token), timeout=10) as answer:  # noqa: S310  a fixed address
        return json.load(answer)


def is_here(address):
    """Whether the address is this machine's: process numbers of another one mean nothing here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def tell(job, pid):
    """SIGTERM, unless the job was told already: KubeRay stops the job of a RayJob that is deleted, and then the pods."""
    if job["submission_id"] is None or STOPPING not in ask(f"/api/jobs/{job['submission_id']}/logs")["logs"]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


told = set()
while time.monotonic() < DEADLINE:
    try:
        # A job without a driver has not connected to Ray yet. Drivers that nobody submitted (`docker compose exec`) are in the list too.
        running = [job for job in ask("/api/jobs/") if job["status"] == "RUNNING"]
        here = [job for job in running if job["driver_info"] is None or is_here(job["driver_info"]["node_ip_address"])]
        if not here:
            break
        for job in here:
            if job["driver_info"] and (pid := int(job["driver_info"]["pid"])) not in told:
                tell(job, pid)
                told.add(pid)
    except (OSError, ValueError, http.client.HTTPException) as error:  # an answer that is late or cut is asked for again
        print(f"Ray's dashboard: {error}", flush=True)
        if isinstance(getattr(error, "reason", None), ConnectionRefusedError):
            break
    time.sleep(1)
