"""What is known of past runs: their config, their points, whether they can go on."""

import tempfile
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from gan_core.datatypes import ImageDataset
from gan_core.overrides import loads
from pipelines import run_writer, storage
from pipelines.config import JobConfig
from pipelines.tracking import CONFIG_FILE, RUN_ID, Tracker, require_run_id


def read_config(tracker: Tracker, run_id: str) -> dict[str, Any]:
    """The resolved config of a past run.

    Raises:
        ValueError: no such run, it was not made by raygan, or the store fails.
    """
    try:
        require_run_id(tracker.client.get_run(require_run_id(run_id)).info.run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise ValueError(
                f"run '{run_id}' cannot be read from {tracker.uri} ({str(error).splitlines()[0][:300]}); repeat the command"
            ) from None
        raise ValueError(f"no run '{run_id}' in {tracker.uri}; run ids are in the MLflow UI, and `raygan train` prints them") from None
    if tracker.client.get_run(run_id).data.tags.get("raygan.kind") == "sweep":
        raise ValueError(f"run {run_id} is a sweep; take its best.yaml, or the id of one of its trials, which its report lists")
    if not is_described(tracker, run_id):
        raise ValueError(f"run {run_id} in {tracker.uri} has no {CONFIG_FILE}: raygan did not make it")
    return loads(read_text(tracker, run_id, CONFIG_FILE), f"config of run {run_id}")


def named_run(tracker: Tracker, experiment: str, name: str) -> Run | None:
    """The newest run called `name` in the experiment, of those that were made completely; None where there is none.

    Raises:
        ValueError: the name cannot be searched for.
    """
    if "'" in name or '"' in name:
        raise ValueError(f"--once: a name without quotes is needed, given {name}")
    found = tracker.client.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = tracker.client.search_runs([found.experiment_id], f"attributes.run_name = '{name}'", order_by=["attributes.start_time DESC"])
    return next((run for run in runs if is_described(tracker, run.info.run_id)), None)


def is_described(tracker: Tracker, run_id: str) -> bool:
    """Whether `describe_run` was completed."""
    return CONFIG_FILE in {artifact.path for artifact in tracker.client.list_artifacts(run_id)}


def read_text(tracker: Tracker, run_id: str, file: str) -> str:
    """A text artifact of a run."""
    with tempfile.TemporaryDirectory() as folder:
        return Path(tracker.client.download_artifacts(run_id, file, folder)).read_text()


def knows(tracker: Tracker, run_id: str) -> bool:
    """Whether the store has such a run."""
    try:
        tracker.client.get_run(run_id)
    except MlflowException:
        return False
    return RUN_ID.fullmatch(run_id) is not None


def require_continuation(tracker: Tracker, run_id: str, config: JobConfig, dataset: ImageDataset, *, local: bool) -> Tracker:
    """Check that a past run can go on with this data, from this storage; returns the tracker of its experiment.

    Raises:
        ValueError: other data, no checkpoint where there must be one, or a run of Ray's that `--local` would spoil.
    """
    run = tracker.client.get_run(run_id)
    if run.info.lifecycle_stage != "active":
        raise ValueError(f"run {run_id} was deleted; restore it in MLflow first")
    before = run.data.tags.get("raygan.content_hash", "")
    if before != dataset.content_hash:
        raise ValueError(
            f"run {run_id} was trained on other data: content hash {before[:12]}, now {dataset.content_hash[:12]} from {dataset.source}"
        )
    seen, place = run.data.metrics.get(run_writer.CLOCK, 0.0), config.ray.storage_path
    if seen > config.schedule.checkpoint_kimg * 1000 + config.batch_size * config.ratio.d and not storage.has_checkpoint(place, run_id):
        raise ValueError(f"ray.storage_path: no checkpoint of run {run_id} in {place}, though it saw {seen:,.0f} images; give its storage")
    if local and (Path(place) / run_id / storage.RAY_TRAIN_LIST).is_file():
        raise ValueError(f"run {run_id} was trained through Ray, which keeps its own list of checkpoints; resume it without --local")
    return tracker._replace(experiment_id=run.info.experiment_id)


def histories(tracker: Tracker, run_id: str, prefix: str) -> dict[str, list[tuple[int, float]]]:
    """Every point (step, value) of the run's metrics whose names begin so, in order of their steps."""
    keys = [key for key in tracker.client.get_run(run_id).data.metrics if key.startswith(prefix)]
    return {key: sorted((point.step, point.value) for point in tracker.client.get_metric_history(run_id, key)) for key in keys}
