"""What a trained run leaves in MLflow: its last scores, its model, and what the workers said of themselves. All of it may be repeated: a
store that hiccups has everything once.
"""

import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from gan_core import evaluation
from gan_core.datatypes import ImageDataset
from pipelines import export, past, storage, tracking
from pipelines.patience import patiently
from pipelines.plan import Plan
from pipelines.session import Outcome
from pipelines.tracking import Tracker

LINES_SHOWN = 8
T = TypeVar("T")


class Ride(NamedTuple):
    """One training and where it is tracked."""

    plan: Plan
    dataset: ImageDataset
    tracker: Tracker
    run_id: str
    local: bool

    def patiently(self, action: Callable[[], T]) -> T:
        """Repeat an action on the tracking store for as long as the config says."""
        return patiently(action, self.plan.config.mlflow.delivery_timeout_seconds, say)


def take_scores(ride: Ride, outcome: Outcome) -> None:
    """The scores that were made beside the training, from MLflow to where those of the workers would be.

    Raises:
        RuntimeError: the config names an objective, and the last checkpoint was not scored by it.
    """
    config = ride.plan.config
    objective, sign = evaluation.objective(config.gan(), ride.dataset)
    histories = ride.patiently(lambda: past.histories(ride.tracker, ride.run_id, evaluation.PREFIX))
    outcome["last_scores"] = {key: points[-1][1] for key, points in histories.items() if points[-1][0] == outcome["images_seen"]}
    if points := histories.get(objective):
        step, value = min(points, key=lambda point: sign * point[1])
        outcome["best"] = {objective: value, "images_seen": float(step)}
    if config.evaluation.objective and objective not in outcome["last_scores"]:
        raise RuntimeError(f"evaluation.objective: {config.evaluation.objective} could not be measured at the end; see the run's tags")


def leave(ride: Ride, outcome: Outcome, laps: Mapping[str, float]) -> str:
    """Log the model, how long things took, and what the workers said of themselves; returns the model's URI.

    Each call is repeated by itself. A metric's point that comes again with the same time and value is the same point to MLflow.
    """
    plan, tracker, run_id, now = ride.plan, ride.tracker, ride.run_id, int(time.time() * 1000)

    def log_model() -> str:
        with storage.latest(plan.config.ray.storage_path, run_id) as folder:
            return export.log_generator(tracker, run_id, plan.config.gan(), ride.dataset, folder)

    model = ride.patiently(log_model)
    if not plan.resume:
        ride.patiently(lambda: tracking.log_values(tracker, run_id, laps, step=0, milliseconds=now))
    ride.patiently(lambda: tracker.client.set_tag(run_id, "raygan.worker_hardware", outcome["hardware"]))
    ride.patiently(lambda: tracker.client.set_tag(run_id, "raygan.precision", outcome["precision"]))
    return model


def registered(ride: Ride, outcome: Outcome, model: str) -> tuple[str, str]:
    """The model's address, and what to tell where it was to be registered and could not: the training is complete all the same."""
    name = ride.plan.config.mlflow.registered_model
    if name is None:
        return model, ""
    try:
        version = ride.patiently(lambda: _register(ride, outcome, model))
    except Exception as error:  # each kind of store has its own exceptions
        return model, (
            f"\nraygan train: run {ride.run_id} is finished, but its model could not be registered as {name}: {brief(error)}\n"
            f"register it with: python -c \"import mlflow; mlflow.register_model('{model}', '{name}')\""
        )
    return f"{version} ({model})", ""


def _register(ride: Ride, outcome: Outcome, model: str) -> str:
    """Make the model a version of the registered model that the config names; returns its address."""
    config, name = ride.plan.config, ride.plan.config.mlflow.registered_model
    assert name is not None, "asked for only where the config names one"
    objective, _ = evaluation.objective(config.gan(), ride.dataset)
    scores = outcome["last_scores"]
    tags = {"raygan.score": f"{objective.removeprefix(evaluation.PREFIX)} {scores[objective]:.6g}"} if objective in scores else {}
    return export.register(ride.tracker, name, model, ride.run_id, tags=tags)


def brief(error: Exception) -> str:
    """Ray's errors hold whole tracebacks: their first and last lines say what and why."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if len(lines) <= LINES_SHOWN:
        return str(error)
    return f"{lines[0]}\n  {lines[-1].strip()}\nThe whole error is in the run's {tracking.ERROR_FILE}."


def say(sentence: str) -> None:
    """A line for the user."""
    print(sentence, file=sys.stderr, flush=True)
