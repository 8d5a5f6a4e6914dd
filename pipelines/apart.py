"""Checkpoints scored by a Ray task of their own while training goes on, so that a slow metric never holds the workers.

Ray Train calls `score` for each checkpoint that a worker reports for validation: one at a time, in the order they were made, also after a
restart of its controller, and before the run ends; it deletes no checkpoint that waits. Imports are inside, as in rank.py.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from ray.train import Checkpoint

    from pipelines.config import JobConfig
    from pipelines.worker import Job

CLOCK = "progress/images_scored"


class Told(TypedDict):
    """What the task is told: the job, MLflow's credentials, and the board for sentences to the user."""

    job: "Job"
    credentials: dict[str, str]
    board: Any


def score(checkpoint: "Checkpoint", told: Told) -> dict[str, float]:
    """Score the averaged generator of a checkpoint, log that at its place on the clock, and keep the checkpoint if it is the best."""
    os.environ.update(told["credentials"])  # for MLflow; not in the runtime environment, which the dashboard shows
    name = Path(checkpoint.path).name
    try:
        with checkpoint.as_directory() as folder:
            return _score(Path(folder), checkpoint, told)
    except Exception as error:
        told["board"].put.remote(f"{name} could not be scored: {error}")
        raise


def _score(folder: Path, checkpoint: "Checkpoint", told: Told) -> dict[str, float]:
    import torch

    from gan_core import Trainer, evaluation
    from gan_core import checkpoint as stored
    from gan_core.overrides import validate
    from pipelines import storage
    from pipelines.config import JobConfig

    config = validate(told["job"]["config"], JobConfig)
    if not torch.cuda.is_available():  # Ray hides GPUs from a task that did not ask for one
        torch.set_num_threads(max(1, int(config.ray.evaluation_cpus)))
    trainer = Trainer(config.gan())
    trainer.load_state_dict(stored.load(folder))
    assert trainer.judge is not None, "this trainer evaluates"
    scores = evaluation.score(trainer.judge, trainer.parts, config.gan())
    before = _deliver(trainer.images_seen, scores, config, told)
    objective, sign = evaluation.objective(config.gan(), trainer.parts.dataset)
    now = scores.values.get(objective)
    if now is not None and all(sign * now <= sign * value for value in before[objective]):
        storage.keep_best(checkpoint.filesystem, str(Path(checkpoint.path).parent), folder, trainer.images_seen)
    said = "  ".join(f"{key.partition('/')[2]} {value:.4g}" for key, value in scores.values.items() if not key.endswith("_error"))
    told["board"].put.remote(f"scores at {trainer.images_seen / 1000:.1f} kimg: {said or 'none'}")
    return scores.values


def _deliver(images_seen: int, scores: Any, config: "JobConfig", told: Told) -> dict[str, list[float]]:
    """Write scores and their tags to MLflow, once whatever is repeated; returns every score's values so far, these included."""
    from pipelines.run_writer import RunWriter, patient_client
    from pipelines.worker import tags_of

    uri, run_id = told["job"]["tracking_uri"], told["job"]["run_id"]
    writer = RunWriter(uri, run_id, say=told["board"].put.remote, clock=CLOCK)
    writer.add(images_seen, scores.values, None, tags_of(scores, images_seen))
    writer.close(config.mlflow.delivery_timeout_seconds)
    client = patient_client(uri)
    return {key: [point.value for point in client.get_metric_history(run_id, key)] for key in scores.values}
