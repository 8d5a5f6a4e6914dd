"""One training from the driver's chair: the MLflow run, Ray or this process, the final model, and the last words."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from urllib.parse import quote

import psutil
from mlflow.exceptions import MlflowException

from gan_core import evaluation
from pipelines import environment, export, past, storage, tracking
from pipelines.completion import Ride, brief, leave, registered, say, take_scores
from pipelines.config import JobConfig
from pipelines.desk import SAMPLES
from pipelines.guard import only_driver
from pipelines.patience import end_early
from pipelines.plan import Plan, Ready, nothing_to_do
from pipelines.progress import Progress
from pipelines.session import Job, Outcome
from pipelines.signals import Asked, Interrupted, deaf, gently, status_of, terminable
from pipelines.statuses import FAILED, USAGE
from pipelines.tracking import Tracker

Launcher = Callable[[Job, JobConfig, Progress, Asked], Outcome]


def run(plan: Plan, ready: Ready, *, local: bool) -> int:
    """Train as planned; returns the exit status."""
    config, dataset, clock, run_id = plan.config, ready.dataset, Stopwatch(), ""
    with terminable(), _left_in_peace() as stack:
        try:
            tracker = tracking.connect(config.mlflow.tracking_uri, config.mlflow.experiment)
            if plan.resume:
                tracker = past.require_continuation(tracker, plan.resume, config, dataset, local=local)
            export.require_registry(tracker, config.mlflow.registered_model)
            clock.lap("tracking")
            launch = _launcher(config, tracker, stack, local=local)
            clock.lap("ray")
            if plan.once and not plan.resume:
                name = quote(plan.name, safe="")  # of a file
                stack.enter_context(_alone(f"once-{tracker.experiment_id}-{name}", config, local=local))
                found = past.named_run(tracker, config.mlflow.experiment, plan.name)
                if found is not None and found.info.status == "FINISHED":  # while the other driver was waited for
                    return nothing_to_do(plan.name, found.info.run_id)
                if found is not None:
                    raise ValueError(f"--once: a run called {plan.name} has just been started; repeat the command to go on with it")
            if plan.resume:
                stack.enter_context(_alone(plan.resume, config, local=local))
                if plan.once and tracker.client.get_run(plan.resume).info.status == "FINISHED":
                    return nothing_to_do(plan.name, plan.resume)
                run_id = plan.resume  # ours only now: until the guard it may be another driver's, whose status is not ours to set
                if news := tracking.reopen_run(tracker, run_id, config, plan.before):
                    say(f"run {run_id}: {news}")
            else:
                run_id = tracking.create_run(tracker, config, dataset, plan.name, ready.cautions)
                stack.enter_context(_alone(run_id, config, local=local))
            clock.lap("mlflow_run")
        except KeyboardInterrupt as interruption:
            again = f"; continue it with: {_again(plan, plan.resume, local=local)}" if plan.resume else ", nothing was started"
            with deaf():
                print(f"\ninterrupted before the training began{again}", file=sys.stderr)
                if run_id:
                    end_early(tracker, run_id, "KILLED")
            return status_of(interruption)
        except _refusals() as error:
            print(f"raygan train: {error}", file=sys.stderr)
            if run_id:
                end_early(tracker, run_id, "FAILED", error=str(error))
            return FAILED if run_id else USAGE
        return _train(Ride(plan, dataset, tracker, run_id, local), launch, clock)


@contextmanager
def _left_in_peace() -> Iterator[ExitStack]:
    """A stack whose leaving no signal disturbs: what the command did is done, and leaving a cluster takes seconds."""
    stack = ExitStack()
    try:
        yield stack
    finally:
        with deaf():
            stack.close()


def _refusals() -> tuple[type[Exception], ...]:
    """What a user can mend, Ray's own errors among it where Ray is there at all."""
    rays = sys.modules.get("ray.exceptions")
    return (ValueError, OSError, MlflowException, *([rays.RayError] if rays else []))


def _alone(key: str, config: JobConfig, *, local: bool) -> AbstractContextManager[None]:
    """Guarded in the cluster too, unless it is ours and nobody else's."""
    if local:
        return only_driver(key, config.ray.storage_path, say)
    from pipelines.cluster import started_here

    return only_driver(key, config.ray.storage_path, say, in_cluster=not started_here())


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
    remedy = f"continue it with: {_again(ride.plan, run_id, local=ride.local)}"
    kept = "no new checkpoint"
    try:
        doing = "resuming" if ride.plan.resume else "training"
        print(f"{doing} run {run_id}: {config.total_kimg:g} kimg of {ride.dataset.name}", flush=True)
        job = Job(config=config.model_dump(), tracking_uri=tracker.uri, run_id=run_id, content_hash=ride.dataset.content_hash)
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
            take_scores(ride, outcome)
        clock.worker_laps(outcome)
        model = leave(ride, outcome, clock.metrics())
        model, unregistered = registered(ride, outcome, model)
        ride.patiently(lambda: tracker.client.set_terminated(run_id, "FINISHED"))
    except KeyboardInterrupt as interruption:
        with deaf():
            by = interruption.cause if isinstance(interruption, Interrupted) else "Ctrl-C"
            end_early(tracker, run_id, "KILLED", tags={tracking.STOPPED: f"by {by}, {kept}"})
            print(f"\ninterrupted by {by}, {kept}; {remedy}", file=sys.stderr)
            return status_of(interruption)
    except Exception as error:  # whatever it was, the run in MLflow must say that it failed, and the user what to do
        with deaf():
            end_early(tracker, run_id, "FAILED", error=str(error))
            print(f"\nraygan train: run {run_id} failed: {brief(error)}\n{remedy}", file=sys.stderr)
            return FAILED
    print(_summary(ride, outcome, model, clock))
    if unregistered:
        print(unregistered, file=sys.stderr)
        return FAILED
    return 0


def _again(plan: Plan, run_id: str, *, local: bool) -> str:
    """The command that continues the run; in a job, whose user is on another machine, also the one for there."""
    uri = plan.config.mlflow.tracking_uri
    words = f"train --resume {run_id}" + (f" mlflow.tracking_uri={uri}" if uri else "")
    return f"raygan {words} --local" if local else f"raygan {words}{environment.from_afar(words)}"


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
