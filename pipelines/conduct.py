"""One training from the driver's chair: the MLflow run, Ray or this process, the final model, and the last words."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import psutil
from mlflow.exceptions import MlflowException

from gan_core import evaluation
from gan_core.datatypes import ImageDataset
from pipelines import export, storage, tracking
from pipelines.config import JobConfig
from pipelines.desk import SAMPLES
from pipelines.guard import only_driver
from pipelines.patience import end_early, patiently
from pipelines.plan import Plan, Ready
from pipelines.progress import Progress
from pipelines.session import Job, Outcome
from pipelines.signals import Asked, Interrupted, gently, status_of, terminable
from pipelines.statuses import FAILED, USAGE
from pipelines.tracking import Tracker

LINES_SHOWN = 8


class Ride(NamedTuple):
    """One training and where it is tracked."""

    plan: Plan
    dataset: ImageDataset
    tracker: Tracker
    run_id: str
    local: bool


Launcher = Callable[[Job, JobConfig, Progress, Asked], Outcome]


def run(plan: Plan, ready: Ready, *, local: bool) -> int:
    """Train as planned; returns the exit status."""
    config, dataset, clock, run_id = plan.config, ready.dataset, Stopwatch(), ""
    with ExitStack() as stack:
        try:
            stack.enter_context(terminable())
            tracker = tracking.connect(config.mlflow.tracking_uri, config.mlflow.experiment)
            if plan.resume:
                tracker = tracking.require_continuation(tracker, plan.resume, config, dataset, local=local)
            if plan.once and not plan.resume:
                stack.enter_context(only_driver(f"once-{tracker.experiment_id}-{plan.name}", config.ray.storage_path, say))
                if tracking.named_run(tracker, config.mlflow.experiment, plan.name) is not None:
                    raise ValueError(f"--once: a run called {plan.name} has just been started; repeat the command to go on with it")
            export.require_registry(tracker, config.mlflow.registered_model)
            clock.lap("tracking")
            launch = _launcher(config, tracker, stack, local=local)
            clock.lap("ray")
            if plan.resume:
                run_id = plan.resume
                stack.enter_context(only_driver(run_id, config.ray.storage_path, say, in_cluster=not local))
                tracking.reopen_run(tracker, run_id, config, plan.before)
            else:
                run_id = tracking.create_run(tracker, config, dataset, plan.name, ready.cautions)
                stack.enter_context(only_driver(run_id, config.ray.storage_path, say, in_cluster=not local))
            clock.lap("mlflow_run")
        except KeyboardInterrupt as interruption:
            again = f"; continue it with: {_again(plan, plan.resume, local=local)}" if plan.resume else ", nothing was started"
            print(f"\ninterrupted before the training began{again}", file=sys.stderr)
            if run_id:
                end_early(tracker, run_id, "KILLED")
            return status_of(interruption)
        except (ValueError, ConnectionError, OSError, MlflowException) as error:
            print(f"raygan train: {error}", file=sys.stderr)
            return USAGE
        print(f"{'resuming' if plan.resume else 'training'} run {run_id}: {config.total_kimg:g} kimg of {dataset.name}", flush=True)
        return _train(Ride(plan, dataset, tracker, run_id, local), launch, clock)


def _launcher(config: JobConfig, tracker: Tracker, stack: ExitStack, *, local: bool) -> Launcher:
    """What runs the job: here, or on a cluster that the stack leaves."""
    if local:
        from pipelines import local as here

        return here.launch
    from pipelines import launch

    stack.enter_context(launch.cluster(config))
    launch.require_reachable_from_all_nodes(tracker.uri)
    return launch.launch


def _train(ride: Ride, launch: Launcher, clock: "Stopwatch") -> int:
    config, tracker, run_id = ride.plan.config, ride.tracker, ride.run_id
    job = Job(config=config.model_dump(), tracking_uri=tracker.uri, run_id=run_id, content_hash=ride.dataset.content_hash)
    remedy = f"continue it with: {_again(ride.plan, run_id, local=ride.local)}"
    kept = "no new checkpoint"
    try:
        with _closed(Progress(config.total_kimg, evaluation.objective(config.gan(), ride.dataset)[0])) as progress, gently() as asked:
            outcome = launch(job, config, progress, asked)
        if outcome["stopped"]:
            assert asked.signum is not None, "nothing else stops a training that is not a trial"
            kept = f"checkpoint at {outcome['images_seen'] / 1000:.1f} kimg"
            raise Interrupted(asked.signum)
        if outcome["failure"] and not outcome["resumable"]:  # resuming would repeat it
            remedy = f"start again with other settings: raygan train --from-run {run_id} key=value ..."
        if outcome["failure"] or outcome["undelivered"]:
            raise RuntimeError(" ".join(filter(None, (outcome["failure"], outcome["undelivered"]))))
        if config.ray.asynchronous_evaluation:
            patiently(lambda: _take_scores(ride, outcome), config.mlflow.delivery_timeout_seconds, say)
        clock.worker_laps(outcome)
        model = patiently(lambda: _finish(ride, outcome, clock), config.mlflow.delivery_timeout_seconds, say)
        model, unregistered = _registered(ride, outcome, model)
        patiently(lambda: tracker.client.set_terminated(run_id, "FINISHED"), config.mlflow.delivery_timeout_seconds, say)
    except KeyboardInterrupt as interruption:
        by = interruption.name if isinstance(interruption, Interrupted) else "Ctrl-C"
        end_early(tracker, run_id, "KILLED", tags={"raygan.stopped": f"by {by}, {kept}"})
        print(f"\ninterrupted by {by}, {kept}; {remedy}", file=sys.stderr)
        return status_of(interruption)
    except Exception as error:  # whatever it was, the run in MLflow must say that it failed, and the user what to do
        end_early(tracker, run_id, "FAILED", error=str(error))
        print(f"\nraygan train: run {run_id} failed: {_brief(error)}\n{remedy}", file=sys.stderr)
        return FAILED
    print(_summary(ride, outcome, model, clock))
    if unregistered:
        print(unregistered, file=sys.stderr)
        return FAILED
    return 0


def _take_scores(ride: Ride, outcome: Outcome) -> None:
    """The scores that were made beside the training, from MLflow to where those of the workers would be.

    Raises:
        RuntimeError: the config names an objective, and the last checkpoint was not scored by it.
    """
    config = ride.plan.config
    objective, sign = evaluation.objective(config.gan(), ride.dataset)
    histories = tracking.histories(ride.tracker, ride.run_id, evaluation.PREFIX)
    outcome["last_scores"] = {key: points[-1][1] for key, points in histories.items() if points[-1][0] == outcome["images_seen"]}
    if points := histories.get(objective):
        step, value = min(points, key=lambda point: sign * point[1])
        outcome["best"] = {objective: value, "images_seen": float(step)}
    if config.evaluation.objective and objective not in outcome["last_scores"]:
        raise RuntimeError(f"evaluation.objective: {config.evaluation.objective} could not be measured at the end; see the run's tags")


def _finish(ride: Ride, outcome: Outcome, clock: "Stopwatch") -> str:
    """Log the model and what the workers said of themselves; returns the model's URI."""
    plan, dataset, tracker, run_id, _ = ride
    with storage.latest(plan.config.ray.storage_path, run_id) as folder:
        model = export.log_generator(tracker, run_id, plan.config.gan(), dataset, folder)
    if not plan.resume:
        tracking.log_values(tracker, run_id, clock.metrics(), step=0)
    tracker.client.set_tag(run_id, "raygan.worker_hardware", outcome["hardware"])
    tracker.client.set_tag(run_id, "raygan.precision", outcome["precision"])
    return model


