"""The services that a cluster has beside Ray, on loopback: MLflow's server, PostgreSQL, and a store that speaks S3."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.gan_core.ranks import free_port

POSTGRES_BIN = Path("/usr/lib/postgresql/15/bin")
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
BUCKETS = ("artifacts", "checkpoints")


def answers(url):
    """Whether somebody does, with a status of 200."""
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


class Tracking:
    """`mlflow server` on one port, which can be ended and started again on the same store."""

    def __init__(self, folder, *, store=None, artifacts=None, keys=None, address="127.0.0.1", begin=subprocess.Popen):
        self.folder, self.address, self.port, self.process, self.keys = folder, address, free_port(), None, keys or {}
        self.store, self.artifacts = store or f"sqlite:///{folder}/server.db", artifacts or f"{folder}/artifacts"
        self.uri, self._begin = f"http://{address}:{self.port}", begin

    def start(self):
        from tests.pipelines.test_ray_run import wait_for

        place = ["--host", self.address, "--port", str(self.port), "--workers", "1", "--allowed-hosts", f"{self.address}:{self.port}"]
        store = ["--backend-store-uri", self.store, "--artifacts-destination", self.artifacts]
        more = {**self.keys, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "40"}
        command = [sys.executable, "-m", "mlflow", "server", *place, *store]
        said = Path(self.folder, "server.log")
        with said.open("w") as log:
            self.process = self._begin(command, cwd=self.folder, env={**os.environ, **more}, stdout=log, stderr=log, start_new_session=True)
        wait_for(lambda: self.process.poll() is not None or answers(f"{self.uri}/health"))
        assert self.process.poll() is None, said.read_text()[-3000:]

    def end(self):
        """kill -9."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def missing():
    """Why this machine cannot have PostgreSQL, as a sentence; empty if it can."""
    if not (POSTGRES_BIN / "initdb").is_file():
        return f"Debian's PostgreSQL is not in {POSTGRES_BIN}"
    return "" if os.geteuid() == 0 else "PostgreSQL's own user is entered by root"


@contextmanager
def postgres():
    """A database server with an empty database, as its SQLAlchemy address."""
    from tests.pipelines.test_ray_run import wait_for

    folder, port = Path(tempfile.mkdtemp(prefix="rgpg", dir="/tmp")), free_port()
    shutil.chown(folder, "postgres", "postgres")
    as_owner = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": folder, "env": {"PATH": os.environ["PATH"]}}
    process = None
    try:
        initial = [POSTGRES_BIN / "initdb", "-D", folder / "data", "-A", "trust", "-U", "mlflow", "--no-sync"]
        subprocess.run(initial, check=True, capture_output=True, **as_owner)
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
        process = subprocess.Popen([POSTGRES_BIN / "postgres", "-D", folder / "data", *settings], **QUIET, **as_owner)
        ready = [POSTGRES_BIN / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow"]
        wait_for(lambda: subprocess.run(ready, capture_output=True).returncode == 0, 60)
        create = [POSTGRES_BIN / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"]
        subprocess.run(create, check=True, capture_output=True)
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/mlflow"
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def s3():
    """moto's server with two buckets; what processes must have in their environment to use it."""
    from tests.pipelines.test_ray_run import wait_for

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ENDPOINT_URL": url,
        "MLFLOW_S3_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], **QUIET)
    try:
        wait_for(lambda: process.poll() is not None or answers(f"{url}/moto-api/"), 60)
        assert process.poll() is None, "moto's server ended at once"
        for bucket in BUCKETS:
            urllib.request.urlopen(urllib.request.Request(f"{url}/{bucket}", method="PUT"), timeout=10)
        yield environment
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def everything(folder, environ):
    """A tracking server on PostgreSQL with artifacts in S3; `environ` is given what clients of S3 need."""
    with ExitStack() as stack:
        database, keys = stack.enter_context(postgres()), stack.enter_context(s3())
        environ.update(keys)
        server = Tracking(folder, store=database, artifacts=f"s3://{BUCKETS[0]}/mlflow", keys=keys)
        stack.callback(server.end)
        server.start()
        yield server
