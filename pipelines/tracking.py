"""The driver's side of MLflow: the store, one run for each training, its params, data, environment and final status.

Explicit run ids through MlflowClient throughout, never the fluent global state: that one leaks between experiments and threads.
"""

import getpass
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from gan_core.datatypes import ImageDataset
from gan_core.losses import LOSSES
from gan_core.overrides import dumps, flatten
from gan_core.wording import brief
from pipelines import environment
from pipelines.config import JobConfig, public_uri
from pipelines.store import patient_client

CONFIG_FILE, ENVIRONMENT_FILE, ERROR_FILE = "config.yaml", "environment.json", "error.txt"
RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
RAY_JOB = "raygan.ray_job_id"  # the job that had the run last
RAY_JOB_OF = "raygan.ray_job."  # and one with the id of each that ever had it; its value is the job's mark, or UNMARKED
UNMARKED = "unmarked"
STOPPED, RESUMED = "raygan.stopped", "raygan.resumed"
RESUMPTIONS_KEPT = 20  # a tag has room for 5000 letters
PARAMS_AT_ONCE = 100  # the REST API's limit for one request


class Tracker(NamedTuple):
    """A tracking store that has answered, and the experiment in it."""

    client: MlflowClient
    uri: str
    experiment_id: str

    def page(self, run_id: str) -> str:
        """Where a browser finds the run: on the server, or behind `make ui` for a local store."""
        return f"{self._root}/#/experiments/{self.experiment_id}/runs/{run_id}?workflowType=machine_learning"

    def charts(self, condition: str, metric: str, *, ascending: bool) -> str:
        """Where a browser finds the charts of the experiment's runs that match, ordered by a metric: it draws the first ten."""
        order = {"orderByKey": f"metrics.`{metric}`", "orderByAsc": str(ascending).lower()}
        query = urlencode({"searchFilter": condition, **order, "compareRunsMode": "CHART", "workflowType": "machine_learning"})
        return f"{self._root}/#/experiments/{self.experiment_id}/runs?{query}"

    def comparison(self, runs: Sequence[str]) -> str:
        """Where a browser finds parallel coordinates, scatter, box and contour plots of these runs."""
        query = urlencode({"runs": json.dumps(list(runs)), "experiments": json.dumps([self.experiment_id])})
        return f"{self._root}/#/compare-runs?{query}"

    @property
    def _root(self) -> str:
        return (self.uri if self.uri.startswith("http") else "http://127.0.0.1:5000").rstrip("/")

    @property
    def hint(self) -> str:
        """What to do before opening that page, in brackets; nothing where a server is there already."""
        if self.uri.startswith("http"):
            return ""
        ours = self.uri == resolve_uri("sqlite:///mlflow.db") and Path("Makefile").is_file()
        command = "make ui" if ours else f"mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri {shlex.quote(self.uri)}"
        return f"   (after: {command})"


def resolve_uri(configured: str | None) -> str:
    """The tracking URI: the config's, else $MLFLOW_TRACKING_URI, else mlflow.db here; SQLite paths from the root."""
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if not isinstance(uri, str):
        raise ValueError(f"mlflow.tracking_uri: is an address, given {brief(uri)}; give a server's URL, or sqlite:///mlflow.db")
    public_uri(uri, "mlflow.tracking_uri" if configured else "$MLFLOW_TRACKING_URI")
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{os.path.abspath(uri.removeprefix('sqlite:///'))}"
    return uri


def reach(configured: str | None) -> Tracker:
    """The store, found to answer, and no experiment yet. In a fresh SQLite file this makes the tables, once, before workers start.

    Raises:
        ValueError: nothing answers there.
    """
    uri = resolve_uri(configured)
    if uri.startswith("sqlite:///") and not _sqlite_folder(uri).is_dir():
        raise ValueError(f"mlflow.tracking_uri: the folder of {uri} does not exist; make it, or give another file or a server's URL")
    try:
        client = patient_client(uri)
        client.search_experiments(max_results=1)
    except Exception as error:  # each kind of store has its own exceptions
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise ValueError(
            f"mlflow.tracking_uri: {uri} cannot be used ({reason}); start the server there, or use sqlite:///mlflow.db"
        ) from None
    return Tracker(client, uri, "")


