"""Checkpoints scored by a Ray task of their own while training goes on, so that a slow metric never holds the workers.

Ray Train calls `score` for each checkpoint that a worker reports for validation: one at a time, in the order they were made, also after a
restart of its controller, and before the run ends; it deletes no checkpoint that waits. `score` itself does nothing but wait for a second
task, which works, and for another one where its process died: Ray Train would otherwise end the training with it.
Imports are inside, as in rank.py.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from ray.train import Checkpoint

    from gan_core.judge import Scores
    from pipelines.config import JobConfig
    from pipelines.session import Job

CLOCK, UNSCORED_TAG = "progress/images_scored", "evaluation.unscored."
TRIES = 3  # of a task whose process or node dies; what it delivered before is not delivered again


class Told(TypedDict):
    """What the task is told: the job, MLflow's credentials, and the board for sentences to the user."""

    job: "Job"
    credentials: dict[str, str]
    board: Any


def score(checkpoint: "Checkpoint", told: Told) -> dict[str, float]:
    """Have a checkpoint scored by a task with the resources for it; a failure is told to the user, and kept as a tag of the run.

    Raises:
        RuntimeError: it was not scored. Ray Train notes that, and the run goes on.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError

    asked, name = told["job"]["config"]["ray"], Path(checkpoint.path).name
    task = ray.remote(work).options(num_cpus=asked["evaluation_cpus"], num_gpus=asked["evaluation_gpus"], max_retries=0)
    for attempt in range(1, TRIES + 1):
        result = task.remote(checkpoint, told)
        try:
            values: dict[str, float] = ray.get(result, timeout=asked["evaluation_timeout_seconds"])
            return values
        except GetTimeoutError:
            ray.cancel(result, force=True)
            reason = f"it took longer than ray.evaluation_timeout_seconds, {asked['evaluation_timeout_seconds']:g}"
            break
        except RayTaskError as error:
            reason = f"{type(error.cause).__name__}: {error.cause}"
            break
        except RayError as error:  # the worker or its node died
            reason = str(error).splitlines()[0]
            if attempt < TRIES:
                told["board"].put.remote(f"the task that scored {name} is lost, and another one begins: {reason}")
    _tell_failure(name, reason, told)
    raise RuntimeError(reason)


def _tell_failure(name: str, reason: str, told: Told) -> None:
    from pipelines.store import patient_client

    told["board"].put.remote(f"{name} could not be scored: {reason}")
    os.environ.update(told["credentials"])
    client = patient_client(told["job"]["tracking_uri"])
    client.set_tag(told["job"]["run_id"], f"{UNSCORED_TAG}{name}", reason)


def work(checkpoint: "Checkpoint", told: Told) -> dict[str, float]:
    """Score the averaged generator of a checkpoint, log that at its place on the clock, and keep the checkpoint if it is the best.

    Raises:
        EvaluationError: the config names an objective, and it could not be measured; what could is logged first.
    """
    os.environ.update(told["credentials"])  # for MLflow; not in the runtime environment, which the dashboard shows
    with checkpoint.as_directory() as folder:
        return _score(Path(folder), checkpoint, told)


def _score(folder: Path, checkpoint: "Checkpoint", told: Told) -> dict[str, float]:
    import torch

    from gan_core import Trainer, evaluation
    from gan_core import checkpoint as stored
    from gan_core.overrides import validate
    from pipelines import shelf, storage
    from pipelines.config import JobConfig

    config = validate(told["job"]["config"], JobConfig)
    if not torch.cuda.is_available():  # Ray hides GPUs from a task that did not ask for one
        torch.set_num_threads(max(1, int(config.ray.evaluation_cpus)))
    trainer = Trainer(config.gan())
    trainer.load_state_dict(stored.load(folder))
    assert trainer.judge is not None, "this trainer evaluates"
    scores = evaluation.score(trainer.judge, trainer.parts, config.gan())
    so_far = _deliver(trainer.images_seen, scores, config, told)
    objective, sign = evaluation.objective(config.gan(), trainer.parts.dataset)
    now = scores.values.get(objective)
    if now is not None and all(sign * now <= sign * value for value in so_far[objective]):
        place = storage.Place(checkpoint.filesystem, str(Path(checkpoint.path).parent))
        shelf.keep_best(place, folder, trainer.images_seen)
    _tell(trainer.images_seen, scores, told)
    evaluation.require_objective(scores, config.gan())
    return scores.values


def _deliver(images_seen: int, scores: "Scores", config: "JobConfig", told: Told) -> dict[str, list[float]]:
    """Write scores and their tags to MLflow, once whatever is repeated; returns every score's values so far, these included.

    Raises:
        ValueError: the run has scores that were made otherwise, by an extractor of another node say.
    """
    import json

    from gan_core.provenance import Provenance, require_same
    from pipelines.desk import PROVENANCE_TAG, tags_of
    from pipelines.run_writer import RunWriter
    from pipelines.store import patient_client

    uri, run_id = told["job"]["tracking_uri"], told["job"]["run_id"]
    client = patient_client(uri)
    before = client.get_run(run_id).data.tags.get(PROVENANCE_TAG)
    if before is not None:
        require_same(Provenance.from_dict(json.loads(before)), scores.provenance, f"the scores of run {run_id}")
    writer = RunWriter(uri, run_id, say=told["board"].put.remote, clock=CLOCK)
    writer.add(images_seen, scores.values, None, tags_of(scores, images_seen))
    writer.close(config.mlflow.delivery_timeout_seconds)
    return {key: [point.value for point in client.get_metric_history(run_id, key)] for key in scores.values}


def _tell(images_seen: int, scores: "Scores", told: Told) -> None:
    """The scores, and what could not be measured, to the user."""
    named = [f"{key.partition('/')[2]} {value:.4g}" for key, value in scores.values.items() if not key.endswith("_error")]
    told["board"].put.remote(f"scores at {images_seen / 1000:.1f} kimg: {'  '.join(named) or 'none'}")
    for metric, reason in scores.failures.items():
        told["board"].put.remote(f"{metric} could not be measured at {images_seen / 1000:.1f} kimg: {reason}")
