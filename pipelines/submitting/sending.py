"""A job on its way: its runtime environment, what a client tells of itself, and the request, sent once."""

import os
import re
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ray.exceptions import AuthenticationError

from gan_core.wording import holds_secret
from pipelines import environment
from pipelines.submitting.address import LOOPBACK, Cluster, is_here
from pipelines.submitting.following import info
from pipelines.submitting.orders import Order

SEND_SECONDS = 600.0
STOP_SECONDS = 60  # between SIGTERM and SIGKILL: time for a checkpoint, where Ray's default is 3
SECRET = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL|AUTH|COOKIE|PRIVATE|SAS", re.IGNORECASE)
CREDENTIALS = (
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_AWS_SIGV4"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS"),
    *("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCESS_KEY", "HF_TOKEN"),
)


class Terms(NamedTuple):
    """How a job is to run: its id, the mark that is its alone, its variables, and what its command itself takes of the cluster."""

    job: str
    mark: str
    variables: dict[str, str]
    cpus: float
    gpus: float


def terms(job: str, variables: dict[str, str], cpus: float, gpus: float) -> Terms:
    """Those of a new job."""
    return Terms(job, secrets.token_hex(8), variables, cpus, gpus)


def name_of(given: str | None, command: str) -> str:
    """The id of a new job.

    Raises:
        ValueError: the one given is no name.
    """
    if given is None:
        return f"raygan-{command}-{secrets.token_hex(4)}"
    return require_name(given, "--submission-id")


def require_name(job: str, option: str) -> str:
    """Check an id: it becomes part of addresses and of file names.

    Raises:
        ValueError: it holds other signs than those of names.
    """
    if not environment.JOB_NAME.fullmatch(job):
        raise ValueError(f"{option}: {job!r} is no job's id; letters, digits, '.', '_' and '-' make one")
    return job


def variables(order: Order, passed: Sequence[str]) -> dict[str, str]:
    """The job's environment beside the cluster's own. Ray's dashboard, `ray job list` and the cluster's store show it: no secrets.

    Raises:
        ValueError: a variable that is to be passed is not set, or is a secret.
    """
    found = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    if order.tracking_uri:
        found["MLFLOW_TRACKING_URI"] = order.tracking_uri
    for name in passed:
        value = os.environ.get(name)
        if value is None:
            raise ValueError(f"--pass-env: {name} is not set here")
        if SECRET.search(name) or name in CREDENTIALS or holds_secret(value):
            raise ValueError(
                f"--pass-env: {name} looks like a secret, and Ray's dashboard, `ray job list` and the cluster's store show a job's "
                f"environment; give it to the cluster's own environment (infra/README.md)"
            )
        found[name] = value
    return found


def warn_of_credentials() -> None:
    """Say which secrets are set here, and that the job has those of the cluster instead."""
    if here := [name for name in CREDENTIALS if os.environ.get(name)]:
        print(
            f"raygan submit: {', '.join(here)}: set here and not sent, for a job's environment is shown; the job has those of the "
            f"cluster's own environment",
            file=sys.stderr,
        )


def require_reached(order: Order, cluster: Cluster) -> None:
    """Check that the tracking store is not one of this machine, where the cluster is not.

    Raises:
        ValueError: it is.
    """
    uri = order.tracking_uri
    if uri and not is_here(cluster.address) and (uri.startswith("sqlite:") or urlsplit(uri).hostname in LOOPBACK):
        raise ValueError(
            f"mlflow.tracking_uri: {uri} is on this machine, and the cluster is at {cluster.address}; give a server's URL there"
        )


def send(cluster: Cluster, order: Order, terms: Terms, packed: bytes) -> None:
    """Submit the job.

    Raises:
        ValueError: the cluster does not take it.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "package.zip"
        archive.write_bytes(packed)
        request = {
            "entrypoint": order.entrypoint,
            "submission_id": terms.job,
            "runtime_env": {"working_dir": str(archive), "env_vars": terms.variables},
            "metadata": _metadata(order, terms),
            "entrypoint_num_cpus": terms.cpus or None,
            "entrypoint_num_gpus": terms.gpus or None,
        }
        try:
            cluster.ask(lambda: cluster.client.submit_job(**request), SEND_SECONDS)
        except AuthenticationError as error:
            raise ValueError(f"{cluster.address} does not take the job: {str(error).splitlines()[0]}") from None
        except (RuntimeError, OSError) as error:
            if "already exists" in str(error):
                raise ValueError(
                    f"--submission-id: the cluster has a job {terms.job}; give another id, or follow that one by --logs"
                ) from None
            if not _arrived(cluster, terms.job):
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise ValueError(f"{cluster.address} does not take the job: {reason[-1][:300]}") from None


def _arrived(cluster: Cluster, job: str) -> bool:
    """Whether the job is there, though the answer to its request was lost."""
    try:
        info(cluster, job)
    except (RuntimeError, OSError, AuthenticationError):
        return False
    return True


def _metadata(order: Order, terms: Terms) -> dict[str, str]:
    """What the job says of itself: where its runs are, and the commit of the code, which travels without its history."""
    facts: dict[str, Any] = {
        environment.SUBMISSION: terms.mark,
        "raygan.command": order.command,
        "raygan.tracking_uri": order.tracking_uri,
        "raygan.git_commit": environment.git()["commit"],
        "raygan.uncommitted_changes": environment.git()["uncommitted_changes"],
    }
    return {key: str(value) for key, value in facts.items() if value is not None}