def connect(configured: str | None, experiment: str) -> Tracker:
    """`reach` the store, and make the experiment if it is new.

    Raises:
        ValueError: nothing answers there, or the experiment was deleted.
    """
    tracker = reach(configured)
    found = tracker.client.get_experiment_by_name(experiment)
    if found is not None and found.lifecycle_stage != "active":
        raise ValueError(f"mlflow.experiment: '{experiment}' was deleted; restore it in MLflow, or use another name")
    if found is not None:
        return tracker._replace(experiment_id=found.experiment_id)
    # A server knows where its artifacts go; for a file they go beside it.
    place = (_sqlite_folder(tracker.uri) / "mlartifacts" / experiment).as_uri() if tracker.uri.startswith("sqlite:///") else None
    return tracker._replace(experiment_id=tracker.client.create_experiment(experiment, artifact_location=place))


def _sqlite_folder(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///")).parent


def create_run(
    tracker: Tracker,
    config: JobConfig,
    dataset: ImageDataset,
    name: str,
    cautions: Sequence[str] = (),
    *,
    tags: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> str:
    """A RUNNING run with params, data set, environment and config; returns its id. The tag `raygan.cautions` keeps what was warned of.

    `tags` are further ones; `facts` are those of `environment.describe` where they are known already.
    """
    facts = facts or environment.describe()
    tags = {
        **source_tags("train", f"raygan {shlex.join(sys.argv[1:])}", facts),
        **(tags or {}),
        "raygan.content_hash": dataset.content_hash,
        "raygan.bound": LOSSES[config.loss.name].bound.of + (f" of {packing} images" if (packing := config.network.packing) > 1 else ""),
    }
    if cautions:
        tags["raygan.cautions"] = "\n".join(cautions)
    run = tracker.client.create_run(tracker.experiment_id, run_name=name, tags=tags)
    run_id: str = require_run_id(run.info.run_id)
    try:
        _require_artifacts_away_from_here(tracker, run.info.artifact_uri)
        describe_run(tracker, run_id, config, dataset, facts)
    except BaseException as error:
        tracker.client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    return run_id


def require_run_id(run_id: str) -> str:
    """The id, found to be one: checkpoints lie in a folder of its name, which a server must not choose to be elsewhere.

    Raises:
        ValueError: it is none.
    """
    if not RUN_ID.fullmatch(run_id):
        raise ValueError(f"{brief(run_id)} is no run id: these are letters, digits, - and _")
    return run_id


def _require_artifacts_away_from_here(tracker: Tracker, artifact_uri: str) -> None:
    """Check that a server on another machine does not name a folder of this one: MLflow would write there whatever it was.

    Raises:
        ValueError: it does.
    """
    far = tracker.uri.startswith("http") and urlsplit(tracker.uri).hostname not in LOOPBACK
    if far and urlsplit(artifact_uri).scheme in ("", "file"):
        raise ValueError(
            f"mlflow.tracking_uri: {tracker.uri} wants its clients to write artifacts to {artifact_uri}, in their own file systems; start "
            f"the server with --artifacts-destination, so that it takes them itself"
        )


def source_tags(command: str, words: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """Who made a run, with which command, code and machine; `facts` are those of `environment.describe`."""
    tags = {
        "mlflow.source.name": f"raygan {command}",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
        "mlflow.note.content": f"`{words}`",
        "raygan.version": facts["packages"]["raygan"],
        "raygan.hardware": facts["hardware"]["summary"],
    }
    if facts["git"]["commit"]:
        tags["mlflow.source.git.commit"] = facts["git"]["commit"]
    return tags | {key: value for key, value in job_tags(facts).items() if value}


def job_tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """Which Ray job has a run; empty ones outside a job, for a run that goes on belongs to its former job no more. That it did is kept."""
    job, mark = facts["ray_job"] or "", facts["ray_submission"] or ""
    lasting = {f"{RAY_JOB_OF}{job}": mark or UNMARKED} if environment.JOB_NAME.fullmatch(job) else {}
    return {RAY_JOB: job, environment.SUBMISSION: mark, **lasting}


def describe_run(tracker: Tracker, run_id: str, config: JobConfig, dataset: ImageDataset, facts: Mapping[str, Any]) -> None:
    """Params, data set, environment and config, this one last: where it is, the others are; repeating changes nothing."""
    params = [Param(key, value) for key, value in flatten(config).items()]
    for first in range(0, len(params), PARAMS_AT_ONCE):
        tracker.client.log_batch(run_id, params=params[first : first + PARAMS_AT_ONCE], synchronous=True)
    tracker.client.log_inputs(run_id, [_dataset_input(dataset)])
    log_json(tracker, run_id, facts, ENVIRONMENT_FILE)
    write_config(tracker, run_id, config)


def write_config(tracker: Tracker, run_id: str, config: JobConfig) -> None:
    """Store the resolved config; a resumed run's may differ from the params, which MLflow does not let change."""
    tracker.client.log_text(run_id, dumps(config.model_dump()), CONFIG_FILE)


def reopen_run(tracker: Tracker, run_id: str, config: JobConfig, before: Mapping[str, str]) -> str:
    """Set a past run RUNNING again, and note when, after what, and what its continuation changes. Why it was stopped is history then.

    Returns what its last driver has not said itself, as a sentence; empty where that set a status.
    """
    run = tracker.client.get_run(run_id)
    stopped = run.data.tags.get(STOPPED, "")
    news = "" if stopped or run.info.status != "RUNNING" else "its last driver ended without a word: killed, or the tracking store was away"
    past = run.data.tags.get(RESUMED, "").splitlines()
    count = int(past[-1].partition(":")[0]) + 1 if past else 1
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    history = [*past, f"{count}: {now}, {news or ' '.join(filter(None, ('was', run.info.status, stopped)))}"][-RESUMPTIONS_KEPT:]
    tracker.client.update_run(run_id, status="RUNNING")
    changed = {key: value for key, value in flatten(config).items() if before.get(key) != value}
    tags = [RunTag(f"raygan.resumed.{key}", value) for key, value in changed.items()]
    tags += [RunTag(key, value) for key, value in job_tags(environment.job()).items()]
    tags.append(RunTag(RESUMED, "\n".join(history)))
    tracker.client.log_batch(run_id, tags=tags, synchronous=True)
    if stopped:
        tracker.client.delete_tag(run_id, STOPPED)
    write_config(tracker, run_id, config)
    return news


def log_json(tracker: Tracker, run_id: str, value: Mapping[str, Any], file: str) -> None:
    """Store `value` as a JSON artifact."""
    tracker.client.log_text(run_id, json.dumps(value, indent=2), file)


def log_values(tracker: Tracker, run_id: str, values: Mapping[str, float], step: int, *, milliseconds: int | None = None) -> None:
    """Metrics that the driver knows, such as the times of the start. Given its time, a call that is repeated changes nothing."""
    at = int(time.time() * 1000) if milliseconds is None else milliseconds
    points = [Metric(key, value, at, step) for key, value in values.items()]
    tracker.client.log_batch(run_id, metrics=points, synchronous=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user id has no name
        return str(os.getuid())


def _dataset_input(dataset: ImageDataset) -> DatasetInput:
    profile = {
        "images": len(dataset),
        "resolution": dataset.resolution,
        "channels": dataset.channels,
        "classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "content_hash": dataset.content_hash,
    }
    entity = Dataset(
        name=dataset.name,
        digest=dataset.content_hash[:32],
        source_type="local",
        source=json.dumps({"uri": dataset.source}),
        profile=json.dumps(profile),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])