def _registered(ride: Ride, outcome: Outcome, model: str) -> tuple[str, str]:
    """The model's address, and what to tell where it was to be registered and could not: the training is complete all the same."""
    name = ride.plan.config.mlflow.registered_model
    if name is None:
        return model, ""
    try:
        version = patiently(lambda: _register(ride, outcome, model), ride.plan.config.mlflow.delivery_timeout_seconds, say)
    except Exception as error:  # each kind of store has its own exceptions
        return model, (
            f"\nraygan train: run {ride.run_id} is finished, but its model could not be registered as {name}: {_brief(error)}\n"
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


def _again(plan: Plan, run_id: str, *, local: bool) -> str:
    """The command that continues the run."""
    uri = plan.config.mlflow.tracking_uri
    return f"raygan train --resume {run_id}" + (f" mlflow.tracking_uri={uri}" if uri else "") + (" --local" if local else "")


def _brief(error: Exception) -> str:
    """Ray's errors hold whole tracebacks: their first and last lines say what and why."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if len(lines) <= LINES_SHOWN:
        return str(error)
    return f"{lines[0]}\n  {lines[-1].strip()}\nThe whole error is in the run's {tracking.ERROR_FILE}."


def say(sentence: str) -> None:
    """A line for the user."""
    print(sentence, file=sys.stderr, flush=True)


def _summary(ride: Ride, outcome: Outcome, model: str, clock: "Stopwatch") -> str:
    config, tracker, run_id = ride.plan.config, ride.tracker, ride.run_id
    folder, ranks = f"{config.ray.storage_path}/{run_id}", len(outcome["peak_memory_bytes"])
    workers = f"for each of {ranks} workers" if ranks > 1 else "with one worker"
    lines = [
        f"\ntrained {outcome['images_seen'] / 1000:.1f} kimg: {outcome['d_steps']} discriminator steps, {outcome['g_steps']} generator "
        f"steps, {outcome['device_seconds']:.0f} device seconds, {outcome['images_seen'] / outcome['device_seconds']:.0f} images/s "
        f"{workers}",
        *_score_lines(outcome),
        f"start-up     {clock.text()}",
        f"peak memory  {', '.join(f'{peak / 1e6:.0f} MB' for peak in outcome['peak_memory_bytes'])} (by worker)",
        f"samples      {folder}/{storage.checkpoint_name(outcome['images_seen'])}/{SAMPLES}",
        f"checkpoints  {folder}",
        f"model        {model}",
        f"run          {tracker.page(run_id)}{tracker.hint}",
    ]
    return "\n".join(lines)


def _score_lines(outcome: Outcome) -> list[str]:
    """A line for each score: before the first step if that was measured, at the end, and of the best checkpoint if it decides that."""
    first, best, lines = outcome["first_scores"], outcome["best"], []
    for key, value in outcome["last_scores"].items():
        if not key.endswith("_error"):
            before = f"{_number(first[key])} before, " if key in first else ""
            at_best = f"; best {_number(best[key])}" if key in best else ""
            lines.append(f"{key.removeprefix(evaluation.PREFIX):12} {before}{_number(value)} after{at_best}")
    return lines


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1.0 and value == int(value) else f"{value:.4f}"


@contextmanager
def _closed(progress: Progress) -> Iterator[Progress]:
    try:
        yield progress
    finally:
        progress.close()


class Stopwatch:
    """Where the time from the command to the first step went, in seconds by name; and then how long the loop took, reports included."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {"imports_config_data": time.time() - psutil.Process().create_time()}
        self.last = time.time()
        self.loop_seconds = 0.0

    def lap(self, name: str) -> None:
        """The time since the last lap belongs to `name`."""
        now = time.time()
        self.laps[name], self.last = now - self.last, now

    def worker_laps(self, outcome: Outcome) -> None:
        """The laps that the worker timed, from the launch to the moment before the first step."""
        self.laps["workers"] = outcome["entered_at"] - self.last
        self.laps["build"] = outcome["built_at"] - outcome["entered_at"]
        self.laps["first_scores"] = outcome["training_at"] - outcome["built_at"]
        self.loop_seconds = outcome["finished_at"] - outcome["training_at"]

    def metrics(self) -> dict[str, float]:
        """For MLflow."""
        return {f"startup/{name}_seconds": seconds for name, seconds in self.laps.items()} | {"timing/loop_seconds": self.loop_seconds}

    def text(self) -> str:
        """For the terminal."""
        return f"{sum(self.laps.values()):.1f} s: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.laps.items())
